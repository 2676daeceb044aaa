"""Scoring from the command line: what is wrong with a bag is said, the others are scored, people decide the rest."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import pytest

from grape.cli import main
from grape_episode.episode import PERSON_DROVE, Series
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.reviews import read_reviews
from grape_reward.tasks import SHIPPED, TASKS


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def grape(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process, with its exit status and what it printed."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["grape", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run


def lines(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A success, one whose last observation shows no carrot, and one that was cut off."""
    root = tmp_path_factory.mktemp("bags")
    write_episode(make_episode(1, steps=8, episode_id="good"), root / "good")
    doubtful = make_episode(2, steps=8, success=False, episode_id="doubtful")
    points = doubtful.keypoints.values.copy()
    points[-1, 0] = np.nan
    series = dataclasses.replace(doubtful.keypoints, values=points)
    write_episode(dataclasses.replace(doubtful, keypoints=series), root / "doubtful")
    (file,) = write_episode(make_episode(3, steps=8), root / "cut").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-100])
    return root


def test_the_damaged_is_named_the_undecided_waits_for_a_person_and_the_table_is_written(grape, bags, tmp_path):
    out = tmp_path / "scores.parquet"
    done = grape("score", bags, "--objective", "safety", "--out", out)
    assert done.returncode == 1
    told = lines(done)
    assert [str(bags / name) in line for name, line in zip(("doubtful", None, "cut"), told, strict=False) if name]
    assert "a person must decide on it: the last observation: lost keypoint carrot" in told[0]
    assert "cut off" in told[2] and told[-1] == "grape: 1 of 3 bags were skipped"
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert [(row["episode_id"], row["outcome"], row["objective"]) for row in rows] == [
        ("doubtful", "review", "safety"), ("good", "success", "safety"),
    ]  # fmt: skip
    assert rows[0]["log_r_ext"] is None and rows[1]["approved"]


def test_a_persons_word_is_kept_beside_the_bag_and_the_score_hears_it(grape, bags, tmp_path):
    shutil.copytree(bags / "doubtful", tmp_path / "doubtful")
    command = ("episodes", "review", tmp_path / "doubtful", "--success", "no", "--note", "it fell", "--who", "ana")
    done = grape(*command)
    assert done.returncode == 0, done.stderr
    (entry,) = read_reviews(tmp_path / "doubtful")
    assert (entry.success, entry.who, entry.note, entry.episode_id) == ("no", "ana", "it fell", "doubtful")
    out = tmp_path / "scores.csv"
    done = grape("score", tmp_path / "doubtful", "--out", out)
    assert done.returncode == 0 and lines(done) == [] and "failure" in done.stdout
    assert "no, by ana on " in out.read_text()
    listed = grape("episodes", "reviews", tmp_path)
    assert listed.returncode == 0 and "it fell" in listed.stdout


def test_nobody_decides_by_maybe_and_no_bag_is_decided_on_where_one_is_missing(grape, bags, tmp_path):
    shutil.copytree(bags / "good", tmp_path / "good")
    done = grape("episodes", "review", tmp_path / "good", "--success", "maybe", "--note", "")
    assert done.returncode == 2 and "maybe" in done.stderr
    done = grape("episodes", "review", tmp_path / "good", tmp_path / "no", "--success", "no", "--note", "")
    assert done.returncode == 1 and len(lines(done)) == 1 and str(tmp_path / "no") in lines(done)[0]
    assert read_reviews(tmp_path / "good") == ()


def test_a_task_of_ones_own_needs_an_approval_or_a_word(grape, bags, tmp_path):
    shutil.copytree(SHIPPED / "carrot_on_plate", tmp_path / "tasks" / "carrot_on_plate")
    (tmp_path / "tasks" / "carrot_on_plate" / "approvals.yaml").unlink()
    done = grape("score", bags / "good", "--tasks", tmp_path / "tasks")
    assert done.returncode == 1 and "carrot_on_plate" in lines(done)[0] and "--unapproved" in lines(done)[0]
    done = grape("score", bags / "good", "--tasks", tmp_path / "tasks", "--unapproved")
    assert done.returncode == 0 and "unapproved" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--out", "scores.txt"), "scores.txt: the name must end in .parquet"),
        (("--tasks", "empty"), "empty: holds no task.yaml"),
        (("--lambdas", "generous"), "lambdas: 'generous'"),
        (("--stage-points", "none.json"), "none.json"),
        (("--objective", "speed"), "unknown objective 'speed'"),
        (("--track", "starts"), "--track and --calibration go together"),
    ],
)
def test_a_wrong_option_is_named_in_a_line(grape, bags, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    done = grape("score", bags / "good", *arguments)
    assert done.returncode == 1 and named in lines(done)[0]


def test_tasks_are_listed_and_a_mistake_in_one_is_named_with_its_field(grape, tmp_path):
    shutil.copytree(SHIPPED / "carrot_on_plate", tmp_path / "carrot_on_plate")
    file = tmp_path / "carrot_on_plate" / "task.yaml"
    done = grape("tasks", "list", "--tasks", tmp_path)
    assert done.returncode == 0 and all(name in done.stdout for name in TASKS)
    done = grape("tasks", "check", tmp_path / "carrot_on_plate")
    assert done.returncode == 0 and "stage3_path_constraint1" in done.stdout and "integral" in done.stdout
    file.write_text(file.read_text().replace("over: plate", "over: cup"))
    for arguments in (("list", "--tasks", tmp_path), ("check", file)):
        done = grape("tasks", *arguments)
        assert done.returncode == 1 and f"{file}: success.when.all[1].over: no keypoint 'cup'" in lines(done)[0]


def test_an_episode_in_which_a_person_drove_is_scored_and_named(grape, tmp_path):
    made = make_episode(1, steps=8, episode_id="taken")
    moves = Series(made.tcp.stamps[2:4], np.zeros((2, 7)))
    bag = write_episode(dataclasses.replace(made, operator=moves), tmp_path / "taken")
    out = tmp_path / "scores.parquet"
    done = grape("score", bag, "--out", out)
    assert done.returncode == 0 and "interfered" in done.stdout
    assert lines(done) == [f"grape: {bag}: {PERSON_DROVE}: its score is not the policy's, and it does not train"]
    assert pyarrow.parquet.read_table(out).column("intervention").to_pylist() == [PERSON_DROVE]
