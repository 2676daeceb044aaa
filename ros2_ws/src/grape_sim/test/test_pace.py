"""Rates, the pace of a stream, and the order of lock-step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_sim.pace import Every, LockStep, Rates, Step, Stream


def at(x: float) -> Pose:
    return Pose(np.array([x, 0.0, 0.3]))


def test_every_is_due_once_a_period_and_makes_up_for_nothing() -> None:
    rate = Every(0.1)
    rate.restart(1.0)
    assert [rate.due(t) for t in (1.05, 1.11, 1.15, 1.21)] == [False, True, False, True]
    assert rate.due(5.0) and not rate.due(5.0 - 1e-9)


def test_joints_come_with_every_image() -> None:
    rates = Rates(0.1)
    rates.restart(0.0)
    due = [rates.due(0.01 * tick) for tick in range(1, 101)]
    assert all(joints for camera, joints, _ in due if camera)
    assert sum(camera for camera, _, _ in due) in (9, 10) and sum(boxes for *_, boxes in due) in (19, 20)


def simulate(gap: float, speed: float, seconds: float, tick: float = 0.01) -> float:
    """How far a follower on straight lines ends behind a target that is streamed every ``gap`` s at ``speed`` m/s, in
    metres; the world in ticks, as the simulator runs it."""
    stream = Stream(tick, 0.2)
    position, begin, goal, left, total = 0.0, 0.0, 0.0, 0.0, 1.0
    target, due = None, 0.0
    for index in range(round(seconds / tick)):
        now = index * tick
        if now >= due - 1e-9:
            target, due = at(speed * now), due + gap
        taken = stream.take(target, now)
        if taken is not None:
            assert tick <= taken <= 0.2
            begin, goal, left, total = position, float(target.position[0]), taken, taken
        left = max(0.0, left - tick)
        position = begin + (goal - begin) * (1.0 - left / total)
    return speed * (seconds - tick) - position


@pytest.mark.parametrize("gap", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_the_arm_is_behind_a_stream_by_a_gap_or_two_however_long_it_is(gap: float, seconds: float) -> None:
    assert simulate(gap, 0.25, seconds) <= 0.25 * 2.0 * gap + 1e-9
    # and what the gap is for: with a whole period for every target it would be far more
    assert 0.25 * 2.0 * 0.02 < 0.25 * 0.2 / 3


def test_the_first_target_and_one_after_a_pause_get_a_whole_period() -> None:
    stream = Stream(0.01, 0.2)
    assert stream.take(None, 0.0) is None
    assert stream.take(at(0.1), 0.0) == 0.2
    assert stream.take(at(0.2), 0.02) == pytest.approx(0.02)
    assert stream.take(at(0.3), 0.5) == 0.2
    assert stream.take(at(0.4), 0.504) == 0.01
    stream.restart()
    assert stream.take(at(0.5), 0.51) == 0.2


def test_what_was_commanded_is_not_commanded_again() -> None:
    stream = Stream(0.01, 0.2)
    target = at(0.1)
    assert stream.take(target, 0.0) is not None and stream.take(target, 0.01) is None
    assert stream.take(at(0.1), 0.02) is None, "the same again: the motion under way goes on"
    assert stream.take(at(0.2), 0.04) == pytest.approx(0.02)


@given(st.permutations(["commit", "target", "old commit", "old target", "future target"]))
def test_a_step_needs_its_own_commit_and_target_in_any_order(order: list[str]) -> None:
    steps = LockStep(30.0)
    steps.awaits(200)
    said = {
        "commit": lambda: steps.commit(200, 1, True, 0.0),
        "target": lambda: steps.offer(200, at(0.2)),
        "old commit": lambda: steps.commit(100, 0, True, 0.0),
        "old target": lambda: steps.offer(100, at(0.1)),
        "future target": lambda: steps.offer(300, at(0.3)),
    }
    results = [said[name]() for name in order]
    given_steps = [step for step in results if step is not None]
    # only the last target offered before the commit counts, as the topic's depth of one has it
    after = list(itertools.takewhile(lambda name: name != "commit", order))
    offers = [name for name in after if name.endswith("target")]
    ready = (bool(offers) and offers[-1] == "target") or "target" not in offers
    assert bool(given_steps) == ready
    assert all(step.target is not None and step.target.position[0] == 0.2 for step in given_steps)


def test_a_veto_needs_no_target_and_nothing_counts_twice() -> None:
    steps = LockStep(30.0)
    assert steps.commit(100, 0, False, 0.0) is None, "nothing is awaited yet"
    steps.awaits(100)
    assert steps.commit(100, 0, False, 0.0) == Step(None)
    assert steps.commit(100, 0, False, 0.0) is None


def test_a_target_that_does_not_come_is_said_once() -> None:
    steps = LockStep(30.0)
    steps.awaits(100)
    assert steps.overdue(1e9) is None
    steps.commit(100, 7, True, 5.0)
    assert steps.overdue(34.0) is None and steps.overdue(35.1) == 7 and steps.overdue(36.0) is None
    steps.reset()
    assert steps.overdue(1e9) is None
