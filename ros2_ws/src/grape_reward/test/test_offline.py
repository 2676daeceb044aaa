import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from grape_episode.episode import DEMONSTRATION, PERSON_DROVE, Series
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.errors import ScoreError
from grape_reward.offline import main, score_bags
from grape_reward.score import Score, score_episode


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Five bags: two good, one cut off, one without an outcome, one without keypoints."""
    root = tmp_path_factory.mktemp("bags")
    good = [make_episode(seed, steps=8, success=bool(seed)) for seed in (0, 1)]
    for n, episode in enumerate(good):
        write_episode(episode, root / f"good{n}")
    cut = write_episode(good[0], root / "cut")
    (file,) = cut.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-200])
    write_episode(dataclasses.replace(good[0], outcome=None), root / "open")
    write_episode(dataclasses.replace(good[0], keypoints=Series.empty(0, 3)), root / "blind")
    return root, good


def test_damaged_bags_are_named_and_the_others_are_scored(bags):
    root, good = bags
    seen = []
    table = score_bags([root], progress=lambda done, total, bag: seen.append((done, total, bag.name)))
    assert [score.hash for score in table.scores] == [score_episode(episode).hash for episode in good]
    reasons = {path.name: reason for path, reason in table.skipped}
    assert set(reasons) == {"cut", "open", "blind"}
    assert "cut off" in reasons["cut"] and "no outcome" in reasons["open"] and "keypoints" in reasons["blind"]
    assert all(name in reason for name, reason in reasons.items())
    assert [(done, total) for done, total, _ in seen] == [(n, 5) for n in range(5)]


def test_an_episode_that_a_person_drove_for_a_while_is_scored_and_says_so(bags, tmp_path, capsys):
    _, good = bags
    moves = Series(good[1].tcp.stamps[2:4], np.zeros((2, 7)))
    driven = write_episode(dataclasses.replace(good[1], operator=moves), tmp_path / "driven")
    free = write_episode(good[0], tmp_path / "free")
    shown = dataclasses.replace(good[1].identity, notes=(DEMONSTRATION,))
    outcome = dataclasses.replace(good[1].outcome, steps=0)
    write_episode(dataclasses.replace(good[1], identity=shown, outcome=outcome, steps=()), tmp_path / "shown")
    table = score_bags([driven, free, tmp_path / "shown"])
    assert table.scores[0].hash == score_episode(good[1]).hash, "the score itself is that of the same motion"
    assert table.interventions == (PERSON_DROVE, "") and table.bags == (driven, free)
    assert table.skipped[0][0].name == "shown" and DEMONSTRATION in table.skipped[0][1]
    assert main([str(driven)]) == 0 and json.loads(capsys.readouterr().out)["intervention"] == PERSON_DROVE


def test_a_bag_or_its_file_can_be_named_itself_with_an_objective(bags):
    root, good = bags
    (file,) = (root / "good0").glob("*.mcap")
    table = score_bags([file, str(root / "good1")], objective="safety")
    assert [score.objective for score in table.scores] == ["safety", "safety"]
    assert table.scores[1].hash == score_episode(good[1], "safety").hash


def test_an_unknown_task_is_a_reason_and_not_the_end(bags, tmp_path):
    root, _ = bags
    odd = write_episode(make_episode(0, steps=3, task="fold_towel"), tmp_path / "odd")
    table = score_bags([odd, root / "good0"])
    assert len(table.scores) == 1 and "fold_towel" in table.skipped[0][1]


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "no such bag"), ("empty", "holds no bag")])
def test_a_path_without_a_bag_is_wrong_use(tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoreError, match=f"{name}: {reason}"):
        score_bags([tmp_path / name])


def test_a_missing_image_skips_the_bag_although_no_cost_reads_it(tmp_path):
    episode = make_episode(0, steps=4)
    steps = (dataclasses.replace(episode.steps[0], image=None), *episode.steps[1:])
    bag = write_episode(dataclasses.replace(episode, steps=steps), tmp_path / "imageless")
    table = score_bags([bag])
    assert table.scores == () and "image" in table.skipped[0][1]


def test_the_command_prints_scores_and_names_what_it_skips(bags, tmp_path, capsys):
    root, good = bags
    out = tmp_path / "scores.jsonl"
    assert main([str(root), "--json", str(out)]) == 0
    printed, named = capsys.readouterr()
    assert [json.loads(line)["success"] for line in printed.splitlines()] == [0, 1]
    assert len(named.splitlines()) == 3 and all(line.startswith("skipped: ") for line in named.splitlines())
    scores = [Score.from_json(line) for line in out.read_text().splitlines()]
    assert [score.hash for score in scores] == [score_episode(episode).hash for episode in good]


def test_the_command_fails_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "grape_reward.offline", str(tmp_path / "nowhere")], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [f"error: {tmp_path / 'nowhere'}: no such bag or folder"]
