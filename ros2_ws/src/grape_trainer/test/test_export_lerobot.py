"""A LeRobot dataset from bags: read back without our code, by pyarrow here and by LeRobot's own reader where it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from grape_episode.synthetic import make_episode, write_episode
from grape_trainer.errors import PairsError
from grape_trainer.export import lerobot
from grape_trainer.export.frames import ExportError
from grape_trainer.export.lerobot import Export, Exported, export_lerobot
from grape_trainer.pairs import read_pairs, write_pairs

ROOT = Path(__file__).resolve().parents[4]
IMAGE = "observation.images.model_input"
STATE_FIELDS = ("observation.state", "action", "grape.tokens", "grape.log_probs")


def told(*_) -> None:
    """No progress is shown."""


def run(out: Path, *paths: Path, **other) -> Exported:
    return export_lerobot(Export(paths=paths, out=out, **other), told, told)


EPISODES = [
    make_episode(1, steps=8, success=True, initial_state=100_000, episode_id="a"),
    make_episode(2, steps=9, success=False, initial_state=100_000, episode_id="b"),
    make_episode(3, steps=7, success=True, initial_state=100_001, task="spoon_on_towel", episode_id="c"),
]
"""In the order of the export: by task, variant, initial state, id."""


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bags")
    for episode in EPISODES:
        write_episode(episode, root / f"bag_{episode.identity.episode_id}")
    return root


@pytest.fixture(scope="module")
def dataset(bags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "nested" / "dataset"
    assert run(out, bags) == Exported(out, 3, 24, 1, 0, (), (), ())
    return out


def steps() -> list:
    return [step for episode in EPISODES for step in episode.steps]


def frames(dataset: Path) -> list[dict]:
    return pq.read_table(dataset / "data/chunk-000/file-000.parquet").to_pylist()


def meta(dataset: Path, name: str) -> dict:
    return json.loads((dataset / name).read_text())


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_frame_reads_back_with_its_picture_bit_for_bit(dataset):
    found = frames(dataset)
    assert len(found) == 24
    for row, step in zip(found, steps(), strict=True):
        picture = cv2.imdecode(np.frombuffer(row[IMAGE]["bytes"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(picture, step.image) and row[IMAGE]["path"] is None
        assert row["grape.tokens"] == step.tokens.tolist() and row["grape.log_probs"] == step.logprobs.tolist()
        assert row["action"] == step.action.astype(np.float32).tolist()
        assert row["observation.state"][7] == np.float32(step.gripper_width)
        assert row["grape.stamp"] == step.stamp
    assert [row["index"] for row in found] == list(range(24))
    assert [row["episode_index"] for row in found] == [0] * 8 + [1] * 9 + [2] * 7
    assert [row["frame_index"] for row in found] == [*range(8), *range(9), *range(7)]
    assert [row["task_index"] for row in found] == [0] * 17 + [1] * 7
    assert [n for n, row in enumerate(found) if row["next.done"]] == [7, 16, 23]
    assert [n for n, row in enumerate(found) if row["next.reward"]] == [7, 23]
    assert [row["timestamp"] for row in found[:3]] == pytest.approx([0.0, 0.2, 0.4])


def test_the_meta_data_counts_names_and_points_at_the_frames(dataset):
    info = meta(dataset, "meta/info.json")
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 5, {"train": "0:3"})
    assert [info[f"total_{name}"] for name in ("episodes", "frames", "tasks")] == [3, 24, 2]
    assert info["features"][IMAGE]["shape"] == [32, 32, 3]
    assert info["features"]["action"]["info"]["rotation"] == "euler_xyz"
    assert info["features"]["action"]["info"]["units"][:4] == ["m", "m", "m", "rad"]
    assert list(frames(dataset)[0]) == list(info["features"])
    tasks = pq.read_table(dataset / "meta/tasks.parquet").to_pydict()
    assert tasks == {"task_index": [0, 1], "task": ["put the carrot on the plate", "put the spoon on the towel"]}
    rows = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in rows] == [
        (0, 8, 8),
        (8, 17, 9),
        (17, 24, 7),
    ]
    assert [row["tasks"] for row in rows] == [tasks["task"][:1], tasks["task"][:1], tasks["task"][1:]]
    assert [(row["grape/episode_id"], row["grape/success"]) for row in rows] == [("a", 1), ("b", 0), ("c", 1)]


def test_the_statistics_are_those_of_the_frames(dataset):
    found, stats = frames(dataset), meta(dataset, "meta/stats.json")
    assert list(stats) == list(found[0])
    for name in (*STATE_FIELDS, "timestamp", "next.reward"):
        values = np.array([row[name] for row in found], np.float64).reshape(24, -1)
        assert stats[name]["mean"] == pytest.approx(values.mean(axis=0).tolist())
        assert stats[name]["q99"] == pytest.approx(np.quantile(values, 0.99, axis=0).tolist())
        assert stats[name]["count"] == [24]
    seen = np.stack([step.image for step in steps()]).reshape(-1, 3) / 255
    assert np.array(stats[IMAGE]["std"]).shape == (3, 1, 1)
    assert np.array(stats[IMAGE]["std"]).reshape(3) == pytest.approx(seen.std(axis=0))
    (row, *_) = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    first = np.array([step.action for step in EPISODES[0].steps], np.float32)
    assert row["stats/action/max"] == first.max(axis=0).tolist() and row["stats/action/count"] == [8]


def test_pairs_and_episodes_beside_are_by_index_and_id(dataset):
    told = meta(dataset, "grape/pairs.json")
    (pair,) = told["pairs"]
    assert (pair["chosen"], pair["rejected"], pair["chosen_id"], pair["rejected_id"]) == (0, 1, "a", "b")
    assert pair["margin"] > 0 and told["not_exported"] == told["excluded"] == []
    told = meta(dataset, "grape/episodes.json")
    for number, (entry, episode) in enumerate(zip(told["episodes"], EPISODES, strict=True)):
        assert (entry["episode_index"], entry["episode_id"]) == (number, episode.identity.episode_id)
        assert entry["identity"] == json.loads(json.dumps(dataclasses.asdict(episode.identity)))
        assert entry["score"]["episode_id"] == entry["episode_id"] and len(entry["score"]["score_hash"]) == 64
        assert entry["success"] == entry["score"]["success"] == episode.outcome.success_reward
    assert [entry["dataset_from_index"] for entry in told["episodes"]] == [0, 8, 17]


def test_what_the_world_judged_is_nowhere(dataset):
    # training never sees it, other people's neither
    text = "".join(path.read_text() for path in dataset.rglob("*.json"))
    assert not any(name in text for name in ("success_world", "contact_force", "clearance", "grasped"))


def test_the_same_bags_give_the_same_bytes_in_any_order(bags, dataset, tmp_path):
    run(tmp_path / "again", *sorted(bags.iterdir(), reverse=True))
    assert content(tmp_path / "again") == content(dataset)


@pytest.mark.parametrize("there", ["folder", "file", "dangling"])
def test_what_is_there_is_never_overwritten(bags, tmp_path, there):
    out = tmp_path / "out"
    {
        "folder": out.mkdir,
        "file": lambda: out.write_text("mine"),
        "dangling": lambda: out.symlink_to(tmp_path / "nowhere"),
    }[there]()
    with pytest.raises(ExportError, match="out: is there already"):
        run(out, bags)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_breaks_off_leaves_nothing(bags, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(lerobot, "write_info", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ExportError):
        run(tmp_path / "out", bags)
    assert list(tmp_path.iterdir()) == []


def test_a_pairs_file_names_the_bags_and_its_pairs_are_taken_as_they_are(bags, tmp_path):
    made = lerobot.build(k.entry for k in lerobot.survey([bags], Export((), tmp_path).scorer, told).episodes)
    (pair,) = made.pairs
    edited = dataclasses.replace(made, pairs=(dataclasses.replace(pair, margin=0.5),), ranking="by hand")
    write_pairs(tmp_path / "pairs.json", edited)
    assert run(tmp_path / "whole", pairs=tmp_path / "pairs.json").pairs == 1
    found = meta(tmp_path / "whole", "grape/pairs.json")
    assert found["ranking"] == "by hand" and found["pairs"][0]["margin"] == 0.5
    # only one side is exported
    done = run(tmp_path / "half", bags / "bag_a", pairs=tmp_path / "pairs.json", scorer=None)
    assert (done.pairs, done.lost, done.unscored) == (0, 1, ("not asked for",))
    assert meta(tmp_path / "half", "grape/pairs.json")["not_exported"] == [
        {"chosen_id": "a", "rejected_id": "b", "missing": ["b"]}
    ]
    assert read_pairs(tmp_path / "pairs.json").pairs == edited.pairs
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(PairsError, match=r"pairs.json: format is None"):
        run(tmp_path / "none", bags, pairs=tmp_path / "pairs.json")


def test_without_pairs_there_is_no_pairs_file(bags, tmp_path):
    assert run(tmp_path / "out", bags, ranking="").pairs is None
    assert not (tmp_path / "out/grape/pairs.json").exists()
    with pytest.raises(ExportError, match="no bag named"):
        run(tmp_path / "other")


def test_episodes_that_cannot_be_compared_are_named(bags, tmp_path):
    write_episode(make_episode(9, steps=5, base_hash="d" * 64, episode_id="z"), tmp_path / "z")
    with pytest.raises(ExportError, match=r"no pairs can be made.*base_hash differs"):
        run(tmp_path / "out", bags, tmp_path / "z")
    assert run(tmp_path / "out", bags, tmp_path / "z", ranking="").episodes == 4


def test_unknown_success_leaves_reward_out_and_names_the_episode(bags, tmp_path):
    episode = make_episode(4, steps=5, task="juggle", episode_id="x")
    assert episode.outcome is not None
    outcome = dataclasses.replace(episode.outcome, success_reward=-1)
    write_episode(dataclasses.replace(episode, outcome=outcome), tmp_path / "x")
    done = run(tmp_path / "out", bags, tmp_path / "x")
    assert done.unknown == ("x",) and len(done.unscored) == 1 and "juggle" in done.unscored[0]
    assert not {"next.reward", "next.success"} & set(meta(tmp_path / "out", "meta/info.json")["features"])
    rows = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert {row["grape/episode_id"]: row["grape/success"] for row in rows} == {"a": 1, "b": 0, "c": 1, "x": None}
    assert meta(tmp_path / "out", "grape/episodes.json")["episodes"][2]["score"] is None  # by the task's name


def test_pictures_of_two_sizes_do_not_fit(bags, tmp_path):
    write_episode(make_episode(4, steps=5, image_size=48, episode_id="x"), tmp_path / "x")
    with pytest.raises(ExportError, match="x: step 0: its image is 48x48, the dataset's are 32x32"):
        run(tmp_path / "out", bags, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def lerobot_python() -> str | None:
    """The Python of an environment with LeRobot: GRAPE_LEROBOT_PYTHON, or what `make setup-lerobot` made."""
    made = ROOT / ".venv-lerobot/bin/python"
    named = os.environ.get("GRAPE_LEROBOT_PYTHON")
    return named or (str(made) if made.exists() else None)


@pytest.mark.skipif(
    lerobot_python() is None,
    reason="no LeRobot: `make setup-lerobot`, or name a Python of your own in GRAPE_LEROBOT_PYTHON",
)
def test_lerobots_own_reader_sees_what_was_recorded(dataset, tmp_path):
    python = lerobot_python()
    assert python is not None
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    # nothing of this environment: its packages are others
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("lerobot_reader.py")
    command = [python, str(script), str(copy), str(tmp_path / "scratch")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({name: found[name] for name in ("lerobot", "torch", "format", "episodes", "frames")}))

    def digest(values: np.ndarray) -> str:
        return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

    recorded = {
        "observation.state": np.array([[*s.tcp.position, *s.tcp.quaternion, s.gripper_width] for s in steps()]),
        "action": np.array([s.action for s in steps()]),
        "grape.tokens": np.array([s.tokens for s in steps()]),
        "grape.log_probs": np.array([s.logprobs for s in steps()]),
    }
    assert found["images"] == digest(np.stack([s.image for s in steps()]))
    assert found["vectors"] == {name: digest(v.astype(found["dtypes"][name])) for name, v in recorded.items()}
    assert found["dtypes"]["grape.tokens"] == "int64" and found["dtypes"]["action"] == "float32"
    assert (found["format"], found["fps"], found["episodes"], found["frames"]) == ("v3.0", 5, 3, 24)
    assert found["lengths"] == [8, 9, 7] and found["episode_ids"] == ["a", "b", "c"]
    assert found["tasks"] == [s.instruction for s in steps()] and found["stamps"] == [s.stamp for s in steps()]
    assert found["episode_index"] == [0] * 8 + [1] * 9 + [2] * 7
    assert [n for n, done in enumerate(found["done"]) if done] == [7, 16, 23]
    assert [n for n, reward in enumerate(found["reward"]) if reward] == [7, 23]
    assert found["window"] == {"frames": 9, "action": [3, 7], "image": [2, 3, 32, 32], "padded": [False, True, True]}
    assert found["batch"][IMAGE] == [4, 3, 32, 32]
    assert found["policy_features"] == {
        IMAGE: ["VISUAL", [3, 32, 32]],
        "observation.state": ["STATE", [8]],
        "action": ["ACTION", [7]],
    }
    assert max(found["stats_gap"].values()) < 1e-8
    assert found["rest"] == [2, 16, [3, 32, 32]] and found["merged"] == [5, 40, True]
