"""Episodes to imitate that a person drove, or any policy: their actions become tokens of the model that is trained.

A bag with steps gives the actions of its steps. A bag without (teleoperation) gives those that lead from one measured
pose to the next: translation and rotation of the TCP in the base frame, a control period apart, and the opening of the
gripper at the end of it, each for the camera frame at its beginning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from grape_episode import topics
from grape_episode.episode import ENDED_BY_OPERATOR, Episode
from grape_policy.checkpoint import Vla
from grape_policy.codec import NormStats, gripper_value
from grape_policy.config import ConfigError
from grape_policy.mini_demos import action_statistics
from grape_trainer import teleoperated
from grape_trainer.errors import TrainingError
from grape_trainer.objectives import Clone
from grape_trainer.pairs import UNFIT_ENDS, Excluded
from grape_trainer.settings import Settings
from grape_trainer.trajectories import Prompts, Trajectory, digest, model_inputs, read_bag

NO_STEPS = "no steps"
LEAST_ACTIONS = 8
"""Fewer actions in all have no percentiles worth the name."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Taken:
    """One demonstration. ``actions`` (T, 7) metres, radians in the model's convention, gripper opening; ``tokens``
    (T, 7) where the model that is trained sampled them itself."""

    path: str
    clone: Clone
    instructions: tuple[str, ...]
    actions: Array
    tokens: Tensor | None
    stamps: NDArray[np.int64] | None = None


class Demonstrations:
    """A shelf of demonstrations by episode id. ``left_out``: bags that are none, each with its reason;
    ``statistics``: what goes into ``dataset_statistics.json``, by dataset key, None where the base model's hold.

    Raises TrainingError where no bag is a demonstration."""

    def __init__(self, bags: Sequence[Path], vla: Vla, settings: Settings, name: str = "demonstrations") -> None:
        self._vla = vla
        self._prompts = Prompts(vla.processor.prompt)
        self._taken: dict[str, _Taken] = {}
        self._known: dict[str, Trajectory] = {}
        left_out: list[Excluded] = []
        for bag in bags:
            try:
                taken = _take(str(bag), vla.spec.rotation, vla.base_hash if settings.statistics == "base" else "")
                self._prompts.ids(taken.instructions[0], taken.path)
            except TrainingError as error:
                left_out.append(Excluded(bag.name, str(bag), str(error)))
                continue
            if taken.clone.episode_id in self._taken:
                left_out.append(Excluded(taken.clone.episode_id, str(bag), "the same episode a second time"))
            else:
                self._taken[taken.clone.episode_id] = taken
        self.left_out = tuple(left_out)
        if not self._taken:
            first = f"; the first: {left_out[0].reason}" if left_out else ""
            raise TrainingError(f"none of {len(bags)} bags is a demonstration{first}")
        self.statistics: dict[str, Any] | None = None
        if settings.statistics == "own":
            self.statistics = {name: self._statistics()}
        try:
            self._vla = vla if self.statistics is None else dataclasses.replace(vla, stats=NormStats(self.statistics))
            self._vla.stats.of()
        except ConfigError as error:
            raise TrainingError(f"{vla.folder}: {error}") from None

    @property
    def items(self) -> list[Clone]:
        return [taken.clone for taken in self._taken.values()]

    @property
    def steps(self) -> dict[str, int]:
        """Episode id -> number of actions."""
        return {name: len(taken.actions) for name, taken in self._taken.items()}

    @property
    def paths(self) -> dict[str, str]:
        return {name: taken.path for name, taken in self._taken.items()}

    def __getitem__(self, episode_id: str) -> Trajectory:
        """Raises TrainingError naming the bag."""
        if episode_id not in self._known:
            taken = self._taken[episode_id]
            tokens = taken.tokens
            if tokens is None:
                tokens = torch.from_numpy(self._vla.action_tokens(taken.actions)).long()
            prompts = tuple(self._prompts.ids(text, taken.path) for text in taken.instructions)
            self._known[episode_id] = Trajectory(
                episode_id,
                taken.path,
                tokens,
                prompts,
                lambda: self._images(taken),
                digest=digest(taken.path, tokens),
            )
        return self._known[episode_id]

    def _images(self, taken: _Taken) -> Tensor:
        size = self._vla.spec.image_size
        if taken.stamps is None:
            return model_inputs(read_bag(taken.path), taken.path, size)
        frames = teleoperated.images(Path(taken.path), taken.stamps)
        if not (teleoperated.are_inputs(Path(taken.path)) and frames[0].shape[:2] == (size, size)):
            frames = [self._vla.processor.model_input(frame) for frame in frames]
        return torch.from_numpy(np.stack(frames))

    def _statistics(self) -> dict[str, Any]:
        actions = np.concatenate([taken.actions for taken in self._taken.values()])
        if len(actions) < LEAST_ACTIONS:
            raise TrainingError(f"{len(actions)} actions in all: at least {LEAST_ACTIONS} are needed for statistics")
        # percentiles are of what the checkpoint says, in its own gripper convention
        return action_statistics(gripper_value(actions, self._vla.spec.gripper), len(self._taken))


def _take(path: str, rotation: str, base_hash: str) -> _Taken:
    """Raises TrainingError naming the bag and why it is no demonstration."""
    episode = read_bag(path, images=False)
    identity, outcome = episode.identity, episode.outcome
    if outcome is None:
        raise TrainingError(f"{path}: no outcome: the bag was cut off")
    if episode.steps and episode.intervention:
        raise TrainingError(f"{path}: {episode.intervention}: neither a policy's episode nor a demonstration")
    # the person's word that it is done; a demonstration is given up by cancelling its goal
    done = identity.demonstration and outcome.detail.startswith(ENDED_BY_OPERATOR)
    if (outcome.end_reason in UNFIT_ENDS and not done) or outcome.success_reward == 0:
        how = "it failed" if outcome.success_reward == 0 else f"it ended by {outcome.end_reason}"
        raise TrainingError(f"{path}: no demonstration: {how}")
    problems = [problem for problem in episode.problems if episode.steps or problem != NO_STEPS]
    if problems:
        raise TrainingError(f"{path}: not fit to train on: {problems[0]}")
    tokens, stamps = None, None
    if episode.steps:
        actions, instructions = _stepwise(episode, rotation), tuple(step.instruction for step in episode.steps)
        if base_hash and all(step.base_hash == base_hash for step in episode.steps):
            tokens = torch.from_numpy(episode.tokens).long()
    else:
        driven = teleoperated.actions(episode, Path(path))
        stamps = driven.stamps
        actions = np.concatenate([driven.translation, _as(driven.rotation, rotation), driven.opening], axis=1)
        instructions = (identity.instruction,) * len(actions)
    if not np.all(np.isfinite(actions)):
        raise TrainingError(f"{path}: an action is not finite")
    # by episode: demonstrations do not come several from one numbered state
    group = (identity.task, f"{identity.variant}/{identity.episode_id}", identity.initial_state)
    return _Taken(path, Clone(identity.episode_id, group), instructions, actions, tokens, stamps)


def _stepwise(episode: Episode, rotation: str) -> Array:
    """(T, 7) actions of the steps, their rotation in the model's convention."""
    rows = []
    for step in episode.steps:
        row = step.action
        if step.rotation != rotation:
            row = np.concatenate([row[:3], _as(_rotation(row[3:6], step.rotation, episode), rotation), row[6:]])
        rows.append(row)
    return np.array(rows, np.float64)


def _rotation(values: Array, convention: str, episode: Episode) -> Rotation:
    if convention == "euler_xyz":
        return Rotation.from_euler("xyz", values)
    if convention == "axis_angle":
        return Rotation.from_rotvec(values)
    raise TrainingError(f"{episode.path}: {topics.POLICY_STEP}: unknown rotation {convention!r}")


def _as(rotation: Rotation, convention: str) -> Array:
    """(3,) or (N, 3) radians; ``euler_xyz``: about the fixed axes x, y, z."""
    return rotation.as_euler("xyz") if convention == "euler_xyz" else rotation.as_rotvec()
