"""`grape pairs`: what is paired and what is not, each with its reason, in a file that may be edited and trained on."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from grape import align, pairs_show
from grape.cli import app
from grape.console import one_line
from grape_episode.episode import Outcome
from grape_episode.synthetic import make_episode, write_episode
from grape_policy.testing import write_random_checkpoint
from grape_trainer.errors import TrainerError
from grape_trainer.pairs import read_pairs


def grape(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exit_code and done.exception is not None and not isinstance(done.exception, SystemExit):
        assert type(done.exception).__module__.startswith("grape"), repr(done.exception)
    return done


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Two states with a success and a failure each, and all that can be wrong with a bag."""
    folder = tmp_path / "bags"
    for state in (100_000, 100_001):
        for success in (True, False):
            name = f"e{state}-{success}"
            episode = make_episode(
                seed=state + success, initial_state=state, success=success, steps=6 + success, episode_id=name
            )
            write_episode(episode, folder / name)
    shutil.copytree(folder / "e100000-True", folder / "copied")
    whole = write_episode(make_episode(seed=9, episode_id="cut"), folder / "cut")
    file = next(whole.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    episode = make_episode(seed=8, steps=1, episode_id="stepless")
    outcome = Outcome("error", "", 0, 0, False, episode.steps[0].stamp)
    write_episode(replace(episode, steps=(), gate=(), outcome=outcome), folder / "stepless")
    return folder


def test_pairs_of_equal_success_are_kept_as_the_usual_preset_says(tmp_path: Path) -> None:
    for state, successes in ((100_000, (True, False)), (100_001, (True, True)), (100_002, (False, False))):
        for number, success in enumerate(successes):
            name = f"e{state}-{number}"
            episode = make_episode(
                seed=state + number, initial_state=state, success=success, steps=8 + number, episode_id=name
            )
            write_episode(episode, tmp_path / "bags" / name)

    def pairs(*options: object) -> int:
        out = tmp_path / "pairs.json"
        done = grape("pairs", tmp_path / "bags", "--out", out, "--overwrite", *options)
        assert done.exit_code == 0, done.output
        return len(read_pairs(out).pairs)

    assert pairs() == pairs("--equal-success", "none") == 1
    assert pairs("--objective", "safety") == pairs("--equal-success", "successes") == 2
    assert pairs("--equal-success", "all") == pairs("--ranking", "paper") == 3


def test_every_bag_is_paired_or_left_out_with_its_reason(bags: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.json"
    done = grape("pairs", bags, "--out", out)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 3
    for name, reason in (("e100000-True", "a second time"), ("cut", "cut off"), ("stepless", "no steps")):
        (line,) = (line for line in lines if f"bags/{name}" in line)
        assert reason in line, line
    pairs = read_pairs(out)
    assert len(pairs.pairs) == 2 and all("True" in pair.chosen and "False" in pair.rejected for pair in pairs.pairs)
    assert {one.episode_id for one in pairs.candidates} | {"cut", "stepless"} >= {"e100001-True", "cut"}
    text = " ".join(done.stdout.split())
    assert "4 │ 2 │ 2 │ 2" in text and "margins" in text and "3 episodes left out" in text
    shown = grape("pairs", "show", out)
    assert shown.exit_code == 0 and "e100000-True over e100000-False" in shown.stdout and "█" in shown.stdout


def test_an_edited_file_is_kept_read_and_refused_by_field(bags: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.json"
    grape("pairs", bags, "--out", out)
    edited = json.loads(out.read_text())
    edited["pairs"] = edited["pairs"][:1]
    out.write_text(json.dumps(edited))
    again = grape("pairs", bags, "--out", out)
    assert again.exit_code and "--overwrite" in one_line(again.exception or Exception())
    assert len(read_pairs(out).pairs) == 1, "what was edited is still there"
    assert grape("pairs", bags, "--out", out, "--overwrite").exit_code == 0 and len(read_pairs(out).pairs) == 2
    edited["pairs"][0]["chosen"] = "nobody"
    out.write_text(json.dumps(edited))
    for command in (("pairs", "show", out), ("train", "--pairs", out, "--out", tmp_path / "o")):
        refused = grape(*command)
        assert refused.exit_code and "nobody is not in the file" in one_line(refused.exception or Exception())


def test_options_choose_the_pairs(bags: Path, tmp_path: Path) -> None:
    wide = grape("pairs", bags, "--out", tmp_path / "a.json", "--ranking", "success", "--m", "1")
    assert wide.exit_code == 0 and read_pairs(tmp_path / "a.json").ranking == "success"
    none = grape("pairs", bags, "--out", tmp_path / "b.json", "--adapter", "f" * 64)
    assert none.exit_code and "no pair of a better and a worse" in one_line(none.exception or Exception())
    assert len(read_pairs(tmp_path / "b.json").excluded) == 7, "the file says why"
    nowhere = grape("pairs", tmp_path / "nowhere", "--out", tmp_path / "c.json")
    assert nowhere.exit_code and "nowhere" in one_line(nowhere.exception or Exception())


def test_the_histogram_counts_every_pair_once(bags: Path, tmp_path: Path) -> None:
    grape("pairs", bags, "--out", tmp_path / "pairs.json")
    pairs = read_pairs(tmp_path / "pairs.json")
    bins = pairs_show.margins(pairs)
    assert sum(one.by_success for one in bins) == 2 and sum(one.equal for one in bins) == 0
    assert bins[0].low <= min(p.margin for p in pairs.pairs) and bins[-1].high >= max(p.margin for p in pairs.pairs)
    assert all(one.high == pytest.approx(other.low) for one, other in itertools.pairwise(bins))
    same = replace(pairs, pairs=tuple(replace(pair, margin=1.0) for pair in pairs.pairs))
    assert sum(one.by_success for one in pairs_show.margins(same)) == 2
    assert pairs_show.margins(replace(pairs, pairs=())) == []


def test_training_takes_a_pairs_file_or_bags(bags: Path, tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "model")
    out = tmp_path / "pairs.json"
    grape("pairs", bags, "--out", out)
    emptied = json.loads(out.read_text()) | {"pairs": []}
    (tmp_path / "empty.json").write_text(json.dumps(emptied))
    told = (model, tmp_path / "registry", tmp_path / "out", "task_completion", "default", 0, "")
    with pytest.raises(TrainerError, match=r"empty\.json: holds no pair"):
        align.train_on_bags([], *told, pairs_file=tmp_path / "empty.json")
    with pytest.raises(TrainerError, match="neither bags"):
        align.train_on_bags([bags], *told, pairs_file=out)
    with pytest.raises(TrainerError, match="neither bags nor --pairs given"):
        align.train_on_bags([], *told)
