"""The way home: up, over, down in straight lines, never faster than asked, as the gate itself integrates it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_robot.homing import OPEN, ROTATION, Homing, HomingError, check_homing, reached, step, way
from grape_robot.integrate import integrate
from grape_robot.profile import load_profile

PARAMS = Path(__file__).parents[4] / "launch" / "params"
HOMING = Homing(Pose(np.array([0.42, 0.0, 0.26]), np.array([1.0, 0.0, 0.0, 0.0])), 0.3, 0.1, 0.3, 0.1)

POINTS = st.tuples(st.floats(0.2, 0.7), st.floats(-0.4, 0.4), st.floats(0.0, 0.5)).map(np.array)
TURNS = st.tuples(*[st.floats(-3.0, 3.0)] * 3).map(lambda v: Rotation.from_rotvec(np.array(v) * 0.9).as_quat())
POSES = st.builds(Pose, POINTS, TURNS)


@settings(max_examples=50, deadline=None)
@given(POSES, st.floats(0.02, 0.3), st.floats(0.1, 2.0), st.floats(0.0, 0.6))
def test_the_way_is_straight_slow_and_ends_at_home(start: Pose, speed: float, turning: float, height: float) -> None:
    homing = replace(HOMING, speed=speed, rotation_speed=turning, travel_height=height)
    reference = start
    for number, point in enumerate(way(start, homing)):
        begun, steps = reference, 0
        length, angle = begun.distance(point), begun.angle(point)
        needed = max(length / (speed * homing.period), angle / (turning * homing.period))
        while not reached(reference, point):
            action = step(reference, point, homing)
            # the gate's own function, not a copy of it
            target = integrate(reference, reference, action, ROTATION, 1.0, 4.0)
            assert action[6] == OPEN
            assert reference.distance(target) <= speed * homing.period * (1 + 1e-9) + 1e-12
            assert reference.angle(target) <= turning * homing.period * (1 + 1e-6) + 1e-7
            # on the straight line: the two parts of it add up
            apart = begun.distance(target) + target.distance(point) - length
            assert abs(apart) < 1e-9
            if number != 1:
                assert np.allclose(target.position[:2], begun.position[:2], atol=1e-9)  # up and down only
            else:
                assert target.position[2] == pytest.approx(begun.position[2], abs=1e-9)  # over only
            reference, steps = target, steps + 1
            assert steps <= needed + 2
    assert reference.distance(homing.home) < 1e-5 and reference.angle(homing.home) < 1e-5


@given(POSES, st.floats(0.0, 0.6))
def test_nothing_is_crossed_below_the_travel_height(start: Pose, height: float) -> None:
    homing = replace(HOMING, travel_height=height)
    above_start, above_home, home = way(start, homing)
    assert above_start.position[2] == above_home.position[2] >= max(height, start.position[2], home.position[2])
    # over, it turns; up and down it does not
    assert above_start.angle(start) < 1e-7 and above_home.angle(home) < 1e-7


def test_who_is_home_has_no_way_over() -> None:
    homing = replace(HOMING, travel_height=0.0)
    assert all(reached(homing.home, point) for point in way(homing.home, homing))
    assert homing.at_home(Pose(np.array([0.42, 0.019, 0.26]), HOMING.home.quaternion))
    assert not homing.at_home(Pose(np.array([0.42, 0.021, 0.26]), HOMING.home.quaternion))
    tilted = Rotation.from_rotvec([0.11, 0, 0]) * HOMING.home.rotation
    assert not homing.at_home(Pose(HOMING.home.position, tilted.as_quat()))


@pytest.mark.parametrize("name", ["sim", "supervised", "real"])
def test_the_defaults_fit_the_shipped_profiles(name: str) -> None:
    check_homing(HOMING, load_profile(PARAMS / f"gate_{name}.yaml"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 0.25}, "parameter speed: 0.25 is not above 0 and below profile supervised's 0.25"),
        ({"speed": 0.0}, "parameter speed"),
        ({"rotation_speed": 0.6}, "parameter rotation_speed"),
        ({"travel_height": 0.45}, "parameter travel_height"),
        ({"home": Pose(np.array([0.9, 0.0, 0.26]), HOMING.home.quaternion)}, "parameter home_position"),
        ({"home": Pose(HOMING.home.position, np.array([1.0, 0.0, 0.0, 1.0]))}, "parameter home_quaternion"),
    ],
)
def test_what_the_gate_would_refuse_is_refused_at_the_start(changes: dict, words: str) -> None:
    with pytest.raises(HomingError) as failure:
        check_homing(replace(HOMING, **changes), load_profile(PARAMS / "gate_supervised.yaml"))
    assert words in str(failure.value)
