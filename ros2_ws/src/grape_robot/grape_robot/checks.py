"""The gate's checks, by name: what refuses a step. Each says "" or one line with the number and the limit.

``INTEGRITY`` asks whether this is a step to look at, ``MOTION`` whether the arm may go there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from grape_episode.geometry import Pose
from grape_robot.integrate import ROTATIONS
from grape_robot.profile import GateProfile
from grape_robot.state import GateState, Mode, StepRequest, is_pose

_ROUNDING = 1e-9
"""Slack of the speed comparison, m/s and rad/s: a step of exactly the limit must not fail by its last bit."""


def _stopped(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    return f"the gate has stopped ({state.check}: {state.reason})" if state.mode is Mode.STOPPED else ""


def _episode(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    if state.mode is Mode.IDLE:
        return f"step of episode {request.episode_id!r}, and no episode is announced"
    if request.episode_id != state.episode_id:
        return f"step of episode {request.episode_id!r}, armed for {state.episode_id!r}"
    return ""


def _order(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    return "" if request.step == state.next_step else f"step {request.step}, expected {state.next_step}"


def _frame(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    return "" if request.frame == profile.frame else f"step in frame {request.frame!r}, expected {profile.frame!r}"


def _finite(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    if len(request.action) != 7:
        return f"action has {len(request.action)} values, expected 7"
    bad = [i for i, value in enumerate(request.action) if not np.isfinite(value)]
    return f"action[{bad[0]}] is {request.action[bad[0]]}" if bad else ""


def _rotation(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    if request.rotation not in ROTATIONS:
        return f"rotation {request.rotation!r}, expected one of {', '.join(ROTATIONS)}"
    # beyond half a turn the same pose is reached by a smaller one: the speed could not be told from the pose
    largest = max(abs(value) for value in request.action[3:6])
    return f"rotates by {largest:.4g} rad in one step, limit pi" if largest > math.pi else ""


def _age(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    return _too_old("observation", request.stamp, profile, request)


def _heartbeat(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    if state.lock_step:
        return ""
    if state.last_heartbeat is None:
        return "no heartbeat of the policy was ever heard"
    silence = request.now - state.last_heartbeat
    if silence > profile.heartbeat_timeout:
        return f"no heartbeat for {silence:.3f} s, limit {profile.heartbeat_timeout:.3f} s"
    return ""


def _state(profile: GateProfile, state: GateState, request: StepRequest) -> str:
    if request.measured is None:
        return "the measured TCP is unknown"
    if request.measured_frame != profile.frame:
        return f"the measured TCP is in frame {request.measured_frame!r}, expected {profile.frame!r}"
    if not is_pose(request.measured):
        pose = request.measured
        return f"the measured TCP is no pose: position {pose.position}, quaternion {pose.quaternion}"
    return _too_old("measured TCP", request.measured_stamp, profile, request)


def _too_old(what: str, stamp: int, profile: GateProfile, request: StepRequest) -> str:
    age = (request.now_stamp - stamp) / 1e9
    limit = profile.control_period + profile.age_margin
    if age > limit:
        return f"{what} is {age:.3f} s old, limit {limit:.3f} s"
    if -age > profile.ahead_margin:
        return f"{what} is stamped {-age:.3f} s ahead, limit {profile.ahead_margin:.3f} s"
    return ""


def _speed(profile: GateProfile, start: Pose, target: Pose) -> str:
    speed = start.distance(target) / profile.control_period
    if not speed <= profile.max_speed + _ROUNDING:
        return f"{speed:.4f} m/s, limit {profile.max_speed:.4f} m/s"
    turning = start.angle(target) / profile.control_period
    if not turning <= profile.max_rotation_speed + _ROUNDING:
        return f"{turning:.4f} rad/s, limit {profile.max_rotation_speed:.4f} rad/s"
    return ""


def _box(profile: GateProfile, start: Pose, target: Pose) -> str:
    for axis, value, low, high in zip("xyz", target.position, profile.box.low, profile.box.high, strict=True):
        if not low <= value <= high:
            return f"{axis} = {value:.4f} m, limits {low:.4f} to {high:.4f} m"
    return ""


def _keep_out(profile: GateProfile, start: Pose, target: Pose) -> str:
    for box in profile.keep_out:
        # an arm that finds itself inside must be able to leave
        leaving = box.contains(start.position) and not box.contains(target.position)
        if not leaving and box.crosses(start.position, target.position):
            return f"the way to {np.round(target.position, 4).tolist()} m touches {box.name}"
    return ""


INTEGRITY: tuple[tuple[str, Callable[[GateProfile, GateState, StepRequest], str]], ...] = (
    ("stopped", _stopped),
    ("episode", _episode),
    ("order", _order),
    ("frame", _frame),
    ("finite", _finite),
    ("rotation", _rotation),
    ("age", _age),
    ("heartbeat", _heartbeat),
    ("state", _state),
)
MOTION: tuple[tuple[str, Callable[[GateProfile, Pose, Pose], str]], ...] = (
    ("speed", _speed),
    ("box", _box),
    ("keep_out", _keep_out),
)
