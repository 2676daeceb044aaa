"""What the gate's node has heard, from messages to :class:`grape_robot.state.Senses`. The newest of a topic counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.messages import pose_of, stamp_of
from grape_robot.boxes import Box, Point
from grape_robot.franka import RobotMode
from grape_robot.profile import GateProfile
from grape_robot.state import Senses

MOST_BOXES = 64
"""Of one message: more would take the gate longer to judge than a step may wait."""


class KeepOutError(ValueError):
    """Boxes that cannot be used; the text begins with the topic and names the box."""


@dataclass(frozen=True)
class Arm:
    """What the arm's own bridges say: see ``grape_robot.ros``. ``heard`` and ``controller_heard`` are seconds of the
    steady clock."""

    mode: RobotMode | None = None
    controller_active: bool | None = None
    controller_heard: float | None = None


class Sensing:
    """The newest of every topic. ``pose`` and ``wrench`` give the newest message of theirs, or None."""

    def __init__(self, profile: GateProfile, pose: Callable[[], Any], wrench: Callable[[], Any]) -> None:
        self._profile = profile
        self._pose, self._wrench = pose, wrench
        self._measured: tuple[Any, Pose] | None = None
        self._joints: tuple[float, ...] | None = None
        self._joints_stamp = 0
        self._boxes: tuple[Box, ...] | None = None
        self._boxes_stamp = 0
        self._dead_man = False
        self._joy_heard: float | None = None

    def hear_joints(self, message: Any) -> None:
        """A sensor_msgs/JointState; one without all of the arm's joints (the gripper's own) says nothing about it."""
        places = {name: index for index, name in enumerate(message.name)}
        try:
            self._joints = tuple(float(message.position[places[name]]) for name in topics.ARM_JOINTS)
        except (KeyError, IndexError):
            return
        self._joints_stamp = stamp_of(message)

    def hear_joy(self, buttons: Sequence[int], heard: float) -> None:
        """The buttons of a sensor_msgs/Joy, and when, on the watchdogs' clock. One without the button is released."""
        button = self._profile.dead_man.button
        self._dead_man = button < len(buttons) and buttons[button] == 1
        self._joy_heard = heard

    def hear_keep_out(self, message: Any) -> None:
        """A grape_interfaces/KeepOutBoxes. Raises KeepOutError, and keeps the last ones until they are too old."""
        self._boxes = keep_out_boxes(message, self._profile.frame)
        self._boxes_stamp = stamp_of(message)

    def observed(self, stamp: int) -> bool:
        """Whether everything that is watched has reached ``stamp``: in lock-step nothing may depend on luck."""
        profile, pose, wrench = self._profile, self._pose(), self._wrench()
        return (
            (pose is not None and stamp_of(pose) >= stamp)
            and (not profile.needs_model or (self._joints is not None and self._joints_stamp >= stamp))
            and (not profile.watch_wrench or (wrench is not None and stamp_of(wrench) >= stamp))
            and (not profile.moving_keep_out or (self._boxes is not None and self._boxes_stamp >= stamp))
        )

    def senses(self, now: float, now_stamp: int, steady: float, arm: Arm) -> Senses:
        """Everything at ``now`` (watchdogs' clock, s), which is ``now_stamp`` (ROS time, ns) and ``steady`` (steady
        clock, s)."""
        pose, wrench, mode = self._pose(), self._wrench(), arm.mode
        if pose is not None and (self._measured is None or self._measured[0] is not pose):
            self._measured = pose, pose_of(pose.pose)
        heard = arm.controller_heard
        return Senses(
            now=now,
            now_stamp=now_stamp,
            measured=self._measured[1] if self._measured else None,
            measured_stamp=stamp_of(pose) if pose is not None else 0,
            measured_frame=pose.header.frame_id if pose is not None else "",
            joints=self._joints,
            joints_stamp=self._joints_stamp,
            wrench=None if wrench is None else _wrench(wrench.wrench),
            wrench_stamp=stamp_of(wrench) if wrench is not None else 0,
            robot_mode=None if mode is None else mode.mode,
            robot_mode_heard=None if mode is None else now - (steady - mode.heard),
            controller_active=arm.controller_active,
            controller_heard=None if heard is None else now - (steady - heard),
            dead_man=self._dead_man,
            joy_heard=self._joy_heard,
            keep_out=self._boxes,
            keep_out_stamp=self._boxes_stamp,
        )


def keep_out_boxes(message: Any, frame: str) -> tuple[Box, ...]:
    """The boxes of a KeepOutBoxes in ``frame``. Raises KeepOutError naming what is wrong."""
    topic = topics.KEEP_OUT
    if message.header.frame_id != frame:
        raise KeepOutError(f"{topic}: frame {message.header.frame_id!r}, expected {frame!r}")
    count = len(message.names)
    if count != len(message.low) or count != len(message.high):
        raise KeepOutError(f"{topic}: {count} names, {len(message.low)} low and {len(message.high)} high corners")
    if count > MOST_BOXES:
        raise KeepOutError(f"{topic}: {count} boxes, at most {MOST_BOXES}")
    return tuple(
        _box(str(name), _point(low), _point(high))
        for name, low, high in zip(message.names, message.low, message.high, strict=True)
    )


def _wrench(wrench: Any) -> tuple[float, ...]:
    force, torque = wrench.force, wrench.torque
    return force.x, force.y, force.z, torque.x, torque.y, torque.z


def _point(corner: Any) -> Point:
    return float(corner.x), float(corner.y), float(corner.z)


def _box(name: str, low: Point, high: Point) -> Box:
    try:
        return Box(name, low, high)
    except ValueError as error:
        raise KeepOutError(f"{topics.KEEP_OUT}: {error}") from None
