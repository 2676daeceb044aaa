"""The gate's checks, by name: what refuses a step. Each says "" or one line with the number and the limit.

``PROPER`` asks whether this is a step to look at, ``ABLE`` whether the arm may move at all now, ``MOTION`` and
``posture`` whether it may go there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from grape_robot import quaternions
from grape_robot.arm_model import ArmModel
from grape_robot.boxes import Box
from grape_robot.integrate import ROTATIONS, Placed, apart
from grape_robot.profile import GateProfile
from grape_robot.quaternions import Vector
from grape_robot.sensed import dead_man, stop_cause, unfit, unheard
from grape_robot.state import POLICY, SOURCES, TELEOP, Authority, GateState, Mode, Senses, StepRequest

_ROUNDING = 1e-9
"""Slack of the speed comparison, m/s and rad/s: a step of exactly the limit must not fail by its last bit."""

NEARING = 0.005
"""Radians by which a joint within its margin must have come nearer to its limit: less is the arm's own trembling."""

REACH = 1.0
"""Metres from the arm's base to its farthest sphere, rounded up."""

Check = Callable[[GateProfile, GateState, StepRequest, Senses], str]


def _stopped(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    return f"the gate has stopped ({state.check}: {state.reason})" if state.mode is Mode.STOPPED else ""


def _episode(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    if request.episode_id == state.episode_id and (request.episode_id or request.source != POLICY):
        return ""
    if request.source != POLICY and not request.episode_id:
        return ""
    if not state.episode_id:
        return f"step of episode {request.episode_id!r}, and no episode is announced"
    return f"step of episode {request.episode_id!r}, armed for {state.episode_id!r}"


def _order(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    if request.source == POLICY:
        return "" if request.step == state.next_step else f"step {request.step}, expected {state.next_step}"
    # after a silence the source may have been started again, and counts from 0
    silent = state.last_operator is None or senses.now - state.last_operator > profile.operator_timeout
    if request.source != state.operator or request.step > state.operator_sequence or silent:
        return ""
    return f"{request.source} step {request.step}, after {state.operator_sequence}"


def _operator(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    """Whether its source may drive: a person outranks the homing, and both outrank the policy."""
    if request.source not in SOURCES:
        return f"source {request.source!r}, expected one of {', '.join(SOURCES)}"
    if request.source != POLICY and state.lock_step:
        return f"{request.source} steps are refused in lock-step"
    if state.authority is not Authority.OPERATOR or request.source in (state.operator, TELEOP):
        return ""
    return f"{state.operator} drives, and has not handed back"


def _frame(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    return "" if request.frame == profile.frame else f"step in frame {request.frame!r}, expected {profile.frame!r}"


def _finite(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    if len(request.action) != 7:
        return f"action has {len(request.action)} values, expected 7"
    if all(map(math.isfinite, request.action)):
        return ""
    index, value = next((i, value) for i, value in enumerate(request.action) if not math.isfinite(value))
    return f"action[{index}] is {value}"


def _rotation(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    if request.rotation not in ROTATIONS:
        return f"rotation {request.rotation!r}, expected one of {', '.join(ROTATIONS)}"
    # beyond half a turn the same pose is reached by a smaller one: the speed could not be told from the pose
    largest = max(map(abs, request.action[3:6]))
    return f"rotates by {largest:.4g} rad in one step, limit pi" if largest > math.pi else ""


def _age(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    age = (senses.now_stamp - request.stamp) / 1e9
    limit = period(profile, request) + profile.age_margin
    if age > limit:
        return f"observation is {age:.3f} s old, limit {limit:.3f} s"
    if -age > profile.ahead_margin:
        return f"observation is stamped {-age:.3f} s ahead, limit {profile.ahead_margin:.3f} s"
    return ""


def _heartbeat(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> str:
    if state.lock_step or request.source != POLICY:
        return ""
    if state.last_heartbeat is None:
        return "no heartbeat of the policy was ever heard"
    silence = senses.now - state.last_heartbeat
    if silence > profile.heartbeat_timeout:
        return f"no heartbeat for {silence:.3f} s, limit {profile.heartbeat_timeout:.3f} s"
    return ""


def able(profile: GateProfile, state: GateState, request: StepRequest, senses: Senses) -> tuple[str, str, bool]:
    """Whether the arm may move at all now: check and line, "" where it may, and whether the gate stops for it."""
    reason = _heartbeat(profile, state, request, senses)
    if reason:
        return "heartbeat", reason, False
    name, reason = stop_cause(profile, senses)
    if name:
        return name, reason, True
    reason = dead_man(profile, senses)
    if reason:
        return "dead_man", reason, False
    name, reason = unfit(profile, senses)
    if name:
        return name, reason, False
    name, reason, _ = unheard(profile, senses)
    return name, reason, False


def period(profile: GateProfile, request: StepRequest) -> float:
    """Seconds that a step of this source lasts."""
    return profile.control_period if request.source == POLICY else profile.operator_period


def too_fast(profile: GateProfile, start: Placed, target: Placed, seconds: float) -> tuple[str, float]:
    """Why the way is too fast for ``seconds``, or ""; and the part of it that is not."""
    distance, turn = apart(start, target)
    speed, turning = distance / seconds, turn / seconds
    reason, part = "", 1.0
    # written so that what is no number is too fast
    if not turning <= profile.max_rotation_speed + _ROUNDING:
        reason = f"{turning:.4f} rad/s, limit {profile.max_rotation_speed:.4f} rad/s"
        part = profile.max_rotation_speed / turning
    if not speed <= profile.max_speed + _ROUNDING:
        reason = f"{speed:.4f} m/s, limit {profile.max_speed:.4f} m/s"
        part = min(part, profile.max_speed / speed)
    return reason, part


def box(profile: GateProfile, place: Vector) -> str:
    """Whether the target's ``place`` is in the workspace."""
    if profile.box.contains(place):
        return ""
    for axis, value, low, high in zip("xyz", place, profile.box.low, profile.box.high, strict=True):
        if not low <= value <= high:
            return f"{axis} = {value:.4f} m, limits {low:.4f} to {high:.4f} m"
    return ""


def keep_outs(profile: GateProfile, senses: Senses) -> tuple[Box, ...]:
    """Those of the profile, and those that move where the profile hears them."""
    if not profile.moving_keep_out or senses.keep_out is None:
        return profile.keep_out
    return (*profile.keep_out, *senses.keep_out)


def keep_out(profile: GateProfile, boxes: Iterable[Box], start: Vector, place: Vector) -> str:
    """Whether the straight way from ``start`` to ``place`` stays out of all ``boxes``."""
    margin = profile.keep_out_margin
    for forbidden in boxes:
        # an arm that finds itself inside must be able to leave
        if forbidden.crosses(start, place, margin) and not (
            forbidden.contains(start, margin) and not forbidden.contains(place, margin)
        ):
            return f"the way to {[round(value, 4) for value in place]} m touches {forbidden.name}"
    return ""


def posture(
    profile: GateProfile,
    arm: ArmModel | None,
    boxes: tuple[Box, ...],
    senses: Senses,
    measured: Placed,
    target: Placed,
) -> tuple[str, str]:
    """The joints that the target asks for: check and line, "" where they are allowed.

    They are predicted by one damped least-squares step from the measured ones (see ``ArmModel.reach``)."""
    now = senses.joints
    if arm is None or now is None:
        return "joints", "the joints that the target asks for cannot be told"
    (x, y, z), turned = measured
    (a, b, c), wanted = target
    turn = quaternions.to_vector(quaternions.product(wanted, quaternions.conjugate(turned)))
    there = arm.follow(now, (a - x, b - y, c - z, *turn))
    if profile.watch_joints:
        reason = _joints(profile, now, there)
        if reason:
            return "joints", reason
    if profile.keep_out_links:
        reason = _links(profile, arm, boxes, now, there)
        if reason:
            return "links", reason
    return "", ""


def _joints(profile: GateProfile, now: tuple[float, ...], there: tuple[float, ...]) -> str:
    limits, margin, most = profile.joint_limits, profile.joint_limit_margin, profile.max_joint_step
    for was, angle, low, high in zip(now, there, limits.low, limits.high, strict=True):
        # written so that what is no number is beyond the limit
        if not (low + margin <= angle <= high - margin and abs(angle - was) <= most):
            break
    else:
        return ""
    doubt = _second_order(now, there)
    for joint, (was, angle, low, high) in enumerate(zip(now, there, limits.low, limits.high, strict=True), 1):
        step, low, high = angle - was, low + margin, high - margin
        if not abs(step) <= most:
            return f"joint {joint} would turn by {step:.3f} rad, limit {most:.3f} rad"
        # an arm that finds itself beyond the margin must be able to come back
        if not low <= angle <= high and not (step > doubt and angle < low) and not (step < -doubt and angle > high):
            return f"joint {joint} would be at {angle:.3f} rad, limits {low:.3f} to {high:.3f} rad"
    return ""


def nearing(profile: GateProfile, then: tuple[float, ...] | None, now: tuple[float, ...] | None) -> str:
    """Whether a joint is within the margin of its limit and has come nearer to it since the target was accepted.

    The posture was predicted then; a controller that resolves the redundant joint in another way goes elsewhere, and
    only what is measured on the way shows it."""
    if not profile.watch_joints or then is None or now is None or len(now) != len(then):
        return ""
    limits, margin = profile.joint_limits, profile.joint_limit_margin
    for joint, (was, angle, low, high) in enumerate(zip(then, now, limits.low, limits.high, strict=True), 1):
        gap = min(angle - low, high - angle)
        if gap < margin and gap < min(was - low, high - was) - NEARING:
            return f"joint {joint} is {gap:.3f} rad from its limit on the way to the target, margin {margin:.3f} rad"
    return ""


def _links(
    profile: GateProfile, arm: ArmModel, boxes: tuple[Box, ...], now: tuple[float, ...], there: tuple[float, ...]
) -> str:
    floor, margin = profile.box.low[2], profile.keep_out_margin
    after = arm.centres(there)
    touched: list[tuple[int, Box | None]] = [
        (index, None)
        for index, ((_, _, z), radius) in enumerate(zip(after, arm.radii, strict=True))
        if z - radius < floor
    ]
    for forbidden in boxes:
        # most spheres are far from most boxes: the comparisons along one axis say so
        (a, b, c), (d, e, f) = forbidden.low, forbidden.high
        for index, ((x, y, z), radius) in enumerate(zip(after, arm.radii, strict=True)):
            reach = radius + margin
            if x < a - reach or x > d + reach or y < b - reach or y > e + reach or z < c - reach or z > f + reach:
                continue
            if forbidden.distance((x, y, z)) <= reach:
                touched.append((index, forbidden))
    if not touched:
        return ""
    doubt = 0.5 * _second_order(now, there) * REACH
    return _entering(profile, arm, touched, arm.centres(now), after, doubt)


def _second_order(now: tuple[float, ...], there: tuple[float, ...]) -> float:
    """Radians by which the first-order prediction of the joints may err, about: the square of the way. A departure that
    is predicted to be less may be none."""
    return sum((b - a) ** 2 for a, b in zip(now, there, strict=True))


def _entering(
    profile: GateProfile,
    arm: ArmModel,
    touched: list[tuple[int, Box | None]],
    before: list[list[float]],
    after: list[list[float]],
    doubt: float,
) -> str:
    """Of the spheres that touch something, the first that does not leave it: an arm that is there already must be able
    to, and may move if that takes it further away by more than ``doubt`` metres."""
    floor, margin = profile.box.low[2], profile.keep_out_margin
    for index, obstacle in touched:
        radius, was, there = arm.radii[index], before[index], after[index]
        if obstacle is None:
            leaves, what = was[2] - radius < floor and there[2] > was[2] + doubt, "the floor of the box"
        else:
            gap, what = obstacle.distance(was), obstacle.name
            leaves = gap <= radius + margin and obstacle.distance(there) > gap + doubt
        if not leaves:
            return f"a sphere of {arm.spheres[index].link} would touch {what}"
    return ""


PROPER: tuple[tuple[str, Check], ...] = (
    ("stopped", _stopped),
    ("episode", _episode),
    ("order", _order),
    ("operator", _operator),
    ("frame", _frame),
    ("finite", _finite),
    ("rotation", _rotation),
    ("age", _age),
)
