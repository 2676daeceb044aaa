"""The files of a LeRobot dataset, format v3.0, as LeRobot's own writer lays them out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from grape_trainer.export.frames import Layout
from grape_trainer.files import write_json

VERSION = "v3.0"
"""``codebase_version`` that LeRobot 0.4 to 0.6 write and read."""
FILES_A_CHUNK = 1000
FILE_MB = 100
_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA, EPISODES = f"data/{_PLACE}", f"meta/episodes/{_PLACE}"
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class DataFiles:
    """data/: one row group an episode; the next file once one holds ``file_mb`` megabytes."""

    def __init__(self, root: Path, features: Mapping[str, Mapping[str, Any]], file_mb: float = FILE_MB) -> None:
        self.root, self.limit = root, file_mb * 1024 * 1024
        self.schema = _schema(features)
        self.place = (0, -1)
        self._stream: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, columns: Mapping[str, NDArray[Any] | Sequence[bytes]]) -> tuple[int, int]:
        """Append an episode; returns the chunk and file it went to. Pictures are PNG files as bytes."""
        if self._stream is None or self._writer is None or self._stream.tell() >= self.limit:
            self._next()
        assert self._writer is not None
        arrays = [_array(columns[field.name], field.type) for field in self.schema]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        return self.place

    def close(self) -> None:
        """End the file at hand."""
        if self._writer is not None:
            self._writer.close()
        if self._stream is not None:
            self._stream.close()
        self._writer = self._stream = None

    def _next(self) -> None:
        self.close()
        chunk, file = self.place
        self.place = (chunk, file + 1) if file + 1 < FILES_A_CHUNK else (chunk + 1, 0)
        path = self.root / DATA.format(chunk_index=self.place[0], file_index=self.place[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("xb")
        self._writer = pq.ParquetWriter(self._stream, self.schema, compression="snappy")


def _schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    fields, told = [], {}
    for name, feature in features.items():
        kind: pa.DataType = _PICTURE
        entry: dict[str, Any] = {"_type": "Image"}
        if feature["dtype"] != "image":
            kind = pa.bool_() if feature["dtype"] == "bool" else pa.from_numpy_dtype(np.dtype(feature["dtype"]))
            entry = {"dtype": feature["dtype"], "_type": "Value"}
            if feature["shape"] != [1]:
                kind = pa.list_(kind, feature["shape"][0])
                entry = {"feature": entry, "length": feature["shape"][0], "_type": "List"}
        fields.append((name, kind))
        told[name] = entry
    # without it the `datasets` library would take pictures for structs
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": told}})})


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if kind == _PICTURE:
        return pa.array([{"bytes": value, "path": None} for value in values], kind)
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.array(values, kind)


def write_tasks(root: Path, tasks: Sequence[str]) -> None:
    """meta/tasks.parquet; the instruction is the index of the data frame that pandas makes of it, as LeRobot wants."""
    columns = [_pandas("task_index", "int64", "int64"), _pandas("task", "unicode", "object")]
    level = {**_pandas("", "unicode", "object"), "name": None, "field_name": None, "metadata": {"encoding": "UTF-8"}}
    told = {"index_columns": ["task"], "column_indexes": [level], "columns": columns, "pandas_version": "2.3.3"}
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(told)})
    table = pa.table([list(range(len(tasks))), list(tasks)], schema=schema)
    (root / "meta").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / "meta/tasks.parquet", compression="snappy")


def _pandas(name: str, kind: str, numpy_type: str) -> dict[str, Any]:
    return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}


def write_episodes(root: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> None:
    """meta/episodes: a row each. ``types``: of columns whose type their values may not tell."""
    path = root / EPISODES.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    placed = [{**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0} for row in rows]
    arrays = [pa.array([row[name] for row in placed], types.get(name)) for name in placed[0]]
    pq.write_table(pa.Table.from_arrays(arrays, names=list(placed[0])), path, compression="snappy")


def write_info(root: Path, layout: Layout, episodes: int, frames: int, tasks: int) -> None:
    """meta/info.json."""
    write_json(
        root / "meta/info.json",
        {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": tasks,
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": 200,
            "fps": layout.fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA,
            "video_path": None,
            "features": layout.features(),
        },
    )
