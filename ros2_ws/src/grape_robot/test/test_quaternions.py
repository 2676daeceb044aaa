"""Against SciPy: to the last bit where the gate computes targets, so that an episode replays as it was recorded."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_robot import quaternions

number = st.floats(-1.0, 1.0)
angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
raw = st.tuples(number, number, number, number)


def unit(q) -> tuple[float, float, float, float]:
    assume(sum(x * x for x in q) > 1e-4)
    return quaternions.normalised(q)


@settings(deadline=None)
@given(raw, raw, angles)
def test_products_and_conventions_are_scipys_to_the_last_bit(p, q, turn) -> None:
    p, q = unit(p), unit(q)
    assert tuple(Rotation.from_quat(p).as_quat()) == quaternions.normalised(p)
    product = quaternions.normalised(quaternions.product(p, q))
    assert tuple((Rotation.from_quat(p) * Rotation.from_quat(q)).as_quat()) == quaternions.normalised(
        quaternions.product(quaternions.normalised(p), quaternions.normalised(q))
    )
    assert np.allclose(product, (Rotation.from_quat(p) * Rotation.from_quat(q)).as_quat(), atol=1e-15)
    assert tuple(Rotation.from_euler("xyz", turn).as_quat()) == quaternions.from_euler(*turn)
    assert tuple(Rotation.from_rotvec(turn).as_quat()) == quaternions.from_vector(turn)


@settings(deadline=None)
@given(raw, raw)
def test_angle_and_vector_are_scipys(p, q) -> None:
    p, q = unit(p), unit(q)
    between = Rotation.from_quat(p).inv() * Rotation.from_quat(q)
    assert math.isclose(quaternions.angle(p, q), between.magnitude(), abs_tol=1e-9)
    vector = np.array(quaternions.to_vector(p))
    assert np.linalg.norm(vector) <= math.pi + 1e-12
    assert (Rotation.from_rotvec(vector).inv() * Rotation.from_quat(p)).magnitude() < 1e-9


@settings(deadline=None)
@given(raw, raw, st.floats(0.0, 1.0))
def test_between_lies_on_the_shorter_way(p, q, part) -> None:
    p, q = unit(p), unit(q)
    whole = quaternions.angle(p, q)
    assume(whole < 3.1)
    there = quaternions.between(p, q, part)
    assert math.isclose(quaternions.angle(p, there), part * whole, abs_tol=1e-7)
    assert math.isclose(quaternions.angle(there, q), (1.0 - part) * whole, abs_tol=1e-7)


@settings(deadline=None)
@given(raw, raw)
def test_the_angle_is_that_of_the_product_to_the_last_bit(p, q) -> None:
    p, q = unit(p), unit(q)
    x, y, z, w = quaternions.product(quaternions.conjugate(p), q)
    assert quaternions.angle(p, q) == 2.0 * math.atan2(math.sqrt(x * x + y * y + z * z), abs(w))
