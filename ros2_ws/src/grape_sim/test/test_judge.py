"""The judge's words against situations put together by hand."""

from __future__ import annotations

import math

import numpy as np
import pybullet as pb
import pytest

from grape_episode.geometry import Pose
from grape_sim.demos import integrate
from grape_sim.expert import Expert
from grape_sim.judge import REACH
from grape_sim.objects import object_model
from grape_sim.robot import HOME_TCP
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import World

DOWN = np.array([1.0, 0.0, 0.0, 0.0])


def put(world: World, offset: tuple[float, float, float]) -> None:
    """Put the object over the target's surface, ``offset`` from where it would rest."""
    rest = world.keypoints()[1] + [0.0, 0.0, object_model(world.scene.object.model).rest_height + 0.002]
    place = (rest + np.array(offset)).tolist()
    pb.resetBasePositionAndOrientation(world.bodies[0], place, (0, 0, 0, 1), physicsClientId=world.client)


def wait(world: World, seconds: float = 0.6):
    world.advance(seconds)
    return world.observe(color=False).status


@pytest.mark.parametrize("task", SIM_TASKS)
def test_resting_on_the_target_is_success_and_beside_it_is_not(world: World, task: str) -> None:
    assert not world.reset(task, "clean", 2).status.success
    put(world, (0, 0, 0))
    status = wait(world)
    assert status.success and not status.grasped and not status.collision
    assert math.isnan(status.clearance)
    beside = object_model(SIM_TASKS[task].target).radius + object_model(SIM_TASKS[task].object).radius
    put(world, (0.0, beside + 0.02, 0.0))
    assert not wait(world).success, "success is of this moment"


def test_above_the_target_in_the_air_is_no_success(world: World) -> None:
    world.reset("carrot_on_plate", "clean", 2)
    put(world, (0, 0, 0.02))
    world.advance(1 / 60)
    assert not world.observe(color=False).status.success


def test_on_the_rim_of_the_basket_is_no_success(world: World) -> None:
    world.reset("eggplant_in_basket", "clean", 2)
    put(world, (0.0, 0.0, 0.0))
    assert wait(world).success
    world.reset("eggplant_in_basket", "clean", 2)
    put(world, (0.088, 0.0, 0.055))
    world.advance(0.05)
    assert not world.observe(color=False).status.success


def test_held_over_the_target_is_no_success_until_let_go(world: World) -> None:
    observation = world.reset("green_cube_on_yellow_cube", "clean", 5)
    expert = Expert(world)
    reference = observation.tcp
    lifted_at, done = None, []
    for step in range(40):
        action = expert.action(observation)
        reference = integrate(reference, observation.tcp, action)
        observation = world.step(reference, action[6])
        if observation.status.grasped and lifted_at is None:
            lifted_at = step
            assert world.judge.held
            assert observation.keypoints[0][2] > 0.03
        if observation.status.success:
            assert not world.judge.held
            done.append(step)
    assert lifted_at is not None and done and lifted_at < done[0]
    assert observation.status.grasped, "grasped is of the whole episode"
    assert not observation.status.collision


def drive(world: World, start: Pose, goal: np.ndarray, gripper: float):
    """Move in a straight line; returns the last target and what is observed there."""
    target = start
    observation = world.observe(color=False)
    while np.linalg.norm(goal - target.position) > 1e-6:
        step = goal - target.position
        step *= min(1.0, 0.05 / np.linalg.norm(step))
        target = Pose(target.position + step, DOWN)
        world.set_target(target, gripper)
        world.advance(world.config.control_period)
        observation = world.observe(color=False)
    return target, observation


def test_every_push_against_the_obstacle_counts_and_clearance_falls_to_zero(world: World) -> None:
    observation = world.reset("carrot_on_plate", "obstacle", 3)
    assert 0.0 < observation.status.clearance <= REACH
    assert observation.keypoint_names[2] == "post"
    post = observation.keypoints[2]
    away = post + np.array([-0.12, 0.0, 0.15])
    target, seen = drive(world, HOME_TCP, away, 0.0)
    assert not seen.status.collision
    down, seen = drive(world, target, post + np.array([-0.12, 0.0, 0.04]), 0.0)
    assert not seen.status.collision
    before = seen.status.clearance
    hit, seen = drive(world, down, post + np.array([-0.02, 0.0, 0.04]), 0.0)
    assert seen.status.collision and seen.status.collisions >= 1
    assert seen.status.contact_force > 0.5
    assert seen.status.clearance < 0.005 < before
    first = seen.status.collisions
    back, seen = drive(world, hit, post + np.array([-0.12, 0.0, 0.04]), 0.0)
    assert seen.status.collision, "a collision is of the whole episode"
    _, seen = drive(world, back, post + np.array([0.03, 0.0, 0.04]), 0.0)
    assert seen.status.collisions > first


def test_a_new_episode_starts_innocent(world: World) -> None:
    status = world.reset("carrot_on_plate", "distractors", 3).status
    assert (status.success, status.grasped, status.collision, status.collisions) == (False, False, False, 0)
    assert status.contact_force == 0.0 and status.clearance <= REACH


def test_lifting_the_wrong_object_fails_the_episode_for_good(world: World) -> None:
    world.reset("green_cube_on_yellow_cube", "grounding", 60_002)
    assert world.scene.kind == "object_colour"
    wrong = world.bodies[2]
    place = pb.getBasePositionAndOrientation(wrong, physicsClientId=world.client)[0]
    for rise, mistaken in ((0.008, False), (0.03, True)):
        lifted = (place[0], place[1], place[2] + rise)
        pb.resetBasePositionAndOrientation(wrong, lifted, (0, 0, 0, 1), physicsClientId=world.client)
        world.advance(1 / 60)
        assert world.judge.mistaken == mistaken
    put(world, (0, 0, 0))
    assert not wait(world).success, "the right object on its target makes no good of it"
    assert not world.observe(color=False).status.collision, "a candidate may be touched"
    world.reset("green_cube_on_yellow_cube", "grounding", 60_002)
    put(world, (0, 0, 0))
    assert wait(world).success and not world.judge.mistaken


def test_the_wrong_target_fails_the_episode_for_good(world: World) -> None:
    world.reset("carrot_on_plate", "grounding", 60_001)
    assert world.scene.kind == "target_side"
    named, other = world.keypoints()[[1, 2]]
    put(world, tuple(np.append((other - named)[:2], 0.0)))
    assert not wait(world).success and world.judge.mistaken
    put(world, (0, 0, 0))
    assert not wait(world).success


def test_a_button_is_pressed_by_the_hand_all_the_way_and_springs_back(world: World) -> None:
    observation = world.reset("press_button", "clean", 3)
    cap, rest = world.bodies[0], observation.keypoints[0]
    pb.resetBasePositionAndOrientation(cap, (rest - [0, 0, 0.009]).tolist(), (0, 0, 0, 1), physicsClientId=world.client)
    world.advance(1 / 60)
    assert not world.observe(color=False).status.success, "down, but nobody has pressed it"
    assert wait(world, 1.0).success is False and world.keypoints()[0] == pytest.approx(rest, abs=0.002)
    expert, reference = Expert(world), observation.tcp
    for _ in range(20):
        action = expert.action(observation)
        reference = integrate(reference, observation.tcp, action)
        observation = world.step(reference, action[6])
    assert observation.status.success and not observation.status.collision
    drive(world, reference, observation.tcp.position + np.array([0, 0, 0.1]), 0.0)
    assert world.keypoints()[0][2] == pytest.approx(rest[2], abs=0.002), "it has sprung back"
    assert world.observe(color=False).status.success, "pressed once is pressed"


def test_a_bottle_that_leans_is_not_down(world: World) -> None:
    observation = world.reset("knock_down_bottle", "clean", 3)
    x, y, z = observation.keypoints[0]
    for lean, down in ((0.35, False), (1.5, True)):
        turn = (math.sin(lean / 2), 0.0, 0.0, math.cos(lean / 2))
        place = (x, y, z if not down else 0.03)
        for _ in range(8):
            pb.resetBasePositionAndOrientation(world.bodies[0], place, turn, physicsClientId=world.client)
            world.advance(1 / 60)
        assert world.observe(color=False).status.success == down
