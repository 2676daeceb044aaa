"""The reward's judgement against the simulator's own, on scripted rollouts, some of them spoilt on purpose.

``python tests/test_reward_in_sim.py STATES [VARIANT...]`` prints the agreement over so many initial states a task,
fault and variant."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grape_episode.episode import Episode, Identity, Outcome, Series, Step
from grape_episode.geometry import Array, Pose
from grape_reward.live import LiveEpisode
from grape_reward.predicates import HorizontalDistance, leaves
from grape_reward.score import Score, score_episode
from grape_reward.tasks import TASKS
from grape_sim.expert import Expert
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import Observation, World

NANOSECONDS = 1_000_000_000
FAULTS = ("none", "noise", "drop", "offset", "stay", "miss", "pinch")
"""What is wrong with a rollout: nothing; random disturbances; the gripper opens on the way; the object is let go
beside the middle of its target; the hand does not leave after letting go; it reaches beside the object; it never
opens."""


@dataclass
class _Spoiler:
    """Changes the expert's actions. ``radius``: of the target, metres, ``since``: steps for which the object has been
    held, ``over``: steps since it was to be let go."""

    fault: str
    rng: np.random.Generator
    radius: float
    since: int = 0
    over: int = 0

    def __post_init__(self) -> None:
        self.after = int(self.rng.integers(1, 12))
        angle = self.rng.uniform(0, 2 * np.pi)
        self.aside = np.array([np.cos(angle), np.sin(angle), 0.0]) * self.rng.uniform(0.2, 1.7) * self.radius
        self.noise = self.rng.uniform(0.003, 0.012)

    def __call__(self, action: Array, held: bool, in_place: bool) -> Array:
        out = action.copy()
        self.since += held
        if self.fault == "noise":
            out[:3] += self.rng.normal(0.0, self.noise, 3)
        elif self.fault == "drop" and self.since > self.after:
            out[6] = 1.0
        elif self.fault == "offset" and (self.over or (self.since and action[6] > 0.5)):
            self.over += 1
            out[:] = [*self.aside / 3, 0, 0, 0, 0.0] if self.over <= 3 else [0, 0, 0.02 * (self.over > 5), 0, 0, 0, 1.0]
        elif self.fault == "stay" and in_place and not held:
            out[:6] = 0.0
        elif self.fault == "miss":
            out[:2] += 0.015 * self.aside[:2] / np.linalg.norm(self.aside)
        elif self.fault == "pinch" and self.since:
            out[6] = 0.0
        return out


def rollout(
    world: World, task: str, initial_state: int, fault: str = "none", variant: str = "clean", step_limit: int = 60
) -> Episode:
    """One episode: ended, as the policy does in lock-step, when the reward says success. ``Episode.world`` holds the
    world's own judgement at its last observation."""
    rng = np.random.default_rng([initial_state, FAULTS.index(fault)])
    expert, spoil = Expert(world), _Spoiler(fault, rng, _radius(task))
    world.reset(task, variant, initial_state)
    observation = world.observe(color=False)
    identity = Identity(
        f"{task}-{fault}-{initial_state}", task, world.task.instruction, variant, initial_state, "task_completion",
        0, 1.0, step_limit, world.config.control_period, True, "b" * 64, "", 0, "", "", "test", (),
        stamp=_stamp(observation) - 1,
    )  # fmt: skip
    live = LiveEpisode(identity)
    observations: list[Observation] = []
    steps: list[Step] = []
    reference, success = observation.tcp, False
    while True:
        observations.append(observation)
        stamp = _stamp(observation)
        live.sample("tcp", stamp, np.concatenate([observation.tcp.position, observation.tcp.quaternion]))
        live.sample("gripper", stamp, observation.gripper_width)
        live.sample("keypoints", stamp, observation.keypoints)
        standing, _, _ = live.advance()
        success = standing[-1].live.success == 1
        if success or len(steps) == step_limit:
            break
        action = spoil(expert.action(observation), world.judge.held, world.judge.in_place())
        step = _step(len(steps), stamp, world, observation, action, rng)
        steps.append(step)
        live.step(step.index, stamp, step.logprobs)
        reference = _integrated(reference, observation.tcp, action)
        world.set_target(reference, float(action[6]))
        world.advance(world.config.control_period)
        observation = world.observe(color=False)
    stamps = np.array([_stamp(o) for o in observations], np.int64)
    return Episode(
        identity,
        tuple(steps),
        Outcome("success" if success else "step_limit", "", len(steps), int(success), False, int(stamps[-1])),
        tcp=Series(stamps, np.array([[*o.tcp.position, *o.tcp.quaternion] for o in observations])),
        gripper=Series(stamps, np.array([[o.gripper_width] for o in observations])),
        keypoints=Series(stamps, np.array([o.keypoints for o in observations]), observation.keypoint_names),
        world=observation.status,
    )


def _radius(task: str) -> float:
    """Of the target, metres: how far aside of its middle the object may come to rest."""
    conditions = leaves(TASKS[task].success.when)
    return next(c.at_most for c in conditions if isinstance(c.measure, HorizontalDistance))


def _stamp(observation: Observation) -> int:
    return NANOSECONDS + round(observation.time * NANOSECONDS)


def _integrated(reference: Pose, measured: Pose, action: Array) -> Pose:
    base = reference if reference.distance(measured) <= 0.05 else measured
    return Pose(base.position + action[:3], (Rotation.from_euler("xyz", action[3:6]) * base.rotation).as_quat())


def _step(
    index: int, stamp: int, world: World, observation: Observation, action: Array, rng: np.random.Generator
) -> Step:
    return Step(
        index, stamp, world.task.instruction, np.zeros(7, np.int32), -rng.exponential(1, 7).astype(np.float32),
        np.ones(7, np.float32), action, "euler_xyz", observation.tcp, observation.gripper_width, "", 0, "b" * 64,
        1.0, 0, 0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """One rollout, judged twice."""

    task: str
    fault: str
    episode: Episode
    score: Score

    @property
    def agree(self) -> bool:
        return self.score.success == int(self.episode.world.success)


def judge(states: Iterable[int], tasks: Iterable[str], faults: Iterable[str], variant: str = "clean") -> list[Verdict]:
    verdicts = []
    with World() as world:
        for state, task, fault in itertools.product(states, tasks, faults):
            episode = rollout(world, task, state, fault, variant)
            verdicts.append(Verdict(task, fault, episode, score_episode(episode)))
    return verdicts


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return judge([200_000], TASKS, FAULTS) + judge([200_001], TASKS, ("none", "noise", "offset"), "obstacle")


def test_both_know_the_same_tasks():
    assert {name: task.instruction for name, task in SIM_TASKS.items()} == {n: t.instruction for n, t in TASKS.items()}
    assert {n: t.step_limit for n, t in SIM_TASKS.items()} == {n: t.step_limit for n, t in TASKS.items()}
    assert {n: (t.object, t.target) for n, t in SIM_TASKS.items()} == {n: t.keypoints for n, t in TASKS.items()}


def test_the_reward_agrees_with_the_world_on_success(verdicts):
    wrong = [v.score.episode_id for v in verdicts if not v.agree]
    assert len(wrong) <= 0.03 * len(verdicts), wrong
    truths = [v.episode.world.success for v in verdicts]
    assert truths.count(True) >= 10 and truths.count(False) >= 10


def test_the_first_stage_ends_where_the_world_saw_a_grasp(verdicts):
    wrong = [v.score.episode_id for v in verdicts if (v.score.stages_reached >= 2) != v.episode.world.grasped]
    assert len(wrong) <= 0.05 * len(verdicts), wrong


def test_scores_are_complete_and_a_clean_success_costs_less_than_any_failure_to_grasp(verdicts):
    assert not [v.score.problems for v in verdicts if v.score.incomplete]
    for task in TASKS:
        of_task = [v.score for v in verdicts if v.task == task and v.episode.identity.variant == "clean"]
        success = [score.log_r_ext for score in of_task if score.success == 1]
        ungrasped = [score.log_r_ext for score in of_task if score.stages_reached == 1]
        assert success and ungrasped and min(success) > max(ungrasped)


def main(states: int, variants: list[str]) -> None:
    everything: list[Verdict] = []
    for variant in variants:
        for task, fault in itertools.product(TASKS, FAULTS):
            found = judge(range(200_000, 200_000 + states), [task], [fault], variant)
            everything += found
            mine, truth = (sum(v.score.success for v in found), sum(v.episode.world.success for v in found))
            odd = ", ".join(v.score.episode_id for v in found if not v.agree)
            print(f"{variant} {task} {fault}: reward {mine}, world {truth} of {len(found)} {odd}", flush=True)
    agreed = sum(v.agree for v in everything)
    grasps = sum((v.score.stages_reached >= 2) == v.episode.world.grasped for v in everything)
    total = len(everything)
    print(f"success agrees in {agreed} of {total} ({100 * agreed / total:.1f} %), grasp in {grasps}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or ["clean"])
