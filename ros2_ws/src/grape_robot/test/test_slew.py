"""The set point never outruns its limits, and arrives."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_robot import slew
from grape_robot.profile import load_profile

PROFILE = load_profile(Path(__file__).parents[4] / "launch" / "params" / "gate_supervised.yaml")
HOME = Pose(np.array([0.45, 0.0, 0.25]), np.array([1.0, 0.0, 0.0, 0.0]))
PERIOD = PROFILE.control_period

STAYS = (0.0, 0.0, 0.0)
offset = st.tuples(*[st.floats(-0.1, 0.1)] * 3)
turn = st.tuples(*[st.floats(-0.5, 0.5)] * 3)


def away(way, rotation) -> Pose:
    return Pose(HOME.position + way, (Rotation.from_rotvec(rotation) * HOME.rotation).as_quat())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(offset, turn, st.lists(st.floats(-0.01, 0.3), min_size=1, max_size=8)), min_size=1, max_size=4),
    st.floats(0.0, 0.5),
    st.floats(0.0, 1.0),
)
@example([(STAYS, STAYS, [-0.0078125]), ((0.0, 0.0, 0.0625), STAYS, [0.015625])], 0.5, 0.0)  # aims as it goes back
def test_no_step_is_longer_than_its_time_allows(drives, speed, rotation_speed) -> None:
    profile = replace(PROFILE, slew_speed=speed, slew_rotation_speed=rotation_speed)
    now, reached = 100.0, 100.0
    point = slew.at(HOME, now)
    for way, rotation, waits in drives:
        point = slew.aim(point, away(way, rotation), PERIOD, now)
        for wait in waits:
            before, now = point.pose, now + wait
            point = slew.advance(profile, point, now)
            # the clock may go back; time that has passed once does not count twice
            seconds = min(max(now - reached, 0.0), 1.0 / profile.slew_rate)
            reached = max(reached, now)
            assert before.distance(point.pose) <= speed * seconds + 1e-12
            assert before.angle(point.pose) <= rotation_speed * seconds + 1e-7


@settings(deadline=None, max_examples=60)
@given(offset, turn)
def test_it_arrives_evenly_after_one_period_or_as_soon_as_the_limits_let_it(way, rotation) -> None:
    target = away(way, rotation)
    tick = 1.0 / PROFILE.slew_rate
    needed = max(
        PERIOD,
        HOME.distance(target) / PROFILE.slew_speed,
        HOME.angle(target) / PROFILE.slew_rotation_speed,
    )
    point = slew.aim(slew.at(HOME, 5.0), target, PERIOD, 5.0)
    lengths, count = [], 0
    while count < math.ceil(needed / tick - 1e-6) + 2:
        before = point.pose
        count += 1
        point = slew.advance(PROFILE, point, 5.0 + count * tick)
        lengths.append(before.distance(point.pose))
    assert np.array_equal(point.pose.position, target.position)
    assert np.array_equal(point.pose.quaternion, target.quaternion)
    # straight: no way round, and in even pieces but for the last ones
    assert math.isclose(sum(lengths), HOME.distance(target), abs_tol=1e-9)
    if needed <= PERIOD:
        assert max(lengths[:9]) - min(lengths[:9]) < 1e-9


def test_a_frozen_set_point_stays_and_a_pause_is_no_jump() -> None:
    target = away((0.05, 0.0, 0.0), (0.0, 0.0, 0.0))
    point = slew.advance(PROFILE, slew.aim(slew.at(HOME, 0.0), target, PERIOD, 0.0), 0.02)
    frozen = slew.freeze(point)
    assert slew.advance(PROFILE, frozen, 0.2).pose is frozen.pose
    late = slew.advance(PROFILE, point, 60.0)
    assert point.pose.distance(late.pose) <= PROFILE.slew_speed * 0.02 + 1e-12


def test_zero_is_a_limit() -> None:
    profile = replace(PROFILE, slew_speed=0.0)
    point = slew.aim(slew.at(HOME, 0.0), away((0.01, 0.0, 0.0), (0.0, 0.0, 0.0)), PERIOD, 0.0)
    for count in range(1, 30):
        point = slew.advance(profile, point, count * 0.02)
    assert point.pose.distance(HOME) == 0.0


def test_a_drive_begins_where_the_last_one_ended_unless_the_arm_was_moved() -> None:
    last = slew.at(HOME, 0.0)
    near, far = away((0.02, 0.0, 0.0), (0.0, 0.0, 0.0)), away((0.05, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert slew.begin(PROFILE, None, near, 1.0).pose is near
    assert slew.begin(PROFILE, last, near, 1.0).pose is HOME
    assert slew.begin(PROFILE, last, far, 1.0).pose is far
