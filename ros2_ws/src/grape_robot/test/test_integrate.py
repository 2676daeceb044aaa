"""integrate against 4x4 matrices composed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_robot.integrate import ActionError, integrate, rotation_delta

number = st.floats(-1.0, 1.0)
angle = st.floats(-3.0, 3.0)
triple = st.tuples(number, number, number)
angles = st.tuples(angle, angle, angle)
FAR = 100.0


def quaternion(values: tuple[float, float, float, float]) -> np.ndarray:
    q = np.array(values)
    norm = np.linalg.norm(q)
    return q / norm if norm > 1e-3 else np.array([0.0, 0.0, 0.0, 1.0])


poses = st.builds(lambda p, q: Pose(np.array(p), quaternion(q)), triple, st.tuples(number, number, number, number))


def matrix(q: np.ndarray) -> np.ndarray:
    """Rotation matrix of a unit quaternion x, y, z, w, by the textbook formula."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def about(axis: int, theta: float) -> np.ndarray:
    c, s = math.cos(theta), math.sin(theta)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = c
    turn[i, j], turn[j, i] = -s, s
    return turn


def rodrigues(v: tuple[float, float, float]) -> np.ndarray:
    theta = math.sqrt(sum(x * x for x in v))
    if theta == 0.0:
        return np.eye(3)
    x, y, z = (component / theta for component in v)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(theta) * k + (1 - math.cos(theta)) * k @ k


@settings(deadline=None)
@given(poses, poses, triple, angles, st.sampled_from(["euler_xyz", "axis_angle"]))
def test_matches_matrices(reference, measured, translation, rotation, convention) -> None:
    target = integrate(reference, measured, [*translation, *rotation, 0.0], convention, FAR, FAR)
    if convention == "axis_angle":
        delta = rodrigues(rotation)
    else:
        delta = about(2, rotation[2]) @ about(1, rotation[1]) @ about(0, rotation[0])
    assert np.allclose(target.position, reference.position + translation, atol=1e-12)
    assert np.allclose(matrix(target.quaternion), delta @ matrix(reference.quaternion), atol=1e-9)


@settings(deadline=None)
@given(poses, poses, triple, st.floats(0.0, 4.0), st.floats(0.0, 4.0))
def test_reference_is_the_measured_pose_beyond_either_gap(reference, measured, translation, metres, radians) -> None:
    target = integrate(reference, measured, [*translation, 0.0, 0.0, 0.0, 1.0], "euler_xyz", metres, radians)
    gap = math.dist(reference.position, measured.position)
    cosine = (np.trace(matrix(reference.quaternion).T @ matrix(measured.quaternion)) - 1.0) / 2.0
    turn = math.acos(min(max(cosine, -1.0), 1.0))
    if abs(gap - metres) < 1e-6 or abs(turn - radians) < 1e-4:
        return  # on the edge the two ways of computing may disagree
    start = measured if gap > metres or turn > radians else reference
    assert np.allclose(target.position, start.position + translation, atol=1e-12)


def test_zero_gap_follows_the_measured_pose() -> None:
    target = integrate(
        Pose(np.zeros(3)), Pose(np.array([1e-6, 0.0, 0.0])), [0, 0, 0, 0, 0, 0, 1], "euler_xyz", 0.0, 1.0
    )
    assert target.position[0] == 1e-6


def test_errors_name_what_is_wrong() -> None:
    here = Pose(np.zeros(3))
    with pytest.raises(ActionError, match=r"\(6,\)"):
        integrate(here, here, [0.0] * 6, "euler_xyz", 1.0, 1.0)
    with pytest.raises(ActionError, match="'quaternion'"):
        rotation_delta([0.0, 0.0, 0.0], "quaternion")
