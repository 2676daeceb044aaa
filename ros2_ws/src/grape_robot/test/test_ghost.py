import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_robot.arm_model import ArmModel
from grape_robot.ghost import HOME, Ghost, GhostError, follow, ghost_at

MODEL = ArmModel()
metres = st.floats(-0.005, 0.005)


@settings(max_examples=60, deadline=None)
@given(st.tuples(metres, metres, metres), st.floats(-0.01, 0.01))
def test_it_is_where_the_set_point_is(way, turn):
    home = MODEL.forward(HOME)
    turned = home.rotation * type(home.rotation).from_rotvec([0.0, 0.0, turn])
    wanted = Pose(home.position + np.array(way), turned.as_quat())
    ghost, pose = follow(MODEL, Ghost(), wanted, math.nan)
    assert pose.distance(wanted) < 2e-4
    assert pose.angle(wanted) < 2e-4
    # what it says of its joints is what it says of its pose
    again = MODEL.forward(ghost.joints)
    assert again.distance(pose) == 0.0


def test_it_follows_a_long_way_in_the_gates_small_steps():
    ghost, pose = Ghost(), MODEL.forward(HOME)
    goal = pose.position + np.array([0.1, -0.15, -0.2])
    for part in np.linspace(0.0, 1.0, 80):
        wanted = Pose(pose.position + part * (goal - pose.position), pose.quaternion)
        ghost, reached = follow(MODEL, ghost, wanted, math.nan)
        assert reached.distance(wanted) < 2e-4


def test_without_a_set_point_it_stands_still():
    ghost, pose = follow(MODEL, Ghost(), None, math.nan)
    assert ghost == Ghost()
    assert pose.distance(MODEL.forward(HOME)) == 0.0


def test_what_is_out_of_reach_is_not_reached_and_does_no_harm():
    ghost, pose = follow(MODEL, Ghost(), Pose([3.0, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]), math.nan)
    assert np.isfinite(ghost.joints).all()
    assert np.linalg.norm(pose.position) < 1.3  # of the arm's reach


@pytest.mark.parametrize(("gripper", "opening"), [(1.0, 1.0), (0.0, 0.0), (math.nan, 1.0), (7.0, 1.0)])
def test_the_gripper(gripper, opening):
    ghost, _ = follow(MODEL, Ghost(), None, gripper)
    assert ghost.gripper == opening
    assert ghost.knuckle == pytest.approx(topics.KNUCKLE_CLOSED * (1.0 - opening))


@pytest.mark.parametrize("joints", [[], [0.0] * 6, [0.0] * 6 + [math.nan]])
def test_joints_that_are_none(joints):
    with pytest.raises(GhostError, match="parameter joints: seven finite angles"):
        ghost_at(joints)
