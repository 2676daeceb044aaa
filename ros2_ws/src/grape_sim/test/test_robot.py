from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pybullet as pb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_sim import robot as rb
from grape_sim.world import World

DOWN = np.array([1.0, 0.0, 0.0, 0.0])


def test_composed_description_is_whole(tmp_path: Path) -> None:
    root = ET.parse(rb.compose_urdf(tmp_path)).getroot()
    links = {link.get("name") for link in root.iter("link")}
    children = [joint.find("child").get("link") for joint in root.iter("joint")]  # type: ignore[union-attr]
    parents = {joint.find("parent").get("link") for joint in root.iter("joint")}  # type: ignore[union-attr]
    assert len(children) == len(set(children)) == len(links) - 1, "a tree"
    assert parents <= links and links - set(children) == {"panda_link0"}
    assert not any("hand" in str(link) for link in links), "Franka's own hand is gone"
    assert all(Path(mesh.get("filename", "")).is_file() for mesh in root.iter("mesh"))
    assert all(float(mass.get("value", "0")) > 0 for mass in root.iter("mass"))


@given(st.floats(-1.0, 2.0), st.floats(-1.0, 2.0))
def test_width_falls_with_the_knuckle(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rb.WIDTH_OPEN >= rb.knuckle_to_width(low) >= rb.knuckle_to_width(high) >= 0.0
    assert rb.knuckle_to_width(0.0) == rb.WIDTH_OPEN and rb.knuckle_to_width(rb.KNUCKLE_CLOSED) == 0.0


def test_tip_drop_agrees_with_the_pads(world: World) -> None:
    world.reset("carrot_on_plate")
    for gripper in (1.0, 0.4, 0.0):
        for _ in range(4):
            observation = world.step(rb.HOME_TCP, gripper)
        pad = pb.getLinkState(
            world.robot.body, world.robot.pads[0], computeForwardKinematics=True, physicsClientId=world.client
        )
        tip = observation.tcp.position[2] - (pad[4][2] - 0.0176)
        assert rb.finger_tip_drop(observation.gripper_width) == pytest.approx(tip, abs=0.003)


def test_arm_is_where_it_was_sent_after_one_period(world: World) -> None:
    world.reset("carrot_on_plate")
    target = rb.HOME_TCP
    for offset in ([0.03, 0.02, -0.03], [0.0, -0.04, 0.01], [-0.02, 0.0, 0.03]):
        target = Pose(target.position + np.array(offset), DOWN)
        observation = world.step(target, 1.0)
        assert observation.tcp.distance(target) < 0.003
        assert observation.tcp.angle(target) < 0.01
    assert np.abs(world.step(target, 1.0).joint_velocities).max() < 0.05


def test_gripper_closes_opens_and_its_joints_mimic_each_other(world: World) -> None:
    world.reset("carrot_on_plate")
    for _ in range(4):
        observation = world.step(rb.HOME_TCP, 0.0)
    assert observation.gripper_width < 0.002 and observation.knuckle == pytest.approx(rb.KNUCKLE_CLOSED, abs=0.02)
    angles = {}
    for index in range(pb.getNumJoints(world.robot.body, physicsClientId=world.client)):
        name = pb.getJointInfo(world.robot.body, index, physicsClientId=world.client)[1].decode()
        angles[name] = pb.getJointState(world.robot.body, index, physicsClientId=world.client)[0]
    for name, sign in (
        ("left_inner_finger_joint", -1),
        ("right_outer_knuckle_joint", 1),
        ("right_inner_finger_joint", -1),
    ):
        assert angles[name] == pytest.approx(sign * observation.knuckle, abs=0.02)
    for _ in range(4):
        observation = world.step(rb.HOME_TCP, 1.0)
    assert observation.gripper_width > 0.084


def test_wrench_is_nothing_in_the_air_and_pushes_back_from_the_table(world: World) -> None:
    observation = world.reset("carrot_on_plate", "clean", 2)
    np.testing.assert_allclose(observation.wrench, 0.0, atol=1e-9)
    free = Pose(np.array([0.47, 0.0 if abs(observation.keypoints[0][1]) > 0.05 else 0.15, 0.05]), DOWN)
    target = observation.tcp
    for _ in range(10):
        step = np.clip(free.position - target.position, -0.05, 0.05)
        target = Pose(target.position + step, DOWN)
        observation = world.step(target, 1.0)
    for _ in range(3):
        target = Pose(target.position - [0, 0, 0.02], DOWN)
        observation = world.step(target, 1.0)
    assert observation.wrench[2] > 5.0, "the table pushes the hand upwards"
    assert observation.status.collision
