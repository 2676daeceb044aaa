"""The last gate before the arm, as pure functions over a state. It refuses; it never clamps.

A step is judged by named checks, in the order of ``INTEGRITY`` (is this a step to look at?) and ``MOTION`` (may the
arm go there?). Watchdog times are seconds on one clock of the caller's choice; stamps are ROS time in nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from grape_episode.geometry import Pose
from grape_robot.integrate import ROTATIONS, anchor, integrate
from grape_robot.profile import Box, GateProfile, ProfileError, load_profile

__all__ = [
    "Box",
    "GateProfile",
    "GateState",
    "Mode",
    "ProfileError",
    "StepRequest",
    "Verdict",
    "arm",
    "decline",
    "disarm",
    "gripper_goal",
    "heartbeat",
    "is_pose",
    "judge",
    "load_profile",
    "reset",
    "stop",
    "tick",
]

_ROUNDING = 1e-9
"""Slack of the speed comparison, m/s and rad/s: a step of exactly the limit must not fail by its last bit."""
_INSTANT = 1e-6
"""Slack of the timers, s: in lock-step silences are whole periods, and which side of a limit one falls on must not
depend on the rounding of large times."""


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


def arm(state: GateState, episode_id: str, lock_step: bool) -> GateState:
    """Ready for step 0 of an episode. A stopped gate stays stopped. The timers begin with the first step."""
    if state.mode is Mode.STOPPED:
        return state
    return GateState(Mode.ACTIVE, episode_id, lock_step, last_heartbeat=state.last_heartbeat)


def decline(state: GateState, reason: str) -> GateState:
    """An episode was announced that this gate cannot judge: idle, and it says why."""
    if state.mode is Mode.STOPPED:
        return state
    return GateState(last_heartbeat=state.last_heartbeat, check="episode", reason=reason)


def disarm(state: GateState, episode_id: str) -> GateState:
    """The episode ended: idle. Nothing changes for another episode's end, or when stopped."""
    if state.mode is Mode.STOPPED or episode_id != state.episode_id:
        return state
    return GateState(last_heartbeat=state.last_heartbeat)


def heartbeat(state: GateState, episode_id: str, now: float) -> GateState:
    """The policy lives; one that names another episode than the armed one says nothing about this one."""
    if episode_id and state.episode_id and episode_id != state.episode_id:
        return state
    return replace(state, last_heartbeat=now)


def stop(state: GateState, check: str, reason: str) -> GateState:
    """Stopped and latched; the first cause stays."""
    if state.mode is Mode.STOPPED:
        return state
    return replace(state, mode=Mode.STOPPED, check=check, reason=reason)


def reset(state: GateState) -> GateState:
    """A person has looked: idle. The episode is not resumed."""
    return GateState(last_heartbeat=state.last_heartbeat) if state.mode is Mode.STOPPED else state


def tick(profile: GateProfile, state: GateState, now: float) -> GateState:
    """The watchdogs at ``now``: hold, then stop. They run from the first step of an episode on.

    In lock-step only steps are timed: the world's time stands still between them, so it tells nothing about a
    heartbeat that follows the wall's."""
    if state.mode not in (Mode.ACTIVE, Mode.HOLD) or state.last_step is None:
        return state
    period = profile.control_period
    without_step = now - state.last_step - _INSTANT
    without_heartbeat = 0.0
    if not state.lock_step:
        without_heartbeat = float("inf") if state.last_heartbeat is None else now - state.last_heartbeat - _INSTANT
    if without_step > period + profile.stop_margin:
        return stop(state, "timeout", f"no step for {without_step:.3f} s, limit {period + profile.stop_margin:.3f} s")
    if without_heartbeat > period + profile.stop_margin:
        limit = period + profile.stop_margin
        return stop(state, "heartbeat", f"no heartbeat for {without_heartbeat:.3f} s, limit {limit:.3f} s")
    if state.mode is Mode.HOLD:
        return state
    if without_step > period + profile.hold_margin:
        limit = period + profile.hold_margin
        reason = f"no step for {without_step:.3f} s, limit {limit:.3f} s"
        return replace(state, mode=Mode.HOLD, check="timeout", reason=reason)
    if without_heartbeat > profile.heartbeat_timeout:
        reason = f"no heartbeat for {without_heartbeat:.3f} s, limit {profile.heartbeat_timeout:.3f} s"
        return replace(state, mode=Mode.HOLD, check="heartbeat", reason=reason)
    return state


def is_pose(pose: Pose) -> bool:
    """Whether the position is finite and the quaternion of length one (to a thousandth)."""
    return bool(np.all(np.isfinite(pose.position)) and abs(np.linalg.norm(pose.quaternion) - 1.0) <= 1e-3)


def gripper_goal(profile: GateProfile, last: float | None, value: float) -> float:
    """0 (close) or 1 (open) for a gripper value, with hysteresis around ``last`` (None: the nearer of the two)."""
    if value < profile.gripper_close_below:
        return 0.0
    if value > profile.gripper_open_above:
        return 1.0
    if last is None:
        return 1.0 if value >= 0.5 else 0.0
    return last


def judge(profile: GateProfile, state: GateState, request: StepRequest) -> tuple[Verdict, GateState]:
    """The verdict on a step and the state after it.

    An accepted step, and one refused for its motion, feed the step timer; one refused for what it is does not. After
    any step in order the next one is expected, accepted or not."""
    for name, integrity in INTEGRITY:
        reason = integrity(profile, state, request)
        if reason:
            ordered = name not in ("stopped", "episode", "order")
            after = replace(state, next_step=request.step + 1) if ordered else state
            return Verdict(False, name, reason), after
    measured = request.measured
    assert measured is not None  # check "state"
    reference = state.reference or measured
    gaps = profile.anchor_gap, profile.anchor_gap_rotation
    start = anchor(reference, measured, *gaps)
    target = integrate(reference, measured, request.action, request.rotation, *gaps)
    alive = replace(state, mode=Mode.ACTIVE, next_step=request.step + 1, last_step=request.now, check="", reason="")
    for name, motion in MOTION:
        reason = motion(profile, start, target)
        if reason:
            return Verdict(False, name, reason), alive
    goal = gripper_goal(profile, state.gripper, float(request.action[6]))
    return Verdict(True, target=target, gripper=goal), replace(alive, reference=target, gripper=goal)


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
