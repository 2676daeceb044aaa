"""What passes through the gate, and what it remembers. Stamps are ROS time in ns, other times seconds on one clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from grape_episode.geometry import Pose
from grape_robot.profile import Box

POLICY, TELEOP, HOMING = "policy", "teleop", "homing"
"""Who proposes a step."""
SOURCES = (POLICY, TELEOP, HOMING)


class Mode(IntEnum):
    """What the gate is doing; the numbers are those of grape_interfaces/GateStatus."""

    IDLE = 0
    ACTIVE = 1
    HOLD = 2
    STOPPED = 3


class Authority(IntEnum):
    """Whose steps move the arm; the numbers are those of grape_interfaces/ArmStatus."""

    POLICY = 0
    OPERATOR = 1


@dataclass(frozen=True)
class StepRequest:
    """One step as it reached the gate."""

    episode_id: str
    """An operator's may be empty: outside of an episode."""
    step: int
    """Index within the episode; of an operator's step, its sequence number within its source."""
    stamp: int
    """Of the observation it answers, or when it was commanded, ns of ROS time."""
    frame: str
    action: Sequence[float]
    """(7,) translation m, rotation rad, gripper 0 closed to 1 open."""
    rotation: str
    source: str = POLICY


@dataclass(frozen=True)
class Senses:
    """What the gate itself knows at the moment of a judgement or a tick. All poses and boxes are in the base frame."""

    now: float
    """Time on the watchdogs' clock, s."""
    now_stamp: int
    """ROS time, ns."""
    measured: Pose | None = None
    """The TCP as the gate itself received it; None: never."""
    measured_stamp: int = 0
    measured_frame: str = ""
    joints: tuple[float, ...] | None = None
    """(7,) radians; None: never heard."""
    joints_stamp: int = 0
    wrench: tuple[float, ...] | None = None
    """(6,) external force N and torque Nm; None: never heard."""
    wrench_stamp: int = 0
    robot_mode: int | None = None
    """As franka_msgs/FrankaRobotState says; None: never heard."""
    robot_mode_heard: float | None = None
    """When, on the watchdogs' clock."""
    controller_active: bool | None = None
    """Whether the arm's controller follows target poses; None: never heard."""
    controller_heard: float | None = None
    dead_man: bool = False
    """The last Joy message had the dead-man's button pressed."""
    joy_heard: float | None = None
    """When the last Joy message came, on the watchdogs' clock; None: never."""
    keep_out: tuple[Box, ...] | None = None
    """Boxes that move; None: never heard."""
    keep_out_stamp: int = 0


@dataclass(frozen=True)
class GateState:
    """Everything the gate remembers. ``check`` and ``reason`` tell why it holds or has stopped."""

    mode: Mode = Mode.IDLE
    episode_id: str = ""
    lock_step: bool = False
    next_step: int = 0
    reference: Pose | None = None
    """Last accepted target; None until the first one of an episode or a drive: the measured TCP is taken then."""
    gripper: float | None = None
    """Last gripper goal: 0 closed, 1 open; None: none in this episode."""
    last_step: float | None = None
    last_heartbeat: float | None = None
    check: str = ""
    reason: str = ""
    authority: Authority = Authority.POLICY
    operator: str = ""
    """Source that drives, or drove last: teleop or homing."""
    operator_sequence: int = -1
    """The highest sequence number heard of it."""
    last_operator: float | None = None
    """When the last step of the operator that drives came; None: nobody drives."""
    stopped_at: float | None = None
    """When the gate stopped: a reset has to wait."""
    joints: tuple[float, ...] | None = None
    """The measured joints when the target was accepted; None: none was, or they are not watched."""


@dataclass(frozen=True)
class Verdict:
    """The judgement of a step. ``target`` and ``gripper`` (0 or 1) are None where it was refused; ``gripper`` is None
    too where it stays as it is.

    An accepted step has a check only where it was shortened: "length"."""

    accepted: bool
    check: str = ""
    reason: str = ""
    target: Pose | None = None
    gripper: float | None = None
    factor: float = 1.0
    """Of its motion, what was accepted."""


def is_pose(pose: Pose) -> bool:
    """Whether the position is finite and the quaternion of length one (to a thousandth)."""
    x, y, z = pose.position.tolist()
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return False
    a, b, c, d = pose.quaternion.tolist()
    return abs(math.sqrt(a * a + b * b + c * c + d * d) - 1.0) <= 1e-3
