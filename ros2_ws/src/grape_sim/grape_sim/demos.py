"""Scripted demonstrations, written as shards of arrays: what a small policy is cloned from.

    python -m grape_sim.demos --out FOLDER [--episodes N]

A shard ``demos_WW_NNN.npz`` holds, for N steps of whole episodes in order: ``images`` (N, S, S, 3) uint8, ``actions``
(N, 7) float32 (the expert's, never the disturbed ones), ``instruction`` (N,) index into ``instructions``, ``task`` (N,)
number of the task, ``episode`` (N,) id, ``step`` (N,), ``initial_state`` (N,), ``keypoints`` (N, 3, 3) float32 metres
in the base frame, named by ``keypoint_names``: object, target, tcp; ``instructions`` what the episodes are told.

Disturbances are injected as in DART (Laskey et al., 2017): the executed action is the expert's plus noise, the label is
the expert's; so the demonstrations show how to come back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_sim.errors import SimError
from grape_sim.expert import Expert
from grape_sim.tasks import ALL_TASKS, SIM_TASKS, check_variant, sim_task
from grape_sim.world import Observation, World, WorldConfig

FIRST_STATE = 1_000_000
EPISODES = 1400
NOISE = 0.010
STEPS_AFTER_SUCCESS = 2
KEYPOINT_NAMES = ("object", "target", "tcp")
_SHARD_EPISODES = 100
_GAP_METRES = 0.05
_MAX_STEP = 0.0495

Integrate = Callable[[Pose, Pose, Array], Pose]


@dataclass(frozen=True)
class Demonstration:
    """One scripted episode of T steps; ``success`` is the world's own judgement at its end."""

    task: str
    variant: str
    initial_state: int
    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    success: bool
    collision: bool
    instruction: str


@dataclass(frozen=True)
class CollectReport:
    """``attempts`` and ``successes`` by task name; ``steps`` kept; ``seconds`` of wall time."""

    attempts: dict[str, int]
    successes: dict[str, int]
    steps: int
    seconds: float
    shards: tuple[Path, ...]


def integrate(reference: Pose, measured: Pose, action: Array) -> Pose:
    """The target that follows ``reference``, the last one, under an action; base frame throughout.

    Translation is added, the rotation (euler xyz) multiplied from the left; a reference further from the measured TCP
    than 5 cm is given up for it.
    """
    base = reference if reference.distance(measured) <= _GAP_METRES else measured
    turned = Rotation.from_euler("xyz", action[3:6]) * base.rotation
    return Pose(base.position + action[:3], turned.as_quat())


def demonstrate(
    world: World,
    task: str,
    variant: str,
    initial_state: int,
    noise: float = 0.0,
    integrate_action: Integrate = integrate,
) -> Demonstration:
    """Let the expert do one episode; ``noise`` metres is the standard deviation injected into each translation axis.

    The random numbers are keyed by the initial state: the same arguments are the same demonstration.
    """
    expert = Expert(world)
    rng = np.random.Generator(
        np.random.Philox(np.random.SeedSequence([initial_state, list(ALL_TASKS).index(task), 77]))
    )
    observation = world.reset(task, variant, initial_state)
    reference = observation.tcp
    frames, actions, points = [], [], []
    after = 0
    for _ in range(sim_task(task).step_limit):
        action = expert.action(observation)
        frames.append(observation.color)
        actions.append(action)
        points.append(_keypoints(observation))
        after = after + 1 if observation.status.success else 0
        if after > STEPS_AFTER_SUCCESS:
            break
        executed = _disturbed(action, noise, rng)
        reference = integrate_action(reference, observation.tcp, executed)
        observation = world.step(reference, float(executed[6]))
    return Demonstration(
        task,
        variant,
        initial_state,
        np.stack([frame for frame in frames if frame is not None]),
        np.asarray(actions, dtype=np.float32),
        np.asarray(points, dtype=np.float32),
        observation.status.success,
        observation.status.collision,
        world.scene.instruction,
    )


def _keypoints(observation: Observation) -> Array:
    return np.concatenate([observation.keypoints[:2], observation.tcp.position[None]])


def _disturbed(action: Array, noise: float, rng: np.random.Generator) -> Array:
    """The action with noise on translation and yaw, less of it where the expert itself moves little.

    Near a contact the arm would otherwise press into the table, which teaches nothing.
    """
    draws = rng.normal(size=4)
    if noise == 0.0:
        return action
    share = 0.25 + 0.75 * min(float(np.linalg.norm(action[:3])) / 0.03, 1.0)
    out = action.copy()
    out[:3] += noise * share * draws[:3]
    out[5] += 3.0 * noise * share * draws[3]
    length = float(np.linalg.norm(out[:3]))
    if length > _MAX_STEP:
        out[:3] *= _MAX_STEP / length
    return out


def _work(
    worker: int, jobs: Sequence[tuple[int, str, str, int]], out_dir: Path, noise: float, config: WorldConfig
) -> tuple[dict[str, int], dict[str, int], int, list[Path]]:
    """Collect this worker's share; returns attempts, successes, steps and the shards' paths."""
    attempts = dict.fromkeys(SIM_TASKS, 0)
    successes = dict.fromkeys(SIM_TASKS, 0)
    kept: list[tuple[int, Demonstration]] = []
    shards: list[Path] = []
    steps = 0
    with World(config) as world:
        for episode, task, variant, state in jobs:
            demonstration = demonstrate(world, task, variant, state, noise)
            attempts[task] += 1
            # What a person would show to others: done, and nothing touched that may not be.
            if demonstration.success and not demonstration.collision:
                successes[task] += 1
                steps += len(demonstration.actions)
                kept.append((episode, demonstration))
            if len(kept) == _SHARD_EPISODES:
                shards.append(_write(out_dir / f"demos_{worker:02d}_{len(shards):03d}.npz", kept))
                kept = []
        if kept:
            shards.append(_write(out_dir / f"demos_{worker:02d}_{len(shards):03d}.npz", kept))
    return attempts, successes, steps, shards


def _write(path: Path, kept: Sequence[tuple[int, Demonstration]]) -> Path:
    names, told = list(SIM_TASKS), sorted({demonstration.instruction for _, demonstration in kept})
    lengths = [len(demonstration.actions) for _, demonstration in kept]
    np.savez(
        path,
        images=np.concatenate([demonstration.images for _, demonstration in kept]),
        actions=np.concatenate([demonstration.actions for _, demonstration in kept]),
        keypoints=np.concatenate([demonstration.keypoints for _, demonstration in kept]),
        instruction=np.repeat([told.index(demonstration.instruction) for _, demonstration in kept], lengths),
        task=np.repeat([names.index(demonstration.task) for _, demonstration in kept], lengths),
        episode=np.repeat([episode for episode, _ in kept], lengths),
        initial_state=np.repeat([demonstration.initial_state for _, demonstration in kept], lengths),
        step=np.concatenate([np.arange(length) for length in lengths]),
        instructions=np.array(told),
        keypoint_names=np.array(KEYPOINT_NAMES),
    )
    return path


def collect(
    out_dir: Path,
    episodes: int,
    first_state: int = FIRST_STATE,
    workers: int = 2,
    noise: float = NOISE,
    variants: Sequence[str] = ("clean",),
    tasks: Sequence[str] = tuple(SIM_TASKS),
    config: WorldConfig | None = None,
) -> CollectReport:
    """Let the expert do ``episodes`` episodes, tasks and variants in turn; keep as shards those that succeed and touch
    nothing that may not be touched.

    Episode i has initial state ``first_state`` + i and is the same whatever ``workers`` is. Raises SimError for unknown
    names, a count below one, or when ``out_dir`` already holds shards.
    """
    for variant in variants:
        check_variant(variant)
    unknown = [task for task in tasks if task not in SIM_TASKS]
    if unknown or not tasks or not variants:
        raise SimError(f"tasks {unknown or list(tasks)} with variants {list(variants)}: nothing that can be collected")
    if episodes < 1 or workers < 1:
        raise SimError(f"episodes {episodes} and workers {workers} must be at least 1")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    if any(out_dir.glob("demos_*.npz")):
        raise SimError(f"{out_dir}: holds demonstrations already; choose another folder")
    jobs = [
        (i, tasks[i % len(tasks)], variants[(i // len(tasks)) % len(variants)], first_state + i)
        for i in range(episodes)
    ]
    started = time.monotonic()
    chosen = config or WorldConfig()
    # Jobs are dealt in rounds of all tasks, so that every worker sees every task.
    shares = [[job for job in jobs if (job[0] // len(tasks)) % workers == worker] for worker in range(workers)]
    arguments = [(worker, share, out_dir, noise, chosen) for worker, share in enumerate(shares) if share]
    if len(arguments) == 1:
        results = [_work(*arguments[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(len(arguments)) as pool:
            results = pool.starmap(_work, arguments, chunksize=1)
    return CollectReport(
        attempts={task: sum(result[0][task] for result in results) for task in SIM_TASKS},
        successes={task: sum(result[1][task] for result in results) for task in SIM_TASKS},
        steps=sum(result[2] for result in results),
        seconds=time.monotonic() - started,
        shards=tuple(path for result in results for path in result[3]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="grape_sim.demos", description="Collect scripted demonstrations.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="episodes to try, over all tasks")
    parser.add_argument("--first-state", type=int, default=FIRST_STATE, help="initial state of the first episode")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--noise", type=float, default=NOISE, help="injected noise, metres")
    parser.add_argument("--variants", nargs="+", default=["clean"], help="variants, in turn")
    parser.add_argument("--tasks", nargs="+", default=list(SIM_TASKS), help="tasks, in turn")
    options = parser.parse_args(arguments)
    try:
        report = collect(
            options.out,
            options.episodes,
            options.first_state,
            options.workers,
            options.noise,
            options.variants,
            options.tasks,
        )
    except SimError as error:
        print(f"grape_sim.demos: {error}", file=sys.stderr)
        return 2
    for task, attempts in report.attempts.items():
        if attempts:
            good = report.successes[task]
            print(f"{task}: {good} of {attempts} succeeded ({100 * good / attempts:.1f} %)")
    episodes = max(1, sum(report.successes.values()))
    print(f"{report.steps} steps, {report.steps / episodes:.1f} an episode, {report.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
