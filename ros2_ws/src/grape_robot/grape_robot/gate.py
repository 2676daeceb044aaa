"""The last gate before the arm, as pure functions over a state. It refuses; it never clamps.

A step is judged by the named checks of ``grape_robot.checks``, in their order. Watchdog times are
seconds on one clock of the caller's choice; stamps are ROS time in nanoseconds.
"""

from __future__ import annotations

from dataclasses import replace

from grape_robot.checks import INTEGRITY, MOTION
from grape_robot.integrate import anchor, integrate
from grape_robot.profile import Box, GateProfile, ProfileError, load_profile
from grape_robot.state import GateState, Mode, StepRequest, Verdict, is_pose

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

_INSTANT = 1e-6
"""Slack of the timers, s: in lock-step silences are whole periods, and which side of a limit one falls on must not
depend on the rounding of large times."""


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
