"""Keypoints that are lost: what cannot be seen is unknown, and stays so until a person decides."""

import dataclasses
import math

import numpy as np
import pytest

from grape_episode.synthetic import make_episode
from grape_reward.reducer import Reducer
from grape_reward.reviews import Review
from grape_reward.tasks import TASKS
from grape_reward.timeline import events_from_episode

CARROT = dataclasses.replace(TASKS["carrot_on_plate"], lost_at_most=0.5)
EPISODE = make_episode(2, steps=30)
EVENTS = events_from_episode(EPISODE)
YES, NO = (
    Review(episode_id="e", success=word, who="ana", when="2026-01-31T12:00:00Z", note="seen on video")
    for word in ("yes", "no")
)


def score(lost, review=None, task=CARROT, episode=EPISODE):
    """Score and judgements with the carrot lost at the events of these numbers."""
    reducer = Reducer(task, "", episode.identity)
    events = events_from_episode(episode)
    for n in lost:
        points = events[n].keypoints.copy()
        points[0] = np.nan
        events[n] = dataclasses.replace(events[n], keypoints=points)
    lives = [reducer.push(event) for event in events]
    return reducer.finish(episode.outcome, review=review), lives


def test_an_observation_with_a_lost_keypoint_is_unknown_with_the_name():
    _, lives = score([7])
    assert lives[7].success == -1 and lives[7].reason == "lost keypoint carrot"
    assert all(math.isnan(cost) for cost in lives[7].costs) and lives[7].stage == lives[6].stage
    assert lives[6].success == lives[8].success == 0


def test_a_gap_that_the_task_allows_leaves_the_score_as_known_as_it_was():
    whole, _ = score([])
    brief, _ = score([3])
    assert brief.outcome == "success" and brief.undecided == () and not brief.incomplete
    assert brief.log_r_ext == pytest.approx(whole.log_r_ext) and brief.inputs_hash != whole.inputs_hash


@pytest.mark.parametrize(("lost", "stage"), [(range(2, 6), 1), (range(16, 20), 2), (range(0, 4), 1)])
def test_a_longer_one_makes_its_stage_unknown_and_a_person_must_decide(lost, stage):
    told, _ = score(lost)
    assert told.outcome == "review" and not told.incomplete and told.success == 1
    assert math.isnan(told.log_r_ext) and math.isnan(told.reward)
    assert [math.isnan(cost) for cost in told.stage_costs] == [n == stage - 1 for n in range(3)]
    seconds = 0.2 * len(lost) if lost[0] == 0 else 0.2 * (len(lost) + 1)
    assert told.undecided == (f"stage {stage}: lost keypoint carrot for {seconds:.3f} s",)


def test_what_is_unknown_costs_its_worst_once_a_person_has_decided():
    told, _ = score(range(2, 6), YES)
    assert told.outcome == "success" and told.undecided == ()
    assert told.review == "yes, by ana on 2026-01-31T12:00:00Z: seen on video"
    first = [CARROT.constraints[term.name] for term in CARROT.program.stages[0]]
    assert told.stage_costs[0] == pytest.approx(sum(c.beta * (c.worst - c.tau) for c in first))
    assert told.stage_costs[1:] == score([])[0].stage_costs[1:]
    assert told.log_r_ext < score([])[0].log_r_ext


def test_success_is_undecided_where_the_last_observation_is():
    failed = make_episode(2, steps=30, success=False)
    told, lives = score([30], episode=failed)
    assert lives[-1].success == told.success == -1 and told.outcome == "review" and math.isnan(told.reward)
    assert told.undecided == ("the last observation: lost keypoint carrot",)
    decided = {word.success: score([30], word, episode=failed)[0] for word in (YES, NO)}
    assert (decided["yes"].outcome, decided["no"].outcome) == ("success", "failure")
    assert decided["no"].log_r_ext == pytest.approx(score([], episode=failed)[0].log_r_ext, rel=0.2)
    assert all(map(math.isfinite, decided["yes"].stage_costs))


def test_a_success_that_has_been_seen_stays_one_whatever_is_lost_later():
    first = [live.success for live in score([])[1]].index(1)
    told, _ = score(range(first + 1, 31))
    assert told.outcome == "success" and told.hash != score([])[0].hash
    assert told.log_r_ext == score([])[0].log_r_ext


def test_success_must_be_seen_anew_after_a_gap():
    first = [live.success for live in score([])[1]].index(1)
    _, lives = score([first])
    assert [live.success for live in lives[first - 1 : first + 3]] == [0, -1, 0, 1]


def test_an_episode_that_was_never_seen_is_undecided():
    told, _ = score(range(31))
    assert told.outcome == "review" and math.isnan(told.log_r_ext) and told.stages_reached == 0
    assert score(range(31), NO)[0].log_r_ext < -40


def test_a_persons_word_counts_where_the_predicate_had_decided_otherwise():
    told, _ = score([], NO)
    assert told.success == 0 and told.outcome == "failure"
    # as of any rollout that ended before its step limit without success
    last = [CARROT.constraints[term.name] for term in CARROT.program.stages[2]]
    assert told.stage_costs[2] == pytest.approx(sum(c.beta * (c.worst - c.tau) for c in last))
    assert told.stage_costs[:2] == score([])[0].stage_costs[:2]


def test_not_a_moment_may_be_lost_where_the_task_allows_none():
    assert score([7], task=dataclasses.replace(CARROT, lost_at_most=0.0))[0].outcome == "review"
