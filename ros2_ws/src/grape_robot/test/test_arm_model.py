"""The arm's model against kinematics written anew in NumPy, and its prediction against an iterated inverse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_robot.arm_model import ArmModel
from grape_robot.boxes import LinkSphere
from grape_robot.profile import load_profile

PARAMS = Path(__file__).parents[4] / "launch" / "params"
PROFILE = load_profile(PARAMS / "gate_real.yaml")
LOW, HIGH = np.array(PROFILE.joint_limits.low), np.array(PROFILE.joint_limits.high)
REST = (0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4)
MODEL = ArmModel()

joints = st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7).map(lambda u: tuple(LOW + np.array(u) * (HIGH - LOW)))


def turn(axis: str, angle: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, angle).as_matrix()
    return matrix


def shift(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def frames(q) -> list[np.ndarray]:
    """The chain as the arm's data sheet draws it: a shift along the last link, a quarter turn, the joint."""
    quarter = math.pi / 2
    links = [
        shift(0, 0, 0.333),
        turn("x", -quarter),
        shift(0, -0.316, 0) @ turn("x", quarter),
        shift(0.0825, 0, 0) @ turn("x", quarter),
        shift(-0.0825, 0.384, 0) @ turn("x", -quarter),
        turn("x", quarter),
        shift(0.088, 0, 0) @ turn("x", quarter),
    ]
    out, current = [], np.eye(4)
    for link, angle in zip(links, q, strict=True):
        current = current @ link @ turn("z", angle)
        out.append(current)
    return [*out, current @ shift(0, 0, 0.107) @ turn("z", -math.pi / 4) @ shift(0, 0, 0.145)]


@settings(deadline=None, max_examples=50)
@given(joints)
def test_forward_and_jacobian(q) -> None:
    tcp = frames(q)[-1]
    pose = MODEL.forward(q)
    assert np.allclose(pose.position, tcp[:3, 3], atol=1e-12)
    assert np.allclose(pose.rotation.as_matrix(), tcp[:3, :3], atol=1e-12)
    jacobian, step = MODEL.jacobian(q), 1e-6
    for joint in range(7):
        moved = np.array(q)
        moved[joint] += step
        there = frames(moved)[-1]
        assert np.allclose((there[:3, 3] - tcp[:3, 3]) / step, jacobian[:3, joint], atol=1e-5)
        turned = Rotation.from_matrix(there[:3, :3] @ tcp[:3, :3].T).as_rotvec()
        assert np.allclose(turned / step, jacobian[3:, joint], atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(joints, st.tuples(*[st.floats(-0.2, 0.2)] * 3))
def test_spheres_ride_on_their_links(q, centre) -> None:
    links = ("fr3_link0", "fr3_link3", "fr3_link7", "fr3_link8", "hand", "tcp")
    model = ArmModel([LinkSphere(link, centre, 0.1) for link in links])
    chain = frames(q)
    flange = chain[6] @ shift(0, 0, 0.107)
    expected = [np.eye(4), chain[2], chain[6], flange, flange @ turn("z", -math.pi / 4), chain[7]]
    for place, frame in zip(model.centres(q), expected, strict=True):
        assert np.allclose(place, (frame @ np.array([*centre, 1.0]))[:3], atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-0.3, 0.3), min_size=7, max_size=7),
    st.tuples(*[st.floats(-0.03, 0.03)] * 3),
    st.tuples(*[st.floats(-0.06, 0.06)] * 3),
)
@example([0.0] * 7, (0.0234375, 0.015625, 0.0), (0.0, 0.0, 0.0))
def test_the_prediction_reaches_the_target_to_second_order(offsets, way, rotation) -> None:
    q = tuple(np.array(REST) + offsets)
    here = MODEL.forward(q)
    target = Pose(here.position + way, (Rotation.from_rotvec(rotation) * here.rotation).as_quat())
    there = MODEL.reach(q, here, target)
    reached = MODEL.forward(there)
    # the same step by the formula, and what its damping leaves of the way
    step, error = np.array(there) - q, np.concatenate([way, rotation])
    jacobian = MODEL.jacobian(q)
    solution = np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), error)
    assert np.allclose(step, jacobian.T @ solution, rtol=0.0, atol=1e-11)
    short, curved = 1e-4 * solution, float(step @ step)  # the arm is less than a metre long
    assert reached.distance(target) <= float(np.linalg.norm(short[:3])) + curved + 1e-9
    assert reached.angle(target) <= float(np.linalg.norm(short[3:])) + curved + 1e-7
    # of all postures the nearest: no motion that does not move the TCP
    null = np.linalg.svd(jacobian)[2][-1]
    assert abs(step @ null) < 1e-9


def test_near_a_singularity_the_joints_are_far() -> None:
    stretched = (0.0, 0.3, 0.0, -0.16, 0.0, 1.9, 0.0)
    here = MODEL.forward(stretched)
    outwards = here.position / np.linalg.norm(here.position) * 0.05
    step = np.array(MODEL.reach(stretched, here, Pose(here.position + outwards, here.quaternion))) - stretched
    calm = np.array(
        MODEL.reach(
            REST, MODEL.forward(REST), Pose(MODEL.forward(REST).position + outwards, MODEL.forward(REST).quaternion)
        )
    )
    assert np.abs(step).max() > PROFILE.max_joint_step > np.abs(calm - REST).max()


def test_a_link_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"link_spheres\[0\]: link 'elbow', expected one of fr3_link0"):
        ArmModel([LinkSphere("elbow", (0.0, 0.0, 0.0), 0.1)])


def test_profiles_get_the_model_they_need() -> None:
    assert ArmModel.of(load_profile(PARAMS / "gate_sim.yaml")) is None
    model = ArmModel.of(PROFILE)
    assert model is not None and model.spheres == PROFILE.link_spheres
