import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.episode import DEMONSTRATION, Episode
from grape_episode.synthetic import make_episode
from grape_reward.errors import TaskError
from grape_reward.live import NOT_BEGUN, LiveEpisode
from grape_reward.score import score_episode
from grape_reward.timeline import TOPICS


def messages(episode: Episode):
    """(topic, call on a LiveEpisode) for every message, in the order of lock-step."""
    out = []
    for topic in TOPICS:
        series = getattr(episode, topic)
        for stamp, value in zip(series.stamps.tolist(), series.values, strict=True):
            sample = float(value[0]) if topic == "gripper" else value
            out.append((stamp, 0, topic, lambda live, a=(topic, stamp, sample): live.sample(*a)))
    for step in episode.steps:
        call = lambda live, a=(step.index, step.stamp, step.logprobs): live.step(*a)  # noqa: E731
        out.append((step.stamp, 1, "step", call))
    out.append((episode.outcome.stamp, 2, "outcome", lambda live: live.end(episode.outcome)))
    return [(topic, call) for _, _, topic, call in sorted(out, key=lambda entry: entry[:2])]


def play(episode: Episode, order=None):
    """Standing, costs and score of an episode whose messages arrive in ``order`` of topics."""
    live = LiveEpisode(episode.identity)
    queues = {}
    for topic, call in messages(episode):
        queues.setdefault(topic, []).append(call)
    standing, costs, score = [], [], None
    for topic in order or [topic for topic, _ in messages(episode)]:
        queues[topic].pop(0)(live)
        new, priced, score = live.advance()
        standing += new
        costs += priced
    return standing, costs, score


def without_rest(episode: Episode) -> Episode:
    """The episode ended, as the policy ends it, at the first observation at which the task is done."""
    standing, _, _ = play(episode)
    done = [judgement.stamp for judgement in standing if judgement.live.success == 1]
    kept = tuple(step for step in episode.steps if step.stamp < done[0]) if done else episode.steps
    outcome = dataclasses.replace(episode.outcome, steps=len(kept), stamp=done[0] if done else episode.outcome.stamp)
    return dataclasses.replace(episode, steps=kept, outcome=outcome)


EPISODE = make_episode(6, steps=14, variant="obstacle")


@settings(max_examples=40, deadline=None)
@given(st.permutations([topic for topic, _ in messages(EPISODE)]))
def test_live_is_offline_in_whatever_order_the_topics_arrive(order):
    standing, costs, score = play(EPISODE, order)
    assert score.hash == score_episode(EPISODE).hash
    assert [judgement.step for judgement in costs] == list(range(14))
    reference, priced, _ = play(EPISODE)
    assert [j.live for j in standing] == [j.live for j in reference][: len(standing)]
    assert [j.live for j in costs] == [j.live for j in priced]


def test_every_observation_is_judged_before_its_step_exists():
    live = LiveEpisode(EPISODE.identity)
    stamps = EPISODE.tcp.stamps.tolist()
    for n, stamp in enumerate(stamps):
        live.sample("tcp", stamp, EPISODE.tcp.values[n])
        live.sample("keypoints", stamp, EPISODE.keypoints.values[n])
        assert live.advance() == ([], [], None)
        live.sample("gripper", stamp, float(EPISODE.gripper.values[n, 0]))
        standing, costs, _ = live.advance()
        assert [judgement.stamp for judgement in standing] == [stamp] and costs == []
        if n < len(EPISODE.steps):
            live.step(n, stamp, EPISODE.steps[n].logprobs)
            assert [judgement.step for judgement in live.advance()[1]] == [n]


@pytest.mark.parametrize("lock_step", [True, False])
@pytest.mark.parametrize("task", ["carrot_on_plate", "eggplant_in_basket", "spoon_on_towel"])
def test_an_episode_that_ends_at_a_success_is_scored_a_success(task, lock_step):
    episode = make_episode(8, steps=40, task=task, samples_per_step=1 if lock_step else 4)
    episode = dataclasses.replace(episode, identity=dataclasses.replace(episode.identity, lock_step=lock_step))
    ended = without_rest(episode)
    assert len(ended.steps) < 40
    assert score_episode(ended).success == 1
    standing, _, score = play(ended)
    assert score.success == 1 and score.hash == score_episode(ended).hash
    final = [judgement.live.success for judgement in standing if judgement.stamp == ended.outcome.stamp]
    assert final == [1]


def test_in_real_time_nothing_counts_before_the_first_step():
    episode = make_episode(6, steps=14)
    identity = dataclasses.replace(episode.identity, lock_step=False)
    live = LiveEpisode(identity)
    placed = episode.keypoints.values[-1]
    for n in range(20):
        stamp = identity.stamp + 1 + n * 10_000_000
        live.sample("tcp", stamp, episode.tcp.values[-1])
        live.sample("gripper", stamp, 0.085)
        live.sample("keypoints", stamp, placed)
    standing, _, _ = live.advance()
    assert len(standing) == 20
    assert {(judgement.live.success, judgement.live.reason) for judgement in standing} == {(-1, NOT_BEGUN)}


def test_a_demonstration_begins_with_the_first_movement_and_no_policy_s_episode_does():
    made = make_episode(6, steps=40)
    real = dataclasses.replace(made, identity=dataclasses.replace(made.identity, lock_step=False))
    shown = dataclasses.replace(real.identity, notes=(DEMONSTRATION,))
    at = real.steps[4].stamp
    for identity, begun in ((shown, True), (real.identity, False)):
        live = LiveEpisode(identity)
        live.drive(at)
        live.drive(at + 1)
        standing = []
        for topic, call in messages(real):
            if topic not in ("step", "outcome"):
                call(live)
                standing += live.advance()[0]
        waiting = [judgement.stamp for judgement in standing if judgement.live.reason == NOT_BEGUN]
        assert all(stamp < at for stamp in waiting) == begun and waiting
        # at the end the object lies on its target, and has for long enough
        assert any(judgement.live.success == 1 for judgement in standing) == begun


def test_what_never_arrives_leaves_an_incomplete_score():
    live = LiveEpisode(EPISODE.identity)
    for topic, call in messages(EPISODE):
        if topic != "gripper":
            call(live)
    assert live.advance() == ([], [], None)
    assert live.ended
    score = live.finish()
    assert score.incomplete and score.success == -1 and any("gripper" in line for line in score.problems)
    assert score.hash == score_episode(dataclasses.replace(EPISODE, gripper=type(EPISODE.gripper).empty(1))).hash


def test_messages_lost_on_the_way_mark_the_score():
    live = LiveEpisode(EPISODE.identity)
    live.trouble("/grape/keypoints: messages were lost on the way")
    for _, call in messages(EPISODE):
        call(live)
    _, _, score = live.advance()
    assert score.incomplete and score.problems == ("/grape/keypoints: messages were lost on the way",)


def test_without_an_outcome_there_is_no_score():
    live = LiveEpisode(EPISODE.identity)
    assert live.finish() is None and not live.ended and live.outcome_stamp == 0


def test_unknown_task_and_objective_are_refused():
    with pytest.raises(TaskError, match="fold"):
        LiveEpisode(dataclasses.replace(EPISODE.identity, task="fold"))
    with pytest.raises(TaskError, match="speed"):
        LiveEpisode(EPISODE.identity, objective="speed")


def test_log_probs_may_be_missing():
    live = LiveEpisode(EPISODE.identity)
    live.step(0, int(EPISODE.tcp.stamps[0]), np.zeros(0, np.float32))
    for topic, call in messages(EPISODE):
        if topic != "step":
            call(live)
    assert np.isnan(live.finish().r_self)


def test_what_the_episode_before_left_behind_is_not_seen_as_this_one():
    # three keypoints of the world before, observed after the announcement: the clock lagged
    stale = EPISODE.identity.stamp + 1
    for since in (0, stale):
        live = LiveEpisode(EPISODE.identity, since=since)
        live.sample("tcp", stale, EPISODE.tcp.values[0])
        live.sample("gripper", stale, 0.085)
        live.keypoints(stale, ("spoon", "towel"), np.zeros((2, 3)), np.zeros(0))
        standing = live.advance()[0]
        assert [judgement.stamp for judgement in standing] == ([stale] if since == 0 else [])
        for topic, call in messages(EPISODE):
            if topic != "keypoints":
                call(live)
        for stamp, points in zip(EPISODE.keypoints.stamps.tolist(), EPISODE.keypoints.values, strict=True):
            live.keypoints(stamp, EPISODE.keypoints.names, points, np.zeros(0))
            standing += live.advance()[0]
        score = live.finish()
        assert score.hash == score_episode(EPISODE).hash
        faults = [judgement.live.reason for judgement in standing if judgement.live.reason]
        assert bool(faults) is (since == 0)


def test_keypoints_that_change_their_names_mark_the_score():
    live = LiveEpisode(EPISODE.identity)
    for topic, call in messages(EPISODE):
        if topic != "keypoints":
            call(live)
    for n, stamp in enumerate(EPISODE.keypoints.stamps.tolist()):
        names = ("cup", "saucer", "obstacle") if n == 9 else EPISODE.keypoints.names
        live.keypoints(stamp, names, EPISODE.keypoints.values[n], np.zeros(0))
    score = live.finish()
    assert score.incomplete
    assert score.problems == (
        "the keypoints changed their names from carrot, plate, obstacle to cup, saucer, obstacle",
    )
