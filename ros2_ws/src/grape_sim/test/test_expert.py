from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_sim.demos import demonstrate, integrate
from grape_sim.expert import Expert, ExpertConfig, tcp_yaw, wrap
from grape_sim.tasks import ACTION_TASKS, SIM_TASKS
from grape_sim.unseen import KINDS
from grape_sim.world import World


@given(st.floats(-20, 20), st.sampled_from([math.pi, math.pi / 2]))
def test_wrap_gives_the_nearest_equivalent(angle: float, period: float) -> None:
    wrapped = wrap(angle, period)
    assert -period / 2 - 1e-9 <= wrapped <= period / 2 + 1e-9
    assert math.isclose((angle - wrapped) / period, round((angle - wrapped) / period), abs_tol=1e-6)


@given(st.floats(-1.5, 1.5))
def test_tcp_yaw_is_the_heading(yaw: float) -> None:
    pose = Pose(np.zeros(3), np.array([math.cos(yaw / 2), math.sin(yaw / 2), 0.0, 0.0]))
    assert tcp_yaw(pose) == pytest.approx(yaw, abs=1e-9)


@pytest.mark.parametrize("task", SIM_TASKS)
def test_expert_succeeds_in_time_and_within_its_limits(world: World, task: str) -> None:
    for state in (100, 101):
        episode = demonstrate(world, task, "clean", state)
        assert episode.success and not episode.collision
        assert 18 <= len(episode.actions) <= 35
        assert np.linalg.norm(episode.actions[:, :3], axis=1).max() <= ExpertConfig().max_step + 1e-6
        assert np.abs(episode.actions[:, 3:6]).max() <= ExpertConfig().max_turn + 1e-6
        assert set(np.unique(episode.actions[:, 6])) == {0.0, 1.0}
        changes = np.abs(np.diff(episode.actions[:, 6])).sum()
        assert changes == 2, "closes once, opens once"


@pytest.mark.parametrize("task", ACTION_TASKS)
def test_expert_presses_and_topples_with_closed_fingers(world: World, task: str) -> None:
    for state in (104, 105):
        episode = demonstrate(world, task, "clean", state)
        assert episode.success and not episode.collision and len(episode.actions) <= 20
        assert not episode.actions[:, 6].any()
        assert np.linalg.norm(episode.actions[:, :3], axis=1).max() <= ExpertConfig().max_step + 1e-6


@pytest.mark.parametrize("variant", ["subject", "physical", "grounding"])
def test_expert_does_what_is_told_in_unseen_worlds(world: World, variant: str) -> None:
    tasks = list(SIM_TASKS)
    for state in range(len(KINDS[variant])):
        episode = demonstrate(world, tasks[(state + len(variant)) % 4], variant, 70_000 + state)
        assert episode.success, (episode.task, world.scene.kind)
        assert not world.judge.mistaken


def test_expert_lifts_what_it_carries_over_a_post(world: World) -> None:
    shown = [demonstrate(world, task, "obstacle", 2_000_000 + state) for task in SIM_TASKS for state in range(2)]
    assert all(episode.success for episode in shown)
    assert sum(episode.collision for episode in shown) <= 1, "one that did not know of posts touches nearly every one"


def test_action_depends_on_the_present_alone(world: World) -> None:
    observation = world.reset("carrot_on_plate", "clean", 8)
    seasoned, reference = Expert(world), observation.tcp
    for _ in range(14):
        action = seasoned.action(observation)
        np.testing.assert_array_equal(action, Expert(world).action(observation))
        reference = integrate(reference, observation.tcp, action)
        observation = world.step(reference, action[6])


def test_expert_recovers_when_it_is_shoved_away_and_loses_the_object(world: World) -> None:
    observation = world.reset("green_cube_on_yellow_cube", "clean", 6)
    expert, reference = Expert(world), observation.tcp
    dropped = False
    for step in range(70):
        action = expert.action(observation)
        if step == 4:
            action[:3] = [0.03, -0.03, 0.02]
        if world.judge.held and observation.tcp.position[2] > 0.05 and not dropped:
            action[6], dropped = 1.0, True
        reference = integrate(reference, observation.tcp, action)
        observation = world.step(reference, action[6])
        if observation.status.success:
            break
    assert dropped and observation.status.success
