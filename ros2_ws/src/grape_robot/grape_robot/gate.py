"""The last gate before the arm, as pure functions over a state. It refuses; it never changes a direction.

A step is judged by the named checks of ``grape_robot.checks``, in their order. Watchdog times are
seconds on one clock of the caller's choice; stamps are ROS time in nanoseconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from grape_episode.geometry import Pose
from grape_robot import checks, quaternions, sensed
from grape_robot.arm_model import ArmModel
from grape_robot.boxes import Box, LinkSphere
from grape_robot.franka import MOVE
from grape_robot.integrate import Placed, anchored, displaced, placed
from grape_robot.profile import GateProfile, ProfileError, load_profile
from grape_robot.state import POLICY, TELEOP, Authority, GateState, Mode, Senses, StepRequest, Verdict, is_pose

__all__ = [
    "MOVE",
    "ArmModel",
    "Authority",
    "Box",
    "GateProfile",
    "GateState",
    "LinkSphere",
    "Mode",
    "ProfileError",
    "Senses",
    "StepRequest",
    "Verdict",
    "arm",
    "decline",
    "disarm",
    "gripper_goal",
    "hand_back",
    "heartbeat",
    "is_pose",
    "judge",
    "load_profile",
    "reset",
    "reset_refusal",
    "stop",
    "tick",
]

_INSTANT = 1e-6
"""Slack of the timers, s: in lock-step silences are whole periods, and which side of a limit one falls on must not
depend on the rounding of large times."""


def arm(state: GateState, episode_id: str, lock_step: bool) -> GateState:
    """Ready for step 0 of an episode. A stopped gate stays stopped; an operator who drives goes on driving. The timers
    begin with the first step."""
    if state.mode is Mode.STOPPED:
        return state
    return _fresh(replace(state, lock_step=lock_step), mode=Mode.ACTIVE, episode_id=episode_id)


def decline(state: GateState, reason: str) -> GateState:
    """An episode was announced that this gate cannot judge: idle, and it says why."""
    if state.mode is Mode.STOPPED:
        return state
    return _fresh(state, check="episode", reason=reason)


def disarm(state: GateState, episode_id: str) -> GateState:
    """The episode ended: idle. Nothing changes for another episode's end, or when stopped."""
    if state.mode is Mode.STOPPED or episode_id != state.episode_id:
        return state
    return _fresh(state)


def _fresh(
    state: GateState, mode: Mode = Mode.IDLE, episode_id: str = "", check: str = "", reason: str = ""
) -> GateState:
    """Nothing of an episode is left; whoever drives keeps driving, from where the target is."""
    drives = state.authority is Authority.OPERATOR
    return GateState(
        mode=mode,
        episode_id=episode_id,
        lock_step=state.lock_step,
        last_heartbeat=state.last_heartbeat,
        reference=state.reference if drives else None,
        check=check,
        reason=reason,
        authority=state.authority,
        operator=state.operator,
        operator_sequence=state.operator_sequence,
        last_operator=state.last_operator,
    )


def heartbeat(state: GateState, episode_id: str, now: float) -> GateState:
    """The policy lives; one that names another episode than the armed one says nothing about this one."""
    if episode_id and state.episode_id and episode_id != state.episode_id:
        return state
    return replace(state, last_heartbeat=now)


def stop(state: GateState, check: str, reason: str, now: float) -> GateState:
    """Stopped and latched at ``now``; the first cause stays."""
    if state.mode is Mode.STOPPED:
        return state
    return replace(state, mode=Mode.STOPPED, check=check, reason=reason, stopped_at=now)


def reset_refusal(profile: GateProfile, state: GateState, senses: Senses) -> str:
    """Why a stopped gate may not be reset now; "" where it may: the cool-down is over and the cause is gone."""
    if state.mode is not Mode.STOPPED:
        return ""
    since = senses.now - (state.stopped_at or 0.0)
    if since < profile.reset_cooldown:
        return f"stopped {since:.1f} s ago, the cool-down is {profile.reset_cooldown:.1f} s"
    return sensed.stop_cause(profile, senses)[1]


def reset(state: GateState) -> GateState:
    """A person has looked: idle. The episode is not resumed, and nobody drives."""
    if state.mode is not Mode.STOPPED:
        return state
    return GateState(last_heartbeat=state.last_heartbeat, lock_step=state.lock_step)


def tick(profile: GateProfile, arm: ArmModel | None, state: GateState, senses: Senses) -> GateState:
    """The watchdogs at ``senses.now``: hold, then stop. They run from the first step of an episode, or of an operator,
    on; the policy's own are at rest while an operator drives.

    In lock-step only steps are timed: the world's time stands still between them, so it tells nothing about a
    heartbeat that follows the wall's, and what is sensed is judged with each step."""
    drives = state.authority is Authority.OPERATOR and state.last_operator is not None
    if state.mode is Mode.STOPPED or not (drives or (state.episode_id and state.last_step is not None)):
        return state
    now = senses.now
    since = state.last_operator if drives else state.last_step
    if since is not None and now < since - _INSTANT:
        return stop(state, "clock", f"the clock of the watchdogs went back by {since - now:.3f} s", now)
    if not state.lock_step:
        check, reason = sensed.stop_cause(profile, senses)
        if check:
            return stop(state, check, reason, now)
        check, reason, beyond = sensed.unheard(profile, senses)
        if beyond > profile.stop_margin and check != "keep_out":
            return stop(state, check, reason, now)
        if not check:
            check, reason = sensed.unfit(profile, senses)
        near = "" if check else checks.nearing(profile, state.joints, senses.joints)
        if near:  # to hold the set point is not enough: it may be what the joint goes to
            return stop(state, "joints", near, now)
        if not check:
            reason = sensed.dead_man(profile, senses)
            check = "dead_man" if reason else ""
        if not check:
            reason = _moved_in(profile, state, senses)
            check = "keep_out" if reason else ""
    else:
        check, reason = "", ""
    latch, late, why = _operator_timer(profile, state, now) if drives else _policy_timers(profile, state, now)
    if latch:
        return stop(state, late, why, now)
    if state.mode is Mode.HOLD or not (check or late):
        return state
    return replace(state, mode=Mode.HOLD, check=check or late, reason=reason or why)


def _operator_timer(profile: GateProfile, state: GateState, now: float) -> tuple[bool, str, str]:
    assert state.last_operator is not None
    silence = now - state.last_operator - _INSTANT
    limit = profile.operator_timeout
    if silence > limit:
        return False, "operator", f"no step of {state.operator} for {silence:.3f} s, limit {limit:.3f} s"
    return False, "", ""


def _policy_timers(profile: GateProfile, state: GateState, now: float) -> tuple[bool, str, str]:
    """Whether to stop, check and line of a step or a heartbeat that is overdue."""
    assert state.last_step is not None
    period = profile.control_period
    without_step = now - state.last_step - _INSTANT
    without_heartbeat = 0.0
    if not state.lock_step:
        without_heartbeat = float("inf") if state.last_heartbeat is None else now - state.last_heartbeat - _INSTANT
    limit = period + profile.stop_margin
    if without_step > limit:
        return True, "timeout", f"no step for {without_step:.3f} s, limit {limit:.3f} s"
    if without_heartbeat > limit:
        return True, "heartbeat", f"no heartbeat for {without_heartbeat:.3f} s, limit {limit:.3f} s"
    limit = period + profile.hold_margin
    if without_step > limit:
        return False, "timeout", f"no step for {without_step:.3f} s, limit {limit:.3f} s"
    limit = profile.heartbeat_timeout
    if without_heartbeat > limit:
        return False, "heartbeat", f"no heartbeat for {without_heartbeat:.3f} s, limit {limit:.3f} s"
    return False, "", ""


def _moved_in(profile: GateProfile, state: GateState, senses: Senses) -> str:
    """Whether a keep-out that moves has come onto the way that is left to the target."""
    if not profile.moving_keep_out or not senses.keep_out or senses.measured is None:
        return ""
    (here, _), (there, _) = placed(senses.measured), placed(state.reference or senses.measured)
    return checks.keep_out(profile, senses.keep_out, here, there)


def gripper_goal(profile: GateProfile, last: float | None, value: float, source: str = POLICY) -> float | None:
    """0 (close) or 1 (open) for a gripper value, with hysteresis around ``last`` (None: the nearer of the two; of an
    operator None, who between the two leaves the gripper as it is)."""
    if value < profile.gripper_close_below:
        return 0.0
    if value > profile.gripper_open_above:
        return 1.0
    if last is None and source == POLICY:
        return 1.0 if value >= 0.5 else 0.0
    return last


def judge(
    profile: GateProfile, arm: ArmModel | None, state: GateState, request: StepRequest, senses: Senses
) -> tuple[Verdict, GateState]:
    """The verdict on a step and the state after it. ``arm`` is ``ArmModel.of(profile)``.

    A step of the policy that is accepted, or refused for its motion or for the dead-man's switch, feeds the step timer;
    one refused for what it is does not. After any step in order the next one is expected, accepted or not. A proper
    step of an operator takes over in this very call, whether its motion is accepted or not."""
    for name, check in checks.PROPER:
        reason = check(profile, state, request, senses)
        if reason:
            ordered = request.source == POLICY and name not in ("stopped", "episode", "order")
            return Verdict(False, name, reason), _with(state, next_step=request.step + 1) if ordered else state
    after = _heard(state, request, senses.now)
    name, reason, latch = checks.able(profile, state, request, senses)
    if latch:
        return Verdict(False, name, reason), stop(_with(state, **after), name, reason, senses.now)
    feeds = request.source == POLICY and name in ("", "dead_man")
    if feeds:
        after["last_step"] = senses.now
    if name:
        return Verdict(False, name, reason), _with(state, **after)
    verdict = _motion(profile, arm, state, after.get("reference", state.reference), request, senses)
    if verdict.accepted:
        after.update(reference=verdict.target, gripper=verdict.gripper, joints=senses.joints, **_going(state))
    elif state.mode is Mode.HOLD and state.check in ("timeout", "heartbeat", "operator"):
        after.update(_going(state))
    return verdict, _with(state, **after)


def _motion(
    profile: GateProfile,
    arm: ArmModel | None,
    state: GateState,
    reference: Pose | None,
    request: StepRequest,
    senses: Senses,
) -> Verdict:
    assert senses.measured is not None  # check "state"
    start = measured = placed(senses.measured)
    if reference is not None:
        start = anchored(placed(reference), measured, profile.anchor_gap, profile.anchor_gap_rotation)
    target = displaced(start, request.action, request.rotation)
    short, part = checks.too_fast(profile, start, target, checks.period(profile, request))
    if short:
        if not profile.shorten_steps:
            return Verdict(False, "speed", short)
        target = _part(start, target, part)
    boxes = checks.keep_outs(profile, senses)
    reason = checks.box(profile, target[0])
    if reason:
        return Verdict(False, "box", reason)
    reason = checks.keep_out(profile, boxes, start[0], target[0])
    if reason:
        return Verdict(False, "keep_out", reason)
    if profile.needs_model:
        name, reason = checks.posture(profile, arm, boxes, senses, measured, target)
        if name:
            return Verdict(False, name, reason)
    goal = gripper_goal(profile, state.gripper, request.action[6], request.source)
    pose = Pose(np.array(target[0]), np.array(target[1]))
    if short:
        return Verdict(True, "length", f"shortened to {part:.4f} of itself: {short}", pose, goal, part)
    return Verdict(True, "", "", pose, goal)


def _part(start: Placed, target: Placed, part: float) -> Placed:
    """On the straight way from ``start`` to ``target``, ``part`` of it."""
    x, y, z = (a + part * (b - a) for a, b in zip(start[0], target[0], strict=True))
    return (x, y, z), quaternions.between(start[1], target[1], part)


def _heard(state: GateState, request: StepRequest, now: float) -> dict[str, Any]:
    """What a proper step changes: the next one is expected; an operator's drives from now on, and from the measured
    TCP."""
    if request.source == POLICY:
        return {"next_step": request.step + 1}
    took_over = state.authority is not Authority.OPERATOR or state.operator != request.source
    return {
        "authority": Authority.OPERATOR,
        "operator": request.source,
        "operator_sequence": request.step,
        "last_operator": now,
        "reference": None if took_over else state.reference,
    }


def _going(state: GateState) -> dict[str, Any]:
    return {"mode": Mode.ACTIVE if state.episode_id else Mode.IDLE, "check": "", "reason": ""}


def _with(state: GateState, **changes: Any) -> GateState:
    """``dataclasses.replace``, a tenth of its time."""
    new = object.__new__(GateState)
    new.__dict__.update(state.__dict__)
    new.__dict__.update(changes)
    return new


def hand_back(
    profile: GateProfile, state: GateState, request: StepRequest, senses: Senses
) -> tuple[Verdict, GateState]:
    """The operator gives the arm back: the target stays where it is until the policy's next step, which starts from the
    measured TCP and with which its timers begin anew. The homing cannot give back what a person has taken.

    The action of ``request`` is ignored; "authority" refuses where nobody drives."""
    for name, check in checks.PROPER:
        reason = "" if name in ("finite", "rotation") else check(profile, state, request, senses)
        if reason:
            return Verdict(False, name, reason), state
    if state.authority is not Authority.OPERATOR or request.source not in (state.operator, TELEOP):
        return Verdict(False, "authority", f"{request.source} does not drive"), state
    return Verdict(True), replace(
        state,
        authority=Authority.POLICY,
        operator=request.source,
        operator_sequence=request.step,
        last_operator=None,
        last_step=None,
        reference=None,
        **_going(state),
    )
