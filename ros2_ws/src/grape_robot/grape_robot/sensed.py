"""What the gate senses of the arm and of the person beside it, against the profile: why it must not move now.

Every function says "" or one line with the number and the limit, and asks only for what the profile watches.
"""

from __future__ import annotations

import math

from grape_robot.franka import IDLE, MODES, MOVE, REFLEX, USER_STOPPED
from grape_robot.profile import JOINTS, GateProfile
from grape_robot.state import Senses, is_pose

MOVING_MODES = (IDLE, MOVE)
"""The others (guiding, reflex, user stop, error recovery, other) do not follow a controller."""
_MAYBE_STOPPED = "a reflex or the user stop does this too"


def stop_cause(profile: GateProfile, senses: Senses) -> tuple[str, str]:
    """Check and line of what stops the gate at once; ("", "") where nothing does."""
    if profile.watch_robot_mode and senses.robot_mode in (REFLEX, USER_STOPPED):
        return "robot_mode", f"the robot is in mode {mode_name(senses.robot_mode)}"
    if profile.controller and senses.controller_active is False:
        return "controller", f"{profile.controller} is not active: {_MAYBE_STOPPED}"
    if profile.watch_wrench and senses.wrench is not None:
        force, torque = magnitudes(senses.wrench)
        # written so that what is no number is above the limit
        if not force <= profile.max_force:
            return "wrench", f"external force {force:.1f} N, limit {profile.max_force:.1f} N"
        if not torque <= profile.max_torque:
            return "wrench", f"external torque {torque:.2f} Nm, limit {profile.max_torque:.2f} Nm"
    return "", ""


def magnitudes(wrench: tuple[float, ...]) -> tuple[float, float]:
    """Force (N) and torque (Nm) of a wrench (6,)."""
    a, b, c, d, e, f = wrench
    return math.sqrt(a * a + b * b + c * c), math.sqrt(d * d + e * e + f * f)


def mode_name(mode: int | None) -> str:
    """Number and name of a mode of franka_msgs/FrankaRobotState."""
    return "unknown" if mode is None else f"{mode} ({MODES.get(mode, 'unknown')})"


def dead_man(profile: GateProfile, senses: Senses) -> str:
    """Why the dead-man's switch counts as released; "" where it is held, or not asked for."""
    if not profile.dead_man.required:
        return ""
    if senses.joy_heard is None:
        return "no Joy message was ever heard"
    silence = senses.now - senses.joy_heard
    if not silence <= profile.dead_man.timeout:
        return f"no Joy message for {silence:.3f} s, limit {profile.dead_man.timeout:.3f} s"
    return "" if senses.dead_man else f"the dead-man's switch (button {profile.dead_man.button}) is not held"


def unfit(profile: GateProfile, senses: Senses) -> tuple[str, str]:
    """Check and line of what is heard but cannot be moved from; ("", "") where all is well."""
    if profile.watch_robot_mode and senses.robot_mode is not None and senses.robot_mode not in MOVING_MODES:
        return "robot_mode", f"the robot is in mode {mode_name(senses.robot_mode)}"
    pose = senses.measured
    if pose is not None and senses.measured_frame != profile.frame:
        return "state", f"the measured TCP is in frame {senses.measured_frame!r}, expected {profile.frame!r}"
    if pose is not None and not is_pose(pose):
        place, turned = pose.position.tolist(), pose.quaternion.tolist()  # an array takes 200 us to print itself
        return "state", f"the measured TCP is no pose: position {place}, quaternion {turned}"
    if profile.needs_model and senses.joints is not None:
        if len(senses.joints) != JOINTS:
            return "state", f"{len(senses.joints)} measured joints, expected {JOINTS}"
        if not all(map(math.isfinite, senses.joints)):
            return "state", f"measured joints are {list(senses.joints)} rad"
    return "", ""


def unheard(profile: GateProfile, senses: Senses) -> tuple[str, str, float]:
    """Check, line and silence beyond the limit (s; inf: never heard) of what has been silent for too long.

    Stamped messages age by ROS time. ("", "", 0.0) where everything is heard."""
    stamp = senses.now_stamp
    limit, ahead = profile.state_timeout, profile.ahead_margin
    what, age, most, check = "the measured TCP", _age(stamp, senses.measured, senses.measured_stamp), limit, "state"
    if profile.needs_model:
        other = _age(stamp, senses.joints, senses.joints_stamp)
        if other > age:
            what, age = "the measured joints", other
    if profile.watch_wrench:
        other = _age(stamp, senses.wrench, senses.wrench_stamp)
        if other > age:
            what, age = "the external wrench", other
    if profile.watch_robot_mode:
        other = math.inf if senses.robot_mode_heard is None else senses.now - senses.robot_mode_heard
        if other > age:
            what, age = "the robot's mode", other
    if profile.controller:
        other = math.inf if senses.controller_heard is None else senses.now - senses.controller_heard
        if other - profile.controller_timeout > age - most:
            what, age, most, check = (
                f"the state of {profile.controller}",
                other,
                profile.controller_timeout,
                "controller",
            )
    if age <= most and profile.moving_keep_out:  # of all silences the one that never stops the gate
        other = _age(stamp, senses.keep_out, senses.keep_out_stamp)
        if other - profile.keep_out_timeout > age - most:
            what, age, most, check = "the word on moving keep-outs", other, profile.keep_out_timeout, "keep_out"
    if age > most:
        old = "unknown" if age == math.inf else f"{age:.3f} s old, limit {most:.3f} s"
        return check, f"{what} is {old}", age - most
    newest = _newest(profile, senses)
    if newest - stamp > ahead * 1e9:
        return "state", f"what is sensed is stamped {(newest - stamp) / 1e9:.3f} s ahead, limit {ahead:.3f} s", 0.0
    return "", "", 0.0


def _age(stamp: int, known: object, heard: int) -> float:
    return math.inf if known is None else (stamp - heard) / 1e9


def _newest(profile: GateProfile, senses: Senses) -> int:
    """The newest stamp among what is watched, ns."""
    newest = senses.measured_stamp
    if profile.needs_model and senses.joints_stamp > newest:
        newest = senses.joints_stamp
    if profile.watch_wrench and senses.wrench_stamp > newest:
        newest = senses.wrench_stamp
    if profile.moving_keep_out and senses.keep_out_stamp > newest:
        newest = senses.keep_out_stamp
    return newest
