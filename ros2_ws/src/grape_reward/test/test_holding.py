import numpy as np
import pytest

from grape_reward.holding import Holding
from grape_reward.predicates import Between, HorizontalDistance
from grape_reward.spec import Success
from grape_reward.timeline import Event

WHEN = Between(HorizontalDistance(0, 1, 2), at_most=0.05)


def event(seconds, x=0.0, width=0.08):
    tcp = np.array([0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
    return Event(round(seconds * 1e9), tcp, width, np.array([[x, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def held(events, success=None, seconds=0.0):
    holding = Holding(success or Success(WHEN, 0.06, 0.5, {0: 0.005}), seconds)
    return [holding.push(e, events[0]) for e in events]


def test_it_must_hold_for_the_time_stated():
    assert held([event(0.2 * n) for n in range(5)]) == [False, False, False, True, True]
    assert held([event(0.2 * n) for n in range(5)], seconds=0.7) == [False, False, False, False, True]


def test_one_observation_is_never_enough():
    success = Success(WHEN, 0.06, 0.0)
    assert held([event(0.0), event(0.1)], success) == [False, True]


@pytest.mark.parametrize("spoilt", [event(0.4, x=0.2), event(0.4, width=0.05), event(0.4, x=0.02)])
def test_leaving_closing_and_moving_begin_it_anew(spoilt):
    events = [event(0.0), event(0.2), spoilt, *(event(0.2 * n, x=spoilt.keypoints[0, 0]) for n in range(3, 7))]
    if spoilt.keypoints[0, 0] > 0.05:
        assert not any(held(events))
    else:
        since = 2 if spoilt.gripper_width > 0.06 else 3
        assert held(events).index(True) == since + 3


def test_keypoints_that_need_not_rest_may_move():
    events = [event(0.3 * n, x=0.01 * n) for n in range(4)]
    assert not any(held(events))
    assert held(events, Success(WHEN, 0.06, 0.5, {1: 0.005}))[2]


def test_an_interruption_begins_it_anew():
    holding = Holding(Success(WHEN, 0.06, 0.3))
    events = [event(0.2 * n) for n in range(6)]
    assert not holding.push(events[0], events[0])
    holding.interrupt()
    assert [holding.push(e, events[0]) for e in events[2:]] == [False, False, True, True]
