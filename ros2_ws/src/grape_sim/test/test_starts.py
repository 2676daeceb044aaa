from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_sim import kinematics, starts
from grape_sim.robot import HOME_TCP
from grape_sim.scene import make_scene
from grape_sim.tasks import SIM_TASKS, VARIANTS
from grape_sim.world import World

TASKS = st.sampled_from(list(SIM_TASKS))
STATES = st.integers(0, 99_999)
SCENE_7 = (0.5175127835913825, 0.16337394531566723)


@settings(max_examples=40, deadline=None)
@given(TASKS, STATES)
def test_near_limit_starts_have_one_joint_close_to_its_end_but_not_refused(task: str, state: int) -> None:
    joints = np.array(make_scene(task, "near_limit", state).start)
    tcp = kinematics.forward(joints)
    gaps = np.minimum(joints - kinematics.JOINT_LOW, kinematics.JOINT_HIGH - joints)
    assert 0.1 < gaps.min() <= starts.JOINT_GAP[1] + 1e-9 and gaps.min() == starts.limit_distance(joints)
    assert int(gaps.argmin()) in (3, 6), "the elbow or the wrist"
    assert tcp.rotation.as_matrix()[2, 2] < -0.999 and 0.15 < tcp.position[2] < 0.35


@settings(max_examples=40, deadline=None)
@given(TASKS, STATES)
def test_near_edge_starts_are_just_inside_the_workspace(task: str, state: int) -> None:
    point = kinematics.forward(np.array(make_scene(task, "near_edge", state).start)).position
    assert 0.0 < starts.edge_distance(point) < starts.EDGE_GAP[1] + 1e-3


def test_a_point_outside_has_no_distance() -> None:
    assert starts.edge_distance(np.array([0.1, 0.0, 0.2])) == -np.inf


@pytest.mark.parametrize("variant", ["near_limit", "near_edge"])
def test_the_arm_starts_there_at_rest_and_touches_nothing(world: World, variant: str) -> None:
    for state in range(4):
        seen = world.reset("carrot_on_plate", variant, state)
        wanted = kinematics.forward(np.array(world.scene.start))
        assert np.abs(seen.tcp.position - wanted.position).max() < 0.01
        assert np.linalg.norm(seen.tcp.position - HOME_TCP.position) > 0.03 or variant == "near_limit"
        later = world.step(seen.tcp, 1.0)
        assert np.abs(later.tcp.position - seen.tcp.position).max() < 0.01
        assert not later.status.collision
    assert np.abs(world.reset("carrot_on_plate", "clean", 0).tcp.position - HOME_TCP.position).max() < 0.01


def test_the_old_variants_keep_their_places_in_the_seed() -> None:
    assert VARIANTS[:6] == ("clean", "distractors", "obstacle", "near_limit", "near_edge", "moving_hand")
    scene = make_scene("carrot_on_plate", "obstacle", 7)
    assert (scene.object.x, scene.target.y) == pytest.approx(SCENE_7), "the scenes of old bags"
