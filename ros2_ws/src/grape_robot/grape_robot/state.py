"""What passes through the gate, and what it remembers. Stamps are ROS time in ns, other times seconds on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from grape_episode.geometry import Pose


class Mode(IntEnum):
    """What the gate is doing; the numbers are those of grape_interfaces/GateStatus."""

    IDLE = 0
    ACTIVE = 1
    HOLD = 2
    STOPPED = 3


@dataclass(frozen=True)
class StepRequest:
    """One step as it reached the gate, with what the gate itself knew then."""

    episode_id: str
    step: int
    stamp: int
    """Of the observation it answers, ns of ROS time."""
    frame: str
    action: Sequence[float]
    """(7,) translation m, rotation rad, gripper 0 closed to 1 open."""
    rotation: str
    measured: Pose | None
    """The TCP as the gate itself received it, base frame; None: never."""
    measured_stamp: int
    measured_frame: str
    now_stamp: int
    """ROS time of the judgement, ns."""
    now: float
    """Time of the judgement on the watchdogs' clock, s."""


@dataclass(frozen=True)
class GateState:
    """Everything the gate remembers. ``check`` and ``reason`` tell why it holds or has stopped."""

    mode: Mode = Mode.IDLE
    episode_id: str = ""
    lock_step: bool = False
    next_step: int = 0
    reference: Pose | None = None
    """Last accepted target; None until the first one of the episode: the measured TCP is taken then."""
    gripper: float | None = None
    """Last gripper goal: 0 closed, 1 open; None: none in this episode."""
    last_step: float | None = None
    last_heartbeat: float | None = None
    check: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The judgement of a step. ``target`` and ``gripper`` (0 or 1) are None where it was refused."""

    accepted: bool
    check: str = ""
    reason: str = ""
    target: Pose | None = None
    gripper: float | None = None


def is_pose(pose: Pose) -> bool:
    """Whether the position is finite and the quaternion of length one (to a thousandth)."""
    return bool(np.all(np.isfinite(pose.position)) and abs(np.linalg.norm(pose.quaternion) - 1.0) <= 1e-3)
