import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.episode import Series
from grape_episode.synthetic import make_episode
from grape_reward.timeline import TOPICS, Timeline, events_from_episode, known_points, read_timeline, timeline_of

MS = 1_000_000


def numbers(event):
    head = (event.stamp, event.step, event.gripper_width, event.missing)
    logprobs = None if event.logprobs is None else event.logprobs.tolist()
    return (*head, event.tcp.tolist(), event.keypoints.tolist(), logprobs)


def calls(episode):
    """Every message of an episode as a call on a timeline."""
    out = []
    for topic in TOPICS:
        series = getattr(episode, topic)
        for stamp, value in zip(series.stamps.tolist(), series.values, strict=True):
            sample = float(value[0]) if topic == "gripper" else value
            out.append((topic, lambda t, a=(topic, stamp, sample): t.add(*a)))
    for step in episode.steps:
        out.append(("step", lambda t, a=(step.index, step.stamp, step.logprobs): t.add_step(*a)))
    end = (episode.outcome.stamp, episode.outcome.steps)
    out.append(("outcome", lambda t, a=end: t.close(*a)))
    return out


def interleavings(episode):
    """Arrival orders in which each topic keeps its own order, but topics overtake each other at will."""
    sequence = [name for name, _ in calls(episode)]
    return st.permutations(sequence)


def play(episode, order):
    queues = {}
    for name, call in calls(episode):
        queues.setdefault(name, []).append(call)
    identity = episode.identity
    timeline = timeline_of(identity.lock_step, identity.control_period, identity.stamp)
    events = []
    for name in order:
        queues[name].pop(0)(timeline)
        events += timeline.pop()
    return events, timeline


EPISODE = make_episode(4, steps=5, samples_per_step=2, variant="obstacle")


@settings(max_examples=60, deadline=None)
@given(interleavings(EPISODE))
def test_the_order_in_which_topics_arrive_changes_nothing(order):
    events, timeline = play(EPISODE, order)
    assert [numbers(e) for e in events] == [numbers(e) for e in events_from_episode(EPISODE)]
    assert timeline.done and timeline.problems == []


def test_one_event_a_step_and_one_for_the_last_observation():
    events = events_from_episode(EPISODE)
    assert [e.step for e in events] == [0, 1, 2, 3, 4, None]
    for event, step in zip(events, EPISODE.steps, strict=False):
        assert event.stamp == step.stamp and event.missing == ()
        at = EPISODE.tcp.stamps.tolist().index(step.stamp)
        assert np.array_equal(event.tcp, EPISODE.tcp.values[at])
        assert np.array_equal(event.keypoints, EPISODE.keypoints.values[at])
        assert event.gripper_width == EPISODE.gripper.values[at, 0]
        assert event.wrench is None
        assert np.array_equal(event.logprobs, step.logprobs)
    assert events[-1].stamp == EPISODE.outcome.stamp and events[-1].logprobs is None


def feed(timeline, stamp, topics=TOPICS):
    values = {"tcp": np.full(7, stamp / MS), "gripper": stamp / MS, "keypoints": np.full((2, 3), stamp / MS)}
    for topic in topics:
        timeline.add(topic, stamp, values[topic])


def test_an_event_waits_for_every_topic():
    timeline = Timeline(lock_step=False, max_age=0.2)
    timeline.add_step(0, 100 * MS, None)
    feed(timeline, 95 * MS)
    assert timeline.pop() == []
    feed(timeline, 105 * MS, ("tcp", "keypoints"))
    assert timeline.pop() == []
    feed(timeline, 105 * MS, ("gripper",))
    (event,) = timeline.pop()
    assert event.gripper_width == 95.0 and event.tcp[0] == 95.0 and event.missing == ()


def test_the_outcome_waits_for_the_steps_it_counts():
    timeline = Timeline(lock_step=True, max_age=0.2)
    for stamp in (100 * MS, 300 * MS):
        feed(timeline, stamp)
    timeline.close(300 * MS, 1)
    assert timeline.pop() == [] and not timeline.done
    timeline.add_step(0, 100 * MS, None)
    assert [event.step for event in timeline.pop()] == [0, None]
    assert timeline.done


def test_in_lock_step_a_sample_must_carry_the_very_stamp():
    timeline = Timeline(lock_step=True, max_age=0.2)
    feed(timeline, 100 * MS, ("tcp", "gripper"))
    feed(timeline, 99 * MS, ("keypoints",))
    feed(timeline, 101 * MS, ("keypoints",))
    timeline.add_step(0, 100 * MS, None)
    (event,) = timeline.pop()
    assert event.missing == ("keypoints: the latest sample at step 0 is 0.001 s old",)
    assert event.keypoints[0, 0] == 99.0


def test_outside_lock_step_a_stale_or_absent_sample_is_noted():
    timeline = Timeline(lock_step=False, max_age=0.2)
    feed(timeline, 100 * MS, ("tcp", "gripper"))
    timeline.add_step(0, 310 * MS, None)
    assert timeline.pop() == []
    (event,) = timeline.flush()
    assert event.missing == (
        "tcp: the latest sample at step 0 is 0.210 s old",
        "gripper: the latest sample at step 0 is 0.210 s old",
        "keypoints: no sample at or before step 0",
    )
    assert event.keypoints.shape == (0, 3) and not event.fault and event.lost == ()


def test_a_sample_that_comes_too_late_is_a_problem_only_where_it_would_have_counted():
    for late, expected in ((90 * MS, 0), (98 * MS, 1)):
        timeline = Timeline(lock_step=False, max_age=0.2)
        feed(timeline, 95 * MS)
        feed(timeline, 105 * MS)
        timeline.add_step(0, 100 * MS, None)
        assert len(timeline.pop()) == 1
        feed(timeline, late, ("tcp",))
        assert len(timeline.problems) == expected


def test_the_same_sample_twice_is_none_but_two_different_ones_are_a_problem():
    timeline = Timeline(lock_step=True, max_age=0.2)
    feed(timeline, 100 * MS)
    feed(timeline, 100 * MS)
    assert timeline.problems == []
    timeline.add("gripper", 100 * MS, 0.03)
    assert timeline.problems == [f"gripper: two different samples at {100 * MS}"]


def test_what_came_before_the_announcement_is_left_out():
    timeline = Timeline(lock_step=False, max_age=1.0, since=100 * MS)
    feed(timeline, 100 * MS)
    feed(timeline, 150 * MS)
    timeline.add_step(0, 120 * MS, None)
    (event,) = timeline.pop()
    assert len(event.missing) == 3 and np.isnan(event.gripper_width)


def test_an_episode_that_ends_on_its_last_step_has_no_further_observation():
    timeline = Timeline(lock_step=True, max_age=0.2)
    feed(timeline, 100 * MS)
    timeline.add_step(0, 100 * MS, None)
    timeline.close(100 * MS, 1)
    assert [event.step for event in timeline.pop()] == [0] and timeline.done


def test_a_gap_in_the_steps_holds_the_rest_back_until_the_end():
    timeline = Timeline(lock_step=True, max_age=0.2)
    for index in (0, 2):
        feed(timeline, (100 + index) * MS)
        timeline.add_step(index, (100 + index) * MS, None)
    assert [event.step for event in timeline.pop()] == [0]
    timeline.close(102 * MS, 3)
    assert timeline.pop() == [] and not timeline.done
    assert [event.step for event in timeline.flush()] == [2] and timeline.done


@pytest.mark.parametrize("value", ["tcp", "gripper", "keypoint"])
def test_an_event_with_a_number_missing_says_which(value):
    timeline = Timeline(lock_step=True, max_age=0.2)
    tcp, points = np.zeros(7), np.zeros((3, 3))
    tcp[2] = np.nan if value == "tcp" else 0.0
    points[2, 1] = np.nan if value == "keypoint" else 0.0
    timeline.add("tcp", MS, tcp)
    timeline.add("gripper", MS, np.nan if value == "gripper" else 0.05)
    timeline.add("keypoints", MS, points)
    timeline.add_step(0, MS, None)
    faults = {"tcp": "the TCP pose is not known", "gripper": "the gripper's width is not known"}
    (event,) = timeline.pop()
    assert event.fault == faults.get(value, "")
    assert event.lost == ((2,) if value == "keypoint" else ())


def test_an_episode_without_an_outcome_ends_with_its_last_step():
    import dataclasses

    events, problems = read_timeline(dataclasses.replace(EPISODE, outcome=None))
    assert [event.step for event in events] == [0, 1, 2, 3, 4] and problems == []


def test_the_wrench_is_waited_for_where_the_task_reads_it():
    timeline = Timeline(lock_step=True, max_age=0.2, wrench=True)
    feed(timeline, MS)
    timeline.add_step(0, MS, None)
    assert timeline.pop() == [] and timeline.observation(MS) is None
    timeline.add("wrench", MS, np.arange(6.0))
    (event,) = timeline.pop()
    assert np.array_equal(event.wrench, np.arange(6.0)) and event.fault == ""
    events, problems = read_timeline(EPISODE, wrench=True)
    at = [EPISODE.wrench.stamps.tolist().index(event.stamp) for event in events]
    assert np.array_equal([event.wrench for event in events], EPISODE.wrench.values[at]) and problems == []
    blind = dataclasses.replace(EPISODE, wrench=Series.empty(6))
    event = read_timeline(blind, wrench=True)[0][0]
    assert event.fault == "the wrench is not known" and event.missing == ("wrench: no sample at or before step 0",)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_below_the_confidence_asked_for_a_keypoint_is_lost_and_the_others_are_as_they_were(seed, least):
    rng = np.random.default_rng(seed)
    points, confidence = rng.normal(size=(5, 3, 3)), rng.random((5, 3))
    known = known_points(points, confidence, least)
    for n, k in np.ndindex(5, 3):
        expected = points[n, k] if confidence[n, k] >= least else np.full(3, np.nan)
        assert np.array_equal(known[n, k], expected, equal_nan=True)
    assert known_points(points, np.zeros(0), least) is points


def test_many_samples_at_once_are_the_same_as_one_after_the_other():
    stamps = np.array([3, 1, 2, 2]) * MS
    values = [np.full((2, 3), float(n)) for n in (3, 1, 2, 9)]
    for order in ([1, 2], [1, 2, 0], [0, 1, 2], [1, 2, 3, 0]):
        one, many = Timeline(True, 0.2, since=MS), Timeline(True, 0.2, since=MS)
        for n in order:
            one.add("keypoints", int(stamps[n]), values[n])
        many.fill("keypoints", stamps[order], [values[n] for n in order])
        for timeline in (one, many):
            feed(timeline, 2 * MS, ("tcp", "gripper"))
            feed(timeline, 3 * MS, ("tcp", "gripper"))
            timeline.add_step(0, 2 * MS, None)
        assert one.problems == many.problems
        assert [e.keypoints.tolist() for e in one.flush()] == [e.keypoints.tolist() for e in many.flush()]
