"""The loop in miniature over real topics: every node in a process of its own, a tiny random policy, one iteration."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grape.closed_loop import ClosedLoop
from grape.domains import reserve
from grape.evaluation import Job
from grape.up import Stack, StackConfig, StackError
from grape_episode.episode import Episode
from grape_episode.reader import find_bags, read_episode
from grape_episode.testing import wait_for
from grape_policy.testing import write_random_checkpoint
from grape_reward.score import score_episode
from grape_trainer.loop import AlignConfig, align
from grape_trainer.registry import Registry
from grape_trainer.rig import Job as RigJob
from grape_trainer.rig import Rollout
from grape_trainer.ros import RosRig
from grape_trainer.settings import settings

pytestmark = pytest.mark.ros

STEPS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=folder / "logs",
            lock_step=True,
            model=model,
            registry=folder / "adapters",
            episodes_root=folder / "episodes",
        )
        with Stack(config) as started:
            yield started


@pytest.fixture(scope="module")
def rig(stack: Stack) -> Iterator[RosRig]:
    with RosRig(stack.config.domain) as connected:
        yield connected


def collected(rig: RosRig, *jobs: RigJob) -> list[Episode]:
    rollouts: list[Rollout] = []
    rig.collect(jobs, rollouts.append)
    return [read_episode(Path(rollout.bag)) for rollout in rollouts]


def tokens_hash(episode: Episode) -> str:
    return hashlib.sha256(b"".join(step.tokens.tobytes() for step in episode.steps)).hexdigest()


def test_the_same_seed_is_the_same_episode_and_the_one_without_topics(rig: RosRig, model: Path) -> None:
    job = RigJob("spoon_on_towel", 7, 11, variant="clean", temperature=1.0, step_limit=STEPS)
    other = dataclasses.replace(job, seed=12)
    first, again, different = collected(rig, job, job, other)
    for episode in (first, again, different):
        assert episode.complete, episode.problems
        assert len(episode.steps) == STEPS and episode.outcome is not None
        score = score_episode(episode)
        assert not score.incomplete and episode.identity.cost_program_hash == score.cost_program_hash
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.logprobs, again.logprobs)
    np.testing.assert_array_equal(first.tcp.values[-1], again.tcp.values[-1])
    np.testing.assert_array_equal(first.keypoints.values[-1], again.keypoints.values[-1])
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.tokens != different.tokens).any()

    with ClosedLoop(model) as loop:
        rollout = loop.run(Job("spoon_on_towel", "clean", 7, 11, 1.0, ""), step_limit=STEPS)
    assert rollout.result.tokens_hash == tokens_hash(first)
    np.testing.assert_array_equal(rollout.episode.logprobs, first.logprobs)
    np.testing.assert_array_equal(rollout.episode.tcp.values[-1], first.tcp.values[-1])
    np.testing.assert_array_equal(rollout.episode.images, first.images)
    assert score_episode(rollout.episode).log_r_ext == score_episode(first).log_r_ext


def test_one_iteration_collects_scores_pairs_trains_and_swaps(
    stack: Stack, rig: RosRig, model: Path, tmp_path: Path
) -> None:
    assert stack.config.registry is not None
    config = AlignConfig(
        model=model,
        registry=stack.config.registry,
        folder=tmp_path / "align",
        tasks=("carrot_on_plate", "green_cube_on_yellow_cube"),
        states=1,
        rollouts=4,
        variant="clean",
        step_limit=STEPS,
        settings=settings("default", max_updates=2, m=1, batch_pairs=1, epochs=2),
        in_process=True,
    )
    phases: list[str] = []
    result = align(config, rig, lambda progress: phases.append(progress.phase))
    assert list(dict.fromkeys(phases)) == ["collect", "score", "pair", "train", "gate", "swap"]
    assert result.changed, result.reason
    (iteration,) = result.iterations
    assert iteration["episodes"] == 8 and iteration["pairs"] == 2
    held = Registry(stack.config.registry)
    assert held.current == result.adapter_id and not held.verify()
    assert rig.serving() == result.adapter_id

    # what acts from now on is the new adapter, and it says so
    (episode,) = collected(rig, RigJob("carrot_on_plate", 3, 1, variant="clean", step_limit=2))
    assert {step.adapter_id for step in episode.steps} == {result.adapter_id} == {episode.identity.adapter_id}
    manifest = json.loads((held.path(result.adapter_id) / "manifest.json").read_text())
    assert manifest["base_hash"] == episode.identity.base_hash and len(manifest["episodes"]) == 4

    # the bags of the first iteration never mention an adapter
    for bag in find_bags(stack.config.episodes_root):
        recorded = read_episode(bag, images=False)
        assert recorded.complete
    assert align(config, rig).adapter_id == result.adapter_id  # a finished run is not run again


def test_a_second_simulator_is_refused_by_name(stack: Stack, model: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(stack.config, nodes=("sim",), log_dir=tmp_path / "logs")
    try:
        with Stack(config) as second:
            problem = wait_for(second.failed, "the second simulator to be refused", 30.0)
    except StackError as error:  # refused while it was still being waited for
        problem = str(error)
    assert "grape_sim ended with status 1" in problem and "published by /grape_sim" in problem, problem
    assert stack.failed() is None
