"""The arm's arithmetic against finite differences, against itself, and against the engine's own."""

from __future__ import annotations

import numpy as np
import pybullet as pb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_sim import kinematics as kin
from grape_sim.world import World

NEAR_REST = st.lists(st.floats(-0.5, 0.5), min_size=7, max_size=7).map(lambda offsets: kin.REST + np.array(offsets))


@settings(max_examples=40, deadline=None)
@given(NEAR_REST)
def test_jacobian_is_the_derivative_of_forward(joints: np.ndarray) -> None:
    step = 1e-6
    numeric = np.empty((6, 7))
    for index in range(7):
        plus, minus = joints.copy(), joints.copy()
        plus[index] += step
        minus[index] -= step
        high, low = kin.forward(plus), kin.forward(minus)
        numeric[:3, index] = (high.position - low.position) / (2 * step)
        numeric[3:, index] = (high.rotation * low.rotation.inv()).as_rotvec() / (2 * step)
    np.testing.assert_allclose(kin.jacobian(joints), numeric, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.32, 0.62),
    st.floats(-0.28, 0.28),
    st.floats(0.01, 0.35),
    st.floats(-0.7, 0.7),
    st.floats(-0.15, 0.15),
    st.floats(-0.15, 0.15),
)
def test_inverse_reaches_every_pose_of_the_workspace(
    x: float, y: float, z: float, yaw: float, roll: float, pitch: float
) -> None:
    turn = Rotation.from_euler("xyz", [roll, pitch, yaw]) * Rotation.from_quat([1, 0, 0, 0])
    wanted = Pose(np.array([x, y, z]), turn.as_quat())
    joints = kin.inverse(wanted, kin.REST, iterations=200)
    found = kin.forward(joints)
    assert found.distance(wanted) < 1e-4
    assert found.angle(wanted) < 1e-3
    assert (joints >= kin.JOINT_LOW).all() and (joints <= kin.JOINT_HIGH).all()


def test_inverse_of_a_pose_out_of_reach_points_there() -> None:
    far = Pose(np.array([3.0, 0.0, 0.3]), np.array([1.0, 0, 0, 0]))
    joints = kin.inverse(far, kin.REST, iterations=300)
    assert np.isfinite(joints).all()
    assert kin.forward(joints).position[0] > kin.forward(kin.REST).position[0]


def test_forward_agrees_with_the_engine(world: World) -> None:
    world.reset("carrot_on_plate")
    world.step(Pose(np.array([0.46, 0.05, 0.2]), np.array([1.0, 0, 0, 0])), 1.0)
    base = world.robot.links["robotiq_arg2f_85_base_link"]
    state = pb.getLinkState(world.robot.body, base, computeForwardKinematics=True, physicsClientId=world.client)
    hand = Pose(np.array(state[4]), np.array(state[5]))
    tcp = hand.position + hand.rotation.apply([0.0, 0.0, kin.TOOL_OFFSET])
    np.testing.assert_allclose(world.robot.tcp().position, tcp, atol=1e-6)
    assert world.robot.tcp().angle(hand) < 1e-6
