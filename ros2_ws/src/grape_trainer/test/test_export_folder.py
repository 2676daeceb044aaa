"""The files of a LeRobot dataset: where episodes go, how they are typed."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq

from grape_episode.synthetic import make_episode
from grape_trainer.export import folder
from grape_trainer.export.folder import DataFiles, write_episodes, write_tasks
from grape_trainer.export.frames import IMAGE, Layout, columns, pictures, png

LAYOUT = Layout(0.2, 32, 32, "euler_xyz", True)


def rows(seed: int, steps: int) -> dict:
    episode = make_episode(seed, steps=steps)
    index = np.zeros(steps, np.int64)
    own = {"episode_index": index + seed, "index": index, "task_index": index}
    return {**columns(episode, LAYOUT, 1), **own, IMAGE: [png(image) for image in pictures(episode, LAYOUT)]}


def test_a_row_group_an_episode_and_another_file_once_one_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "FILES_A_CHUNK", 2)
    files = DataFiles(tmp_path, LAYOUT.features(), file_mb=0.05)  # 6 steps are some 18 kB of noise
    lengths = [6, 7, 6, 8, 6, 6, 9, 6]
    places = [files.add(rows(n, steps)) for n, steps in enumerate(lengths)]
    files.close()
    assert places[0] == (0, 0) and places == sorted(places) and (0, 1) in places and (1, 0) in places
    assert {file for _, file in places} == {0, 1}
    for place in set(places):
        own = [n for n, found in enumerate(places) if found == place]
        path = tmp_path / f"data/chunk-{place[0]:03d}/file-{place[1]:03d}.parquet"
        found = pq.ParquetFile(path)
        assert [found.read_row_group(i)["episode_index"][0].as_py() for i in range(found.num_row_groups)] == own
        assert [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)] == [lengths[n] for n in own]


def test_the_schema_says_what_the_datasets_library_asks(tmp_path):
    files = DataFiles(tmp_path, LAYOUT.features())
    files.add(rows(1, 3))
    files.close()
    schema = pq.read_schema(tmp_path / "data/chunk-000/file-000.parquet")
    told = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(told) == schema.names == list(LAYOUT.features())
    assert told[IMAGE] == {"_type": "Image"}
    assert told["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 7, "_type": "List"}
    assert told["index"] == {"dtype": "int64", "_type": "Value"}
    assert str(schema.field("observation.state").type) == "fixed_size_list<element: float>[8]"
    assert str(schema.field("next.done").type) == "bool"


def test_an_instruction_is_the_index_of_its_task(tmp_path):
    write_tasks(tmp_path, ["put the carrot on the plate", "stack"])
    table = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["put the carrot on the plate", "stack"]}
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_what_nobody_knows_is_null_and_still_typed(tmp_path):
    write_episodes(tmp_path, [{"episode_index": 0, "grape/success": None}], {"grape/success": folder.pa.int64()})
    table = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    assert str(table.schema.field("grape/success").type) == "int64"
    assert table.to_pylist() == [
        {"episode_index": 0, "grape/success": None, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    ]
