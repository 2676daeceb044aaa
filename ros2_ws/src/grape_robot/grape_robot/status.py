"""What the gate tells of itself: GateStatus and ArmStatus, filled from what it knows."""

from __future__ import annotations

import math
from typing import Any

from grape_episode.geometry import Pose
from grape_episode.messages import fill_header, fill_pose
from grape_robot.arm_model import ArmModel
from grape_robot.checks import keep_outs
from grape_robot.profile import JOINTS, GateProfile
from grape_robot.sensed import dead_man, magnitudes
from grape_robot.state import GateState, Senses, is_pose

UNHEARD = 255
"""ArmStatus.robot_mode before the first word of it."""


def fill_gate_status(message: Any, profile: GateProfile, state: GateState, stamp: int) -> Any:
    """Into a GateStatus, without a verdict; ``stamp`` ns of ROS time. Returns it."""
    fill_header(message, stamp, profile.frame)
    message.state, message.episode_id = int(state.mode), state.episode_id
    message.check, message.reason = state.check, state.reason
    if state.reference is not None:
        fill_pose(message.target, state.reference)
    message.gripper = math.nan if state.gripper is None else state.gripper
    return message


def fill_arm_status(
    message: Any,
    profile: GateProfile,
    arm: ArmModel | None,
    state: GateState,
    senses: Senses,
    setpoint: Pose | None,
    dry_run: bool,
) -> Any:
    """Into an ArmStatus. Returns it."""
    fill_header(message, senses.now_stamp, profile.frame)
    message.episode_id, message.authority = state.episode_id, int(state.authority)
    message.dead_man_required, message.dead_man = profile.dead_man.required, held(profile, senses)
    message.robot_mode = UNHEARD if senses.robot_mode is None else senses.robot_mode
    message.controller_active = bool(senses.controller_active)
    if setpoint is not None:
        fill_pose(message.setpoint, setpoint)
    message.force, message.torque = (math.nan, math.nan) if senses.wrench is None else magnitudes(senses.wrench)
    message.joint_margin = joint_margin(profile, senses)
    message.clearance = clearance(profile, arm, senses)
    message.dry_run = dry_run
    return message


def held(profile: GateProfile, senses: Senses) -> bool:
    """Whether the dead-man's switch is held, wherever somebody asks for it or not."""
    fresh = senses.joy_heard is not None and senses.now - senses.joy_heard <= profile.dead_man.timeout
    return not dead_man(profile, senses) if profile.dead_man.required else fresh and senses.dead_man


def joint_margin(profile: GateProfile, senses: Senses) -> float:
    """Least distance of a joint to its limit, radians; NaN where the joints are not heard."""
    if senses.joints is None or len(senses.joints) != JOINTS:
        return math.nan
    limits = zip(senses.joints, profile.joint_limits.low, profile.joint_limits.high, strict=True)
    return min(min(angle - low, high - angle) for angle, low, high in limits)


def clearance(profile: GateProfile, arm: ArmModel | None, senses: Senses) -> float:
    """Least distance of the TCP, and of the arm's spheres where there is a model, to a keep-out, metres; NaN where
    there is no keep-out or nothing is heard."""
    boxes = keep_outs(profile, senses)
    if not boxes:
        return math.nan
    points: list[tuple[Any, float]] = []
    if senses.measured is not None and is_pose(senses.measured):
        points.append((senses.measured.position.tolist(), 0.0))
    if arm is not None and senses.joints is not None and len(senses.joints) == JOINTS:
        points += zip(arm.centres(senses.joints), (sphere.radius for sphere in arm.spheres), strict=True)
    return min((box.distance(point) - radius for box in boxes for point, radius in points), default=math.nan)
