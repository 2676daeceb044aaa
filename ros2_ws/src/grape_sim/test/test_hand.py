from __future__ import annotations

import math

import numpy as np
import pybullet as pb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_sim.hand import OUTSIDE, YIELD_GAP, HandMotion, HandPath, hand_path
from grape_sim.robot import HOME_TCP
from grape_sim.scene import make_scene
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import World

DT = 1 / 240
PATH = HandPath(x=0.45, z=0.13, reach=0.0, side=1, speed=0.25, wait=1.0, stay=2.0)


def test_the_hand_comes_stays_goes_and_comes_again_as_its_path_says() -> None:
    motion, ys = HandMotion(PATH), []
    while len(ys) * DT < 30.0:
        ys.append(motion.step(DT, free=True))
    way = OUTSIDE / PATH.speed
    arrived, left = ys.index(PATH.reach), len(ys)
    assert arrived * DT == pytest.approx(PATH.wait + way, abs=0.02)
    left = next(index for index in range(arrived, len(ys)) if ys[index] != PATH.reach)
    assert (left - arrived) * DT == pytest.approx(PATH.stay, abs=0.02)
    home = next(index for index in range(left, len(ys)) if ys[index] == OUTSIDE)
    assert (home - left) * DT == pytest.approx(way, abs=0.02)
    assert PATH.reach in ys[home:], "and again"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.booleans(), min_size=20, max_size=20),
    st.sampled_from([0.01, DT]),
)
def test_the_hand_never_jumps_never_leaves_its_way_and_rests_while_something_is_in_it(
    seed: int, free: list[bool], dt: float
) -> None:
    path = hand_path(np.random.default_rng(seed), (0.45, 0.05))
    motion = HandMotion(path)
    for clear in free:
        for _ in range(50):
            before = motion.y
            after = motion.step(dt, clear)
            assert abs(after - before) <= path.speed * dt + 1e-12
            assert min(path.reach, path.side * OUTSIDE) - 1e-9 <= after <= max(path.reach, path.side * OUTSIDE) + 1e-9
            assert clear or after == before


def test_a_hand_that_cannot_come_goes_back_and_tries_again() -> None:
    motion = HandMotion(PATH)
    for _ in range(round((PATH.wait + 1.0) / DT)):
        motion.step(DT, free=True)
    held = motion.y
    assert PATH.reach < held < OUTSIDE
    for _ in range(round((PATH.patience + 0.1) / DT)):
        motion.step(DT, free=False)
    assert motion.y == held and motion.direction == PATH.side, "it wants to go"
    for _ in range(round(20.0 / DT)):
        motion.step(DT, free=True)
        if motion.y == PATH.reach:
            return
    raise AssertionError("it never came again")


def gap(world: World) -> float:
    """Distance between robot and hand by the engine, metres."""
    points = [
        point[8]
        for body in world._hand.bodies
        for point in pb.getClosestPoints(world.robot.body, body, 1.0, physicsClientId=world.client)
    ]
    return min(points)


def test_a_resting_arm_is_never_touched(world: World) -> None:
    """Whatever the path: the hand stops before an arm that stands in its way, low over the table."""
    for task in list(SIM_TASKS)[:2]:
        for state in (3, 4):
            observation = world.reset(task, "moving_hand", state)
            path = world.scene.hand
            down = Pose(np.array([path.x, path.reach + path.side * 0.05, path.z]), HOME_TCP.quaternion)
            for target in (Pose(np.array([*down.position[:2], 0.26]), HOME_TCP.quaternion), down):
                observation = world.step(target, 1.0)
            least = math.inf
            for _ in range(60):
                world.advance(0.1)
                least = min(least, gap(world))
            status = world.observe(color=False).status
            assert not status.collision and least > 0.5 * YIELD_GAP
            assert status.clearance < 2.0 * YIELD_GAP, "it did come near"
            assert observation.keypoint_names == make_scene(task, "clean", state).names, "a hand is no keypoint"


def test_an_arm_that_moves_into_the_hand_has_collided(world: World) -> None:
    observation = world.reset("carrot_on_plate", "moving_hand", 5)
    path = world.scene.hand
    assert observation.status.clearance > YIELD_GAP
    while abs(np.mean([observation.keep_outs[0].low[1], observation.keep_outs[0].high[1]]) - path.reach) > 1e-6:
        world.advance(0.05)
        observation = world.observe(color=False)
        assert not observation.status.collision
    palm = observation.keep_outs[0]
    middle = 0.5 * (np.array(palm.low) + np.array(palm.high))
    for height in (0.24, 0.20, 0.17, 0.14, 0.12):
        observation = world.step(Pose(np.array([middle[0], middle[1], height]), HOME_TCP.quaternion), 0.0)
    assert observation.status.collision and observation.status.clearance == 0.0
    assert observation.status.contact_force > 0.5


def test_keep_outs_are_the_bodies_boxes_and_only_there_with_a_hand(world: World) -> None:
    assert world.reset("spoon_on_towel", "clean", 0).keep_outs == ()
    world.reset("spoon_on_towel", "moving_hand", 0)
    for _ in range(15):
        world.advance(0.2)
        boxes = world.observe(color=False).keep_outs
        assert [box.name for box in boxes] == ["palm", "forearm"]
        for box, body in zip(boxes, world._hand.bodies, strict=True):
            low, high = pb.getAABB(body, physicsClientId=world.client)
            assert np.abs(np.array(box.low) - low).max() < 0.005 and np.abs(np.array(box.high) - high).max() < 0.005
