"""The gate against a checker written from the profile's words alone, and its timers as a table."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_robot import gate
from grape_robot.gate import Box, GateProfile, GateState, Mode, Senses, StepRequest, Verdict

PROFILE = gate.load_profile(Path(__file__).parents[4] / "launch" / "params" / "gate_sim.yaml")
NOW = 5_000_000_000
HOME = Pose(np.array([0.45, 0.0, 0.25]), np.array([1.0, 0.0, 0.0, 0.0]))
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


SENSED = {field.name for field in fields(Senses)}


def request(**changes) -> StepRequest:
    base = StepRequest(episode_id="e", step=0, stamp=NOW, frame="fr3_link0", action=STILL, rotation="euler_xyz")
    return replace(base, **changes)


def senses(**changes) -> Senses:
    base = Senses(
        now=NOW * 1e-9, now_stamp=NOW, measured=HOME, measured_stamp=NOW, measured_frame="fr3_link0", dead_man=True
    )
    return replace(base, **changes)


def armed(lock_step: bool = False) -> GateState:
    return gate.heartbeat(gate.arm(GateState(), "e", lock_step), "e", NOW * 1e-9)


def judge(profile: GateProfile = PROFILE, state: GateState | None = None, **changes) -> tuple[Verdict, GateState]:
    """``changes`` of the request and of what is sensed."""
    sensed = {name: value for name, value in changes.items() if name in SENSED}
    asked = {name: value for name, value in changes.items() if name not in SENSED}
    return gate.judge(profile, None, state or armed(), request(**asked), senses(**sensed))


def tick(state: GateState, now: float, profile: GateProfile = PROFILE, **changes) -> GateState:
    """The watchdogs at ``now``, with everything sensed a moment before."""
    stamp = round(now * 1e9)
    fresh = {"measured_stamp": stamp, **changes}
    return gate.tick(profile, None, state, senses(now=now, now_stamp=stamp, **fresh))


wild = st.one_of(st.floats(-0.2, 0.2), st.floats(), st.sampled_from([0.0, -0.0, 1e308, 5e-324, math.inf, math.nan]))
calm = st.floats(-0.09, 0.09)
coordinate = st.floats(-0.1, 1.0)
limit = st.one_of(st.just(0.0), st.floats(0.0, 0.6))
corner = st.tuples(coordinate, coordinate, coordinate)


@st.composite
def boxes(draw) -> Box:
    a, b = draw(corner), draw(corner)
    return Box("drawn", tuple(map(min, a, b)), tuple(map(max, a, b)))


@st.composite
def profiles(draw) -> GateProfile:
    return replace(
        PROFILE,
        max_speed=draw(limit),
        max_rotation_speed=draw(limit),
        anchor_gap=draw(limit),
        anchor_gap_rotation=draw(limit),
        box=draw(st.one_of(st.just(PROFILE.box), boxes())),
        keep_out=draw(st.one_of(st.just(()), st.tuples(boxes()))),
    )


def within(profile: GateProfile, start: Pose, target: Pose) -> bool:
    """Independent of gate.py: quaternion arithmetic by hand, points along the way instead of slabs."""
    t, s = [float(x) for x in target.position], [float(x) for x in start.position]
    if not all(math.isfinite(x) for x in [*t, *map(float, target.quaternion)]):
        return False
    if not all(low <= x <= high for low, x, high in zip(profile.box.low, t, profile.box.high, strict=True)):
        return False
    if math.dist(s, t) > profile.max_speed * profile.control_period + 1e-8:
        return False
    q, r = np.asarray(start.quaternion), np.asarray(target.quaternion)
    q, r = q / np.linalg.norm(q), r / np.linalg.norm(r)
    # the rotation is twice the angle between the quaternions, of which q and -q are the same rotation
    gap, sum_ = np.linalg.norm(q - r), np.linalg.norm(q + r)
    turn = 4.0 * math.atan2(min(gap, sum_), max(gap, sum_))
    if turn > profile.max_rotation_speed * profile.control_period + 1e-7:
        return False
    for box in profile.keep_out:
        inside = [
            all(low <= (1 - k) * a + k * b <= high for low, a, b, high in zip(box.low, s, t, box.high, strict=True))
            for k in np.linspace(0.0, 1.0, 25)
        ]
        if inside[-1] or (any(inside) and not inside[0]):
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(profiles(), st.lists(st.tuples(*[calm] * 6, st.floats(-1.0, 2.0)), min_size=1, max_size=6), corner)
def test_no_accepted_target_leaves_the_limits(profile, actions, position) -> None:
    state, last = armed(), None
    measured = Pose(np.array(position), HOME.quaternion)
    for step, action in enumerate(actions):
        verdict, state = judge(profile, state, step=step, action=action, measured=measured)
        if verdict.accepted:
            assert verdict.target is not None
            start = measured
            if last is not None and math.dist(last.position, measured.position) <= profile.anchor_gap:
                turn = last.angle(measured)
                start = last if turn <= profile.anchor_gap_rotation else measured
            assert within(profile, start, verdict.target)
            assert verdict.gripper in (0.0, 1.0)
            last = verdict.target
        assert state.next_step == step + 1
        assert state.reference is last


@settings(max_examples=150, deadline=None)
@given(st.lists(wild, min_size=0, max_size=9), st.sampled_from(["euler_xyz", "axis_angle", "", "quaternion"]))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_wild_passes_or_raises(action, rotation) -> None:
    verdict, state = judge(action=tuple(action), rotation=rotation)
    if len(action) != 7 or not all(math.isfinite(value) for value in action) or len(rotation) < 9:
        assert not verdict.accepted
    if verdict.accepted:
        assert verdict.target is not None and within(PROFILE, HOME, verdict.target)
    else:
        assert verdict.check and verdict.reason and verdict.target is None and state.reference is None


VETOES = [
    ("episode", {"episode_id": "other"}),
    ("order", {"step": 1}),
    ("frame", {"frame": "world"}),
    ("finite", {"action": (math.nan, *STILL[1:])}),
    ("finite", {"action": (*STILL[:6], math.inf)}),
    ("finite", {"action": STILL[:6]}),
    ("rotation", {"rotation": "quaternion"}),
    ("rotation", {"action": (*STILL[:5], 2 * math.pi, 1.0)}),
    ("age", {"stamp": NOW - 360_000_000}),
    ("age", {"stamp": NOW + 260_000_000}),
    ("heartbeat", {"now": NOW * 1e-9 + 0.31}),
    ("state", {"measured": None}),
    ("state", {"measured": Pose(np.array([math.nan, 0.0, 0.0]))}),
    ("state", {"measured": Pose(np.zeros(3), np.zeros(4))}),
    ("state", {"measured_frame": "fr3_link8"}),
    ("state", {"measured_stamp": NOW - 360_000_000}),
    ("speed", {"action": (0.071, *STILL[1:])}),
    ("speed", {"action": (0.0, 0.0, 0.0, 0.0, 0.0, 0.41, 1.0)}),
    ("box", {"measured": Pose(np.array([0.74, 0.0, 0.25])), "action": (0.02, *STILL[1:])}),
]


@pytest.mark.parametrize(("check", "changes"), VETOES)
def test_each_veto_has_its_name(check: str, changes: dict) -> None:
    assert judge()[0].accepted
    verdict, _ = judge(**changes)
    assert (verdict.accepted, verdict.check) == (False, check)


def test_what_is_just_within_passes() -> None:
    assert judge(stamp=NOW - 350_000_000)[0].accepted
    assert judge(action=(0.07, *STILL[1:]))[0].accepted
    assert judge(measured=Pose(np.array([0.75, 0.0, 0.25])))[0].accepted


def test_a_keep_out_box_is_not_stepped_over_and_can_be_left() -> None:
    wall = Box("wall", (0.46, -1.0, 0.0), (0.461, 1.0, 1.0))
    profile = replace(PROFILE, keep_out=(wall,))
    verdict, _ = judge(profile, action=(0.05, *STILL[1:]))
    assert verdict.check == "keep_out" and "wall" in verdict.reason
    within_wall = Pose(np.array([0.4605, 0.0, 0.25]))
    assert judge(profile, measured=within_wall)[0].check == "keep_out"
    assert judge(profile, measured=within_wall, action=(0.05, *STILL[1:]))[0].accepted


@pytest.mark.parametrize("limit", ["max_speed", "max_rotation_speed"])
def test_zero_is_a_limit(limit: str) -> None:
    profile = replace(PROFILE, **{limit: 0.0})
    assert judge(profile)[0].accepted
    assert judge(profile, action=(1e-6, 0.0, 0.0, 0.0, 0.0, 1e-5, 1.0))[0].check == "speed"


def test_idle_and_stopped_accept_nothing() -> None:
    assert judge(state=GateState())[0].check == "episode"
    stopped = gate.stop(armed(), "timeout", "too late", 4.0)
    verdict, after = judge(state=stopped)
    assert verdict.check == "stopped" and "too late" in verdict.reason
    assert after == stopped


def test_a_refused_step_keeps_its_place_and_an_unexpected_one_does_not() -> None:
    _, state = judge(action=(1.0, *STILL[1:]))
    assert state.next_step == 1 and judge(state=state, step=1)[0].accepted
    _, state = judge(step=3)
    assert state.next_step == 0


@pytest.mark.parametrize(
    ("last", "value", "goal"),
    [(None, 0.5, 1.0), (None, 0.49, 0.0), (1.0, 0.45, 1.0), (1.0, 0.39, 0.0), (0.0, 0.55, 0.0), (0.0, 0.61, 1.0)],
)
def test_gripper_has_hysteresis(last: float | None, value: float, goal: float) -> None:
    assert gate.gripper_goal(PROFILE, last, value) == goal


def running(lock_step: bool = False) -> tuple[GateState, float]:
    _, state = judge(state=armed(lock_step))
    return state, NOW * 1e-9


@pytest.mark.parametrize(
    ("silence", "heartbeat", "mode", "check"),
    [
        (0.29, 0.0, Mode.ACTIVE, ""),
        (0.31, 0.0, Mode.HOLD, "timeout"),
        (0.39, 0.0, Mode.HOLD, "timeout"),
        (0.41, 0.0, Mode.STOPPED, "timeout"),
        (0.0, 0.29, Mode.ACTIVE, ""),
        (0.0, 0.31, Mode.HOLD, "heartbeat"),
        (0.0, 0.41, Mode.STOPPED, "heartbeat"),
    ],
)
def test_timers(silence: float, heartbeat: float, mode: Mode, check: str) -> None:
    state, now = running()
    state = replace(state, last_step=now - silence, last_heartbeat=now - heartbeat)
    after = tick(state, now)
    assert (after.mode, after.check) == (mode, check)


def test_the_first_step_starts_the_timers() -> None:
    assert tick(armed(), NOW * 1e-9 + 100.0).mode is Mode.ACTIVE


def test_a_hold_ends_with_the_next_accepted_step() -> None:
    state, now = running()
    held = tick(gate.heartbeat(state, "e", now + 0.3), now + 0.31)
    assert held.mode is Mode.HOLD
    late = int((now + 0.32) * 1e9)
    verdict, state = judge(state=held, step=1, now=now + 0.32, now_stamp=late, stamp=late, measured_stamp=late)
    assert verdict.accepted and state.mode is Mode.ACTIVE and not state.check


def test_nonsense_does_not_feed_the_step_timer_and_a_refused_motion_does() -> None:
    state, now = running()
    _, fed = judge(state=state, step=1, now=now + 0.2, action=(1.0, *STILL[1:]))
    assert fed.last_step == now + 0.2
    _, starved = judge(state=state, step=1, now=now + 0.2, action=(math.nan, *STILL[1:]))
    assert starved.last_step == now


def test_a_stop_is_latched_until_a_person_resets() -> None:
    stopped = gate.stop(armed(), "timeout", "too late", 4.0)
    assert gate.arm(stopped, "next", False) == stopped
    assert gate.disarm(stopped, "e") == stopped
    assert gate.stop(stopped, "foreign", "later", 6.0) == stopped
    assert tick(stopped, 1e9) == stopped
    idle = gate.reset(stopped)
    assert idle.mode is Mode.IDLE and not idle.check
    assert gate.arm(idle, "next", False).mode is Mode.ACTIVE


def test_arming_forgets_the_last_episode() -> None:
    state, _ = running()
    fresh = gate.arm(state, "next", False)
    assert (fresh.reference, fresh.gripper, fresh.last_step, fresh.next_step) == (None, None, None, 0)
    assert gate.disarm(fresh, "e") == fresh
    assert gate.disarm(fresh, "next").mode is Mode.IDLE


def test_heartbeats_of_another_episode_do_not_count() -> None:
    state, now = running()
    assert gate.heartbeat(state, "other", now + 1.0) == state
    assert gate.heartbeat(state, "", now + 1.0).last_heartbeat == now + 1.0


@settings(deadline=None)
@given(st.integers(1, 10_000_000))
def test_a_silence_of_exactly_the_limit_is_within_it_at_any_time(period: int) -> None:
    """Two periods, the stop's own limit: what lock-step shows after one step of nonsense."""
    last, now = period * 0.2, (period + 2) * 0.2
    state = replace(armed(lock_step=True), last_step=last)
    assert tick(state, now).mode is Mode.HOLD
    assert tick(state, now + 2e-6).mode is Mode.STOPPED


def test_lock_step_times_steps_only() -> None:
    state, now = running(lock_step=True)
    state = replace(state, last_heartbeat=None)
    assert tick(state, now + 0.2).mode is Mode.ACTIVE
    assert judge(state=state, step=1, now=now + 0.2)[0].accepted
    assert tick(state, now + 0.41).mode is Mode.STOPPED


def test_a_pose_that_is_none_is_told_in_plain_numbers() -> None:
    """An array prints itself in 200 us, four times what a judgement may take."""
    verdict, _ = judge(measured=Pose(np.array([0.45, math.nan, 0.25]), HOME.quaternion))
    expected = "the measured TCP is no pose: position [0.45, nan, 0.25], quaternion [1.0, 0.0, 0.0, 0.0]"
    assert (verdict.check, verdict.reason) == ("state", expected)
