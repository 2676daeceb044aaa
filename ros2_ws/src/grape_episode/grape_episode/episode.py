"""One rollout in memory: what a bag says, typed. Stamps are integer nanoseconds of ROS time; lengths metres;
poses are of the TCP in the robot's base frame; quaternions x, y, z, w."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Pose

TOKENS = 7
"""Action tokens a step: three of translation, three of rotation, one of the gripper."""

GATE_NONE, GATE_ACCEPTED, GATE_VETOED = 0, 1, 2

DEMONSTRATION = "demonstration: driven by a person"
"""The note in an identity that says so: there are no steps of a policy."""
PERSON_DROVE = "a person drove for part of it"
"""Ends the detail of such an episode's outcome, and is why it does not train."""
ENDED_BY_OPERATOR = "ended by the operator"
"""Begins the detail of such an outcome."""
OPERATOR, DEAD_MAN = "operator", "dead_man"
"""Checks of the gate's that say nothing of a step: a person drives, or does not let the policy."""
HOMING = "homing"
"""Source of the operator's steps that are no person's."""


class EpisodeError(Exception):
    """A bag that cannot be read as an episode. The text begins with the file's name."""


class CutOffError(EpisodeError):
    """A bag whose end is missing or damaged; ``recover`` saves what is whole."""


@dataclass(frozen=True)
class Identity:
    """What an episode is: the fields of EpisodeIdentity.msg."""

    episode_id: str
    task: str
    instruction: str
    variant: str
    initial_state: int
    objective: str
    seed: int
    temperature: float
    step_limit: int
    control_period: float
    lock_step: bool
    base_hash: str
    adapter_id: str
    adapter_seq: int
    cost_program_hash: str
    calibration_hash: str
    code_version: str
    notes: tuple[str, ...]
    stamp: int = 0

    @property
    def demonstration(self) -> bool:
        """Whether a person drove and no policy decided anything."""
        return DEMONSTRATION in self.notes


@dataclass(frozen=True)
class Outcome:
    """How it ended: the fields of EpisodeOutcome.msg; ``success_reward`` is 1, 0 or -1 (unknown)."""

    end_reason: str
    detail: str
    steps: int
    success_reward: int
    mixed_adapter: bool
    stamp: int


@dataclass(frozen=True, eq=False)
class Step:
    """One decision of the policy: the fields of PolicyStep.msg and the image that the model saw.

    ``tokens`` (7,) int32, ``logprobs`` and ``margins`` (7,) float32, ``action`` (7,) float64,
    ``image`` (H, W, 3) uint8 RGB at the model's input size, None where it was not recorded or not asked for."""

    index: int
    stamp: int
    instruction: str
    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    margins: NDArray[np.float32]
    action: NDArray[np.float64]
    rotation: str
    tcp: Pose
    gripper_width: float
    adapter_id: str
    adapter_seq: int
    base_hash: str
    temperature: float
    seed: int
    latency: float
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Series:
    """A quantity over time: ``stamps`` (N,) int64 in the order recorded, ``values`` (N, ...) float64."""

    stamps: NDArray[np.int64]
    values: NDArray[np.float64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stamps)

    @staticmethod
    def empty(*shape: int) -> Series:
        """No samples, each of ``shape``."""
        return Series(np.zeros(0, np.int64), np.zeros((0, *shape)))


@dataclass(frozen=True, eq=False)
class GateEvent:
    """A verdict of the gate on a step, or a change of its state: the fields of GateStatus.msg."""

    stamp: int
    state: int
    episode_id: str
    step: int
    verdict: int
    check: str
    reason: str
    target: Pose
    gripper: float


@dataclass(frozen=True)
class World:
    """What the simulated world judged at the end: the last WorldStatus.msg. Training never sees it."""

    success: bool
    grasped: bool
    collision: bool
    collisions: int
    contact_force: float
    clearance: float


@dataclass(frozen=True, eq=False)
class Episode:
    """A whole rollout. ``tcp`` (N, 7) xyz and quaternion, ``gripper`` (N, 1) opening in metres,
    ``keypoints`` (N, K, 3), ``wrench`` (N, 6) force in N and torque in Nm, base frame. ``confidence`` (N, K) of each
    keypoint, in [0, 1]; without samples where none was in doubt. ``operator`` (N, 7): the motions that a person
    commanded, each of one operator period, as an action without its convention of rotation; NaN where it was none."""

    identity: Identity
    steps: tuple[Step, ...]
    outcome: Outcome | None
    tcp: Series = field(default_factory=lambda: Series.empty(7))
    gripper: Series = field(default_factory=lambda: Series.empty(1))
    keypoints: Series = field(default_factory=lambda: Series.empty(0, 3))
    wrench: Series = field(default_factory=lambda: Series.empty(6))
    gate: tuple[GateEvent, ...] = ()
    world: World | None = None
    problems: tuple[str, ...] = ()
    path: Path | None = None
    confidence: Series = field(default_factory=lambda: Series.empty(0))
    operator: Series = field(default_factory=lambda: Series.empty(7))

    @property
    def complete(self) -> bool:
        """Fit to train on: it has an outcome, one adapter, and nothing is missing."""
        return not self.problems and self.outcome is not None and not self.outcome.mixed_adapter

    @property
    def driven(self) -> bool:
        """Whether a person drove, if only for part of it: its end is then not the policy's."""
        return self.identity.demonstration or len(self.operator) > 0

    @property
    def intervention(self) -> str:
        """What a person did in it, in words; "" for nothing. What came of it is then not the policy's doing."""
        if self.identity.demonstration:
            return DEMONSTRATION
        if self.driven:
            return PERSON_DROVE
        return "" if self.released is None else f"a person let the dead-man's button go at step {self.released}"

    @property
    def released(self) -> int | None:
        """The first step that the gate refused because the dead-man's button was not held; None where there is none."""
        return next((event.step for event in self.gate if event.verdict and event.check == DEAD_MAN), None)

    @property
    def images(self) -> NDArray[np.uint8]:
        """(T, H, W, 3) uint8, the model's inputs. Raises EpisodeError naming the first step without one."""
        for step in self.steps:
            if step.image is None:
                raise EpisodeError(f"{self.path or self.identity.episode_id}: step {step.index} has no image")
        if not self.steps:
            return np.zeros((0, 0, 0, 3), np.uint8)
        return np.stack([step.image for step in self.steps if step.image is not None])

    @property
    def tokens(self) -> NDArray[np.int32]:
        """(T, 7) sampled action tokens."""
        return np.array([step.tokens for step in self.steps], np.int32).reshape(-1, TOKENS)

    @property
    def logprobs(self) -> NDArray[np.float32]:
        """(T, 7) log-probs of the sampled tokens, nats, temperature 1."""
        return np.array([step.logprobs for step in self.steps], np.float32).reshape(-1, TOKENS)


def step_problems(identity: Identity, steps: tuple[Step, ...], outcome: Outcome | None, seen: set[int]) -> list[str]:
    """What is wrong with the steps of an episode, one line each; ``seen``: stamps of the recorded images."""
    problems = []
    indices = [step.index for step in steps]
    expected = range(outcome.steps if outcome else max(indices, default=-1) + 1)
    missing = sorted(set(expected) - set(indices))
    if not steps and not identity.demonstration:
        problems.append("no steps")
    elif not steps and not seen:
        problems.append("no image")
    elif missing:
        problems.append(f"missing: {_name_steps(missing)}")
    if extra := sorted(set(indices) - set(expected)):
        problems.append(f"{_name_steps(extra)} beyond the {len(expected)} that the outcome counts")
    if repeated := sorted({i for i in indices if indices.count(i) > 1}):
        problems.append(f"recorded twice: {_name_steps(repeated)}")
    for before, after in itertools.pairwise(steps):
        if after.index < before.index or after.stamp <= before.stamp:
            problems.append(f"out of order: step {after.index} at {after.stamp} after {before.index} at {before.stamp}")
            break
    if blind := [step.index for step in steps if step.stamp not in seen]:
        problems.append(f"no image for {_name_steps(blind)}")
    serving = (identity.adapter_id, identity.adapter_seq, identity.base_hash)
    for step in steps:
        if (step.adapter_id, step.adapter_seq, step.base_hash) != serving:
            problems.append(
                f"the model changed at step {step.index}: adapter {step.adapter_id[:12] or 'none'} (number "
                f"{step.adapter_seq}) instead of {identity.adapter_id[:12] or 'none'} (number {identity.adapter_seq})"
            )
            break
    if outcome is None:
        problems.append("no outcome: the recording ended before the episode did")
    elif outcome.mixed_adapter:
        problems.append("mixed: the outcome says that the adapter changed within the episode")
    return problems


def _name_steps(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:5])) + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")
    return f"step{'s' if len(indices) > 1 else ''} {shown}"


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Names of the fields in which two values differ, bit for bit (NaN equals NaN, 0.0 differs from -0.0)."""
    if is_dataclass(a) and type(a) is type(b):
        lines: list[str] = []
        for item in fields(a):
            name = f"{where}.{item.name}" if where else item.name
            lines += differences(getattr(a, item.name), getattr(b, item.name), name)
        return lines
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return [] if same else [where]
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} entries"]
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{where}[{i}]")]
    if isinstance(a, float) and isinstance(b, float):
        return [] if np.float64(a).tobytes() == np.float64(b).tobytes() or (a != a and b != b) else [where]
    return [] if type(a) is type(b) and a == b else [where]
