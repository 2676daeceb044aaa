"""Which bags go into an export: each reason to skip one, one order, what is known of success."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from grape_episode.episode import PERSON_DROVE, Series
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.errors import ScoreError
from grape_reward.offline import Scoring
from grape_reward.reviews import add_review
from grape_reward.score import score_episode
from grape_trainer.export.frames import ExportError
from grape_trainer.export.scores import read_scores
from grape_trainer.export.survey import survey
from grape_trainer.pairs import Excluded
from grape_trainer.ranking import Candidate


def told(*_) -> None:
    """No progress is shown."""


@pytest.fixture
def bag(tmp_path):
    def write(name: str, *args, change=None, **kwargs) -> Path:
        episode = make_episode(*args, episode_id=kwargs.pop("episode_id", name), **kwargs)
        return write_episode(dataclasses.replace(episode, **(change or {})), tmp_path / "bags" / name)

    return write


def test_damaged_incomplete_repeated_and_empty_bags_are_named_and_the_rest_remain(bag, tmp_path):
    bag("good", 1, steps=4)
    bag("late", 2, steps=4, initial_state=7)
    (file,) = bag("cut", 3, steps=4).glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-100])
    bag("open", 4, steps=4, change={"outcome": None})
    bag("blind", 5, steps=4, change={"steps": (dataclasses.replace(make_episode(5, 4).steps[0], image=None),)})
    bag("driven", 6, steps=4, change={"steps": ()})
    bag("taken", 7, steps=4, change={"operator": Series(np.array([5 * 10**9]), np.zeros((1, 7)))})
    bag("good_again", 1, steps=4, episode_id="good")
    bag("timeless", 1, steps=4, control_period=0.2)
    found = survey([tmp_path / "bags"], None, told)
    assert [known.identity.episode_id for known in found.episodes] == ["late", "good", "timeless"]  # by initial state
    reasons = {path.name: reason for path, reason in found.skipped}
    assert set(reasons) == {"cut", "open", "blind", "driven", "taken", "good_again"}
    assert "cut off" in reasons["cut"] and "no outcome" in reasons["open"]
    assert "no image for step 0" in reasons["blind"] or "missing" in reasons["blind"]
    assert "no steps of a policy" in reasons["driven"] and "good, too" in reasons["good_again"]
    assert PERSON_DROVE in reasons["taken"]
    assert all(path.name in reason for path, reason in found.skipped)


def test_nothing_left_says_why(bag, tmp_path):
    (file,) = bag("cut", 3, steps=4).glob("*.mcap")
    file.write_bytes(b"")
    with pytest.raises(ExportError, match=r"all 1 bags are skipped; the first: .*cut_0.mcap: is empty"):
        survey([tmp_path], None, told)
    with pytest.raises(ScoreError, match="no such bag"):
        survey([tmp_path / "nowhere"], None, told)


@pytest.mark.parametrize("order", [1, -1])
def test_a_path_twice_is_one_and_the_order_of_the_paths_is_nothing(bag, tmp_path, order):
    paths = [bag(name, n, steps=4, initial_state=9 - n) for n, name in enumerate("abc")]
    found = survey([*paths[::order], tmp_path / "bags"], None, told)
    assert [known.identity.episode_id for known in found.episodes] == ["c", "b", "a"] and not found.skipped


def test_episodes_of_another_rhythm_or_convention_do_not_fit(bag, tmp_path):
    first = bag("a", 1, steps=4)
    other = bag("b", 2, steps=4, control_period=0.1)
    with pytest.raises(ExportError, match=r"b: control period 0.1, but 0.2 in .*a: one dataset has one"):
        survey([first, other], None, told)
    turned = tuple(dataclasses.replace(step, rotation="axis_angle") for step in make_episode(3, 4).steps)
    with pytest.raises(ExportError, match="c: rotation axis_angle, but euler_xyz"):
        survey([first, bag("c", 3, steps=4, change={"steps": turned})], None, told)


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan"), float("inf")])
def test_a_control_period_that_is_none_is_named(bag, tmp_path, period):
    identity = dataclasses.replace(make_episode(1, 4).identity, control_period=period, episode_id="a")
    bag("a", 1, steps=4, change={"identity": identity})
    with pytest.raises(ExportError, match="its identity says control_period"):
        survey([tmp_path], None, told)


def test_success_is_the_scores_then_a_persons_then_the_recorders_and_never_the_worlds(bag):
    bags = {name: bag(name, 1, steps=8, success=False) for name in ("scored", "plain", "decided")}
    undecided = dataclasses.replace(make_episode(1, 8).outcome, success_reward=-1)  # the world says yes
    bags["undecided"] = bag("undecided", 1, steps=8, success=True, change={"outcome": undecided})
    add_review(bags["decided"], "decided", "yes", "someone", "the carrot lies on the rim")

    def by(name: str, scorer) -> tuple:
        (known,) = survey([bags[name]], scorer, told).episodes
        return known.success, known.success_by

    assert by("scored", Scoring().score) == (0, "score")
    assert by("plain", None) == (0, "recorder")
    assert by("decided", None) == (1, "person")
    assert by("undecided", None) == (None, "")


def test_what_cannot_be_scored_is_exported_but_enters_no_pair(bag):
    (known,) = survey([bag("odd", 1, steps=4, task="juggle")], Scoring().score, told).episodes
    assert known.score is None and "juggle" in known.unscored
    assert isinstance(known.entry, Excluded) and known.entry.reason.startswith("not scored")
    (known,) = survey([bag("even", 1, steps=8)], Scoring().score, told).episodes
    assert isinstance(known.entry, Candidate) and known.score is not None and known.unscored == ""


def test_scores_may_come_from_a_file(bag, tmp_path):
    first, second = bag("first", 1, steps=8), bag("second", 2, steps=8)
    score = score_episode(make_episode(1, steps=8, episode_id="first"))
    score = dataclasses.replace(score, log_r_ext=-0.125)  # so that it is seen where it comes from
    path = tmp_path / "scores.jsonl"
    path.write_text(score.to_json() + "\n")
    found = survey([first, second], read_scores(path), told).episodes
    assert found[0].score == score and found[0].success == 1
    assert found[1].score is None and "no score of episode second" in found[1].unscored
    path.write_text((score.to_json() + "\n") * 2)
    with pytest.raises(ExportError, match=r"scores.jsonl: line 2: episode first a second time"):
        read_scores(path)
    path.write_text(json.dumps({"episode_id": "first"}) + "\n")
    with pytest.raises(ExportError, match=r"scores.jsonl: line 1: not a score"):
        read_scores(path)
    with pytest.raises(ExportError, match="nowhere"):
        read_scores(tmp_path / "nowhere")


def test_a_damaged_review_decides_nothing(bag, tmp_path):
    path = bag("a", 1, steps=4)
    shutil.copytree(path, tmp_path / "bags" / "kept")
    (path / "reviews.jsonl").write_text("yes\n")
    found = survey([tmp_path / "bags"], None, told)
    assert len(found.episodes) == 1
    assert [(bag.name, "reviews.jsonl: line 1" in reason) for bag, reason in found.skipped] == [("a", True)]
