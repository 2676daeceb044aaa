from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose

unit = st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: math.hypot(*q) > 0.1)
point = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


def quaternion_angle(a, b):
    """2 acos |<a, b>|: another way to the angle between two rotations than composing them."""
    a, b = np.array(a) / math.hypot(*a), np.array(b) / math.hypot(*b)
    return 2 * math.acos(min(1.0, abs(float(a @ b))))


@settings(max_examples=100, deadline=None)
@given(point, point, unit, unit)
def test_distance_and_angle(p, q, a, b):
    one, two = Pose(p, a), Pose(q, b)
    assert one.distance(two) == pytest.approx(math.dist(p, q), abs=1e-12)
    assert one.angle(two) == pytest.approx(quaternion_angle(a, b), abs=1e-6)
    assert one.angle(two) == pytest.approx(two.angle(one), abs=1e-9)
    assert 0 <= one.angle(two) <= math.pi + 1e-9


def test_quaternions_are_x_y_z_w():
    half = math.sqrt(0.5)
    turned = Pose([0, 0, 0], [0, 0, half, half])
    np.testing.assert_allclose(turned.rotation.apply([1, 0, 0]), [0, 1, 0], atol=1e-12)
    assert turned.angle(Pose([0, 0, 0])) == pytest.approx(math.pi / 2)
    assert Pose([1, 2, 3]).quaternion.tolist() == [0, 0, 0, 1]
    assert isinstance(turned.rotation, Rotation)


@pytest.mark.parametrize(("position", "quaternion"), [([0, 0], [0, 0, 0, 1]), ([0, 0, 0], [0, 0, 1])])
def test_wrong_shapes_are_refused_with_both(position, quaternion):
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\), not \(\d,\) and \(\d,\)"):
        Pose(position, quaternion)


def test_a_pose_keeps_a_copy():
    position = np.zeros(3)
    pose = Pose(position)
    position[0] = 1
    assert pose.position[0] == 0
