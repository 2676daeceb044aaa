"""From ROS messages to what the inbox holds. No ROS here: any object with a message's fields will do."""

from __future__ import annotations

import struct
import time
from typing import Any

from grape_episode.episode import HOMING
from grape_episode.messages import MOVE, stamp_of
from grape_policy.observation import ArmSample, Frame, GateSample, RecordSample, TaskSample, WorldSample

_OPERATOR = 1
"""ArmStatus.OPERATOR."""


def raw_frame(data: bytes) -> Frame:
    """A serialised sensor_msgs/Image (CDR, either byte order) with its stamp read from the leading header."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return Frame(int(seconds) * 1_000_000_000 + int(nanoseconds), time.monotonic(), data)


def task_of(message: Any) -> TaskSample:
    return TaskSample(stamp_of(message), message.episode_id, message.stage, message.success)


def gate_of(message: Any) -> GateSample:
    names = ("episode_id", "state", "step", "verdict", "check", "reason")
    return GateSample(received=time.monotonic(), **{name: getattr(message, name) for name in names})


def world_of(message: Any) -> WorldSample:
    names = ("episode_id", "success", "grasped", "collision")
    return WorldSample(stamp=stamp_of(message), **{name: getattr(message, name) for name in names})


def record_of(message: Any) -> RecordSample:
    return RecordSample(message.episode_id, message.path, message.complete, tuple(message.problems))


def arm_of(message: Any) -> ArmSample:
    return ArmSample(stamp_of(message), message.authority == _OPERATOR)


def a_person_drives(message: Any) -> bool:
    """Whether an OperatorStep is a motion that a person commands; those of homing are not."""
    return message.kind == MOVE and message.source != HOMING
