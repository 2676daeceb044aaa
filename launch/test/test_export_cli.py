"""`grape export` from the command line: what is written, what is skipped and said, what is refused."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from grape.cli import main
from grape_episode.synthetic import make_episode, write_episode


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("grape:")]


@pytest.fixture
def grape(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process, with its exit status and what it printed."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["grape", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rollouts from one initial state: one succeeds."""
    root = tmp_path_factory.mktemp("bags")
    for seed, success in ((1, True), (2, False)):
        write_episode(make_episode(seed, steps=8, success=success), root / f"bag{seed}")
    return root


def test_a_whole_folder_of_bags_becomes_a_dataset(grape, bags, tmp_path):
    done = grape("export", bags, "--format", "lerobot", "--out", tmp_path / "out")
    assert (done.returncode, done.lines) == (0, [])
    assert done.stdout == f"{tmp_path / 'out'}: 2 episodes, 16 frames, 1 pairs\n"
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["total_frames"] == 16
    again = grape("export", bags, "--out", tmp_path / "out")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.lines == [f"grape: {tmp_path / 'out'}: is there already; nothing is overwritten"]


def test_a_damaged_bag_is_named_and_the_exit_status_says_so(grape, bags, tmp_path):
    (file,) = write_episode(make_episode(3, steps=8), tmp_path / "cut").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-100])
    done = grape("export", bags, tmp_path / "cut", "--out", tmp_path / "out", "--ranking", "none")
    assert done.returncode == 1 and "2 episodes, 16 frames" in done.stdout and (tmp_path / "out/meta").is_dir()
    assert len(done.lines) == 2 and done.lines[1] == "grape: 1 of 3 bags were skipped"
    assert str(file) in done.lines[0] and "cut off" in done.lines[0]


def test_what_nobody_knows_is_said(grape, bags, tmp_path):
    episode = make_episode(4, steps=8, task="juggle", episode_id="odd")
    outcome = dataclasses.replace(episode.outcome, success_reward=-1)
    write_episode(dataclasses.replace(episode, outcome=outcome), tmp_path / "odd")
    done = grape("export", bags, tmp_path / "odd", "--out", tmp_path / "out")
    assert done.returncode == 0 and len(done.lines) == 2
    assert "1 episodes have no score" in done.lines[0] and "juggle" in done.lines[0]
    assert done.lines[1] == "grape: next.reward and next.success left out: success unknown in odd"


def test_scores_of_grape_score_are_taken(grape, bags, tmp_path):
    assert grape("score", bags, "--out", tmp_path / "scores.jsonl").returncode == 0
    assert grape("export", bags, "--out", tmp_path / "a", "--score-file", tmp_path / "scores.jsonl").returncode == 0
    assert grape("export", bags, "--out", tmp_path / "b").returncode == 0
    for name in ("grape/episodes.json", "grape/pairs.json", "data/chunk-000/file-000.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--no-scores",), "--no-scores leaves nothing to make pairs of"),
        (("--pairs", "nowhere.json"), "nowhere.json: No such file or directory"),
        (("--score-file", "nowhere.jsonl"), "nowhere.jsonl: No such file or directory"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(grape, bags, tmp_path, arguments, said):
    done = grape("export", bags, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 1 and len(done.lines) == 1 and said in done.lines[0]
    assert list(tmp_path.iterdir()) == []


def test_no_bag_and_another_format_are_refused(grape, bags, tmp_path):
    done = grape("export", "--out", tmp_path / "out")
    assert done.returncode == 1 and "no bag named" in done.lines[0]
    assert grape("export", bags, "--out", tmp_path / "out", "--format", "rlds").returncode == 2
