"""What the gate senses of an arm and of people, under profile ``real``: one table of what refuses, holds and stops."""

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
from grape_robot.gate import (
    ArmModel,
    Authority,
    Box,
    GateProfile,
    GateState,
    LinkSphere,
    Mode,
    Senses,
    StepRequest,
    Verdict,
)

PROFILE = gate.load_profile(Path(__file__).parents[4] / "launch" / "params" / "gate_real.yaml")
ARM = ArmModel.of(PROFILE)
assert ARM is not None
NOW, AT = 5_000_000_000, 5.0
REST = (0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4)
HOME = ARM.forward(REST)
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
HAND = Box("hand", (0.4, -0.05, 0.2), (0.5, 0.05, 0.3))
SENSED = {field.name for field in fields(Senses)}


def senses(now: float = AT, **changes) -> Senses:
    stamp = round(now * 1e9)
    base = Senses(
        now=now,
        now_stamp=stamp,
        measured=HOME,
        measured_stamp=stamp,
        measured_frame="fr3_link0",
        joints=REST,
        joints_stamp=stamp,
        wrench=(1.0, -2.0, 3.0, 0.1, 0.2, 0.3),
        wrench_stamp=stamp,
        robot_mode=gate.MOVE,
        robot_mode_heard=now,
        controller_active=True,
        controller_heard=now,
        dead_man=True,
        joy_heard=now,
    )
    return replace(base, **changes)


def at(joints) -> dict:
    return {"joints": tuple(joints), "measured": ARM.forward(joints)}


def shifted(place, x: float, y: float, z: float) -> tuple[float, float, float]:
    return float(place[0]) + x, float(place[1]) + y, float(place[2]) + z


def armed() -> GateState:
    return gate.heartbeat(gate.arm(GateState(), "e", False), "e", AT)


def judge(profile: GateProfile = PROFILE, state: GateState | None = None, **changes) -> tuple[Verdict, GateState]:
    sensed = {name: value for name, value in changes.items() if name in SENSED}
    asked = {name: value for name, value in changes.items() if name not in SENSED}
    base = StepRequest("e", 0, NOW, "fr3_link0", STILL, "axis_angle")
    return gate.judge(profile, ARM, state or armed(), replace(base, **asked), senses(**sensed))


def running(**changes) -> GateState:
    verdict, state = judge(**changes)
    assert verdict.accepted, verdict
    return state


def tick(state: GateState, now: float = AT, profile: GateProfile = PROFILE, **changes) -> GateState:
    return gate.tick(profile, ARM, state, senses(now, **changes))


def nan(count: int) -> tuple[float, ...]:
    return (math.nan,) + (0.0,) * (count - 1)


# check, whether it stops, whether it feeds the step timer, what is sensed
SENSED_FAULTS = [
    ("robot_mode", True, {"robot_mode": 4}),
    ("robot_mode", True, {"robot_mode": 5}),
    ("robot_mode", False, {"robot_mode": 3}),
    ("robot_mode", False, {"robot_mode": 0}),
    ("robot_mode", False, {"robot_mode": 99}),
    ("controller", True, {"controller_active": False}),
    ("wrench", True, {"wrench": (0.0, 0.0, -30.1, 0.0, 0.0, 0.0)}),
    ("wrench", True, {"wrench": (0.0, 0.0, 0.0, 8.0, 6.1, 0.0)}),
    ("wrench", True, {"wrench": nan(6)}),
    ("dead_man", False, {"dead_man": False}),
    ("dead_man", False, {"joy_heard": None}),
    ("dead_man", False, {"joy_heard": AT - 0.11}),
    ("state", False, {"joints": None}),
    ("state", False, {"joints": nan(7)}),
    ("state", False, {"joints": REST[:6]}),
    ("state", False, {"joints_stamp": NOW - 151_000_000}),
    ("state", False, {"measured_stamp": NOW - 151_000_000}),
    ("state", False, {"wrench": None}),
    ("state", False, {"wrench_stamp": NOW - 151_000_000}),
    ("state", False, {"robot_mode_heard": None}),
    ("state", False, {"robot_mode_heard": AT - 0.151}),
    ("state", False, {"joints_stamp": NOW + 51_000_000}),
    ("controller", False, {"controller_heard": None}),
    ("controller", False, {"controller_heard": AT - 1.01}),
]


@pytest.mark.parametrize(("check", "stops", "sensed"), SENSED_FAULTS)
def test_what_is_sensed_refuses_a_step_and_holds_or_stops_a_running_one(check: str, stops: bool, sensed: dict) -> None:
    verdict, state = judge(**sensed)
    assert (verdict.accepted, verdict.check) == (False, check) and verdict.reason
    assert (state.mode is Mode.STOPPED) == stops and state.next_step == 1
    assert (state.last_step is not None) == (check == "dead_man")
    after = tick(running(), **sensed)
    never = None in sensed.values()
    assert after.mode is (Mode.STOPPED if stops or (never and check != "dead_man") else Mode.HOLD)
    assert (after.check, bool(after.reason)) == (check, True)
    # of a gate that moves nothing, nothing is asked
    assert tick(armed(), **sensed) == armed()


def test_what_is_just_within_passes() -> None:
    for sensed in (
        {"wrench": (0.0, 0.0, 30.0, 0.0, 0.0, 10.0)},
        {"joints_stamp": NOW - 150_000_000, "measured_stamp": NOW - 150_000_000, "wrench_stamp": NOW - 150_000_000},
        {"joy_heard": AT - 0.0999, "controller_heard": AT - 0.999, "robot_mode": 1},
    ):
        assert judge(**sensed)[0].accepted, sensed


@pytest.mark.parametrize("stream", ["measured_stamp", "joints_stamp", "wrench_stamp", "robot_mode_heard"])
def test_silence_holds_then_stops(stream: str) -> None:
    def silent(seconds: float) -> GateState:
        value = AT - seconds if stream == "robot_mode_heard" else NOW - round(seconds * 1e9)
        return tick(running(), **{stream: value})

    assert silent(0.149).mode is Mode.ACTIVE
    assert (silent(0.16).mode, silent(0.16).check) == (Mode.HOLD, "state")
    assert silent(0.349).mode is Mode.HOLD
    assert (silent(0.36).mode, silent(0.36).check) == (Mode.STOPPED, "state")


def test_what_a_profile_does_not_watch_it_does_not_ask_for() -> None:
    profile = replace(
        PROFILE,
        watch_joints=False,
        keep_out_links=False,
        watch_wrench=False,
        watch_robot_mode=False,
        controller="",
        dead_man=replace(PROFILE.dead_man, required=False),
    )
    nothing = {"joints": None, "wrench": None, "robot_mode": None, "robot_mode_heard": None}
    nothing |= {"controller_active": None, "controller_heard": None, "dead_man": False, "joy_heard": None}
    verdict, state = judge(profile, **nothing)
    assert verdict.accepted
    assert tick(state, profile=profile, **nothing).mode is Mode.ACTIVE


def test_zero_is_a_limit() -> None:
    assert judge(replace(PROFILE, max_force=0.0))[0].check == "wrench"
    assert judge(replace(PROFILE, max_torque=0.0))[0].check == "wrench"
    assert judge(replace(PROFILE, state_timeout=0.0), joints_stamp=NOW - 1)[0].check == "state"
    assert judge(replace(PROFILE, max_joint_step=0.0), action=(0.001, *STILL[1:]))[0].check == "joints"
    assert (
        judge(replace(PROFILE, dead_man=replace(PROFILE.dead_man, timeout=0.0)), joy_heard=AT - 1e-6)[0].check
        == "dead_man"
    )


def test_a_clock_that_goes_back_stops() -> None:
    state = running()
    after = tick(state, AT - 0.01)
    assert (after.mode, after.check) == (Mode.STOPPED, "clock")


def test_the_dead_mans_switch_is_no_latched_stop() -> None:
    state, now = running(), AT
    for step in range(1, 20):
        now += 0.2
        released = {"dead_man": False, "now": now}
        state = gate.heartbeat(state, "e", now)
        stamps = dict.fromkeys(("stamp", "now_stamp"), round(now * 1e9))
        verdict, state = gate.judge(
            PROFILE,
            ARM,
            state,
            StepRequest("e", step, stamps["stamp"], "fr3_link0", STILL, "axis_angle"),
            senses(**released),
        )
        assert verdict.check == "dead_man"
        state = tick(state, now + 0.19, **{"dead_man": False})
        assert state.mode is Mode.HOLD
    now += 0.2
    state = gate.heartbeat(state, "e", now)
    request = StepRequest("e", 20, round(now * 1e9), "fr3_link0", STILL, "axis_angle")
    verdict, state = gate.judge(PROFILE, ARM, state, request, senses(now))
    assert verdict.accepted and state.mode is Mode.ACTIVE


# --- joints and links ---


def test_a_joint_keeps_its_margin_and_may_come_back() -> None:
    near = list(REST)
    near[3] = PROFILE.joint_limits.low[3] + 0.105  # the elbow, almost folded
    wide = replace(PROFILE, box=Box("box", (0.0, -1.0, -1.0), (2.0, 1.0, 2.0)), keep_out_links=False)
    inwards, outwards = (-0.04, 0.0, 0.03, 0.0, 0.0, 0.0, 1.0), (0.04, 0.0, -0.03, 0.0, 0.0, 0.0, 1.0)
    verdict, _ = judge(wide, action=inwards, **at(near))
    assert verdict.check == "joints" and "joint 4" in verdict.reason
    assert judge(wide, action=outwards, **at(near))[0].accepted
    near[3] = PROFILE.joint_limits.low[3] + 0.05  # beyond the margin already
    assert judge(wide, action=inwards, **at(near))[0].check == "joints"
    assert judge(wide, action=outwards, **at(near))[0].accepted


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7),
    st.tuples(*[st.floats(-0.028, 0.028)] * 3, *[st.floats(-0.05, 0.05)] * 3, st.just(1.0)),
)
def test_no_accepted_target_asks_for_joints_beyond_the_margin(place, action) -> None:
    low, high = np.array(PROFILE.joint_limits.low), np.array(PROFILE.joint_limits.high)
    joints = low + np.array(place) * (high - low)
    wide = replace(PROFILE, box=Box("box", (-2.0, -2.0, -2.0), (2.0, 2.0, 2.0)), keep_out_links=False)
    verdict, _ = judge(wide, action=action, **at(joints))
    if not verdict.accepted:
        return
    here = ARM.forward(joints)
    way = np.r_[verdict.target.position - here.position, (verdict.target.rotation * here.rotation.inv()).as_rotvec()]
    # the same damped step, by the normal equations of the other side
    jacobian = ARM.jacobian(joints)
    step = np.linalg.solve(jacobian.T @ jacobian + 1e-4 * np.eye(7), jacobian.T @ way)
    there = joints + step
    assert np.abs(step).max() <= PROFILE.max_joint_step + 1e-9
    inside = (there >= low + 0.1 - 1e-9) & (there <= high - 0.1 + 1e-9)
    back = ((there < low + 0.1) & (step > 0.0)) | ((there > high - 0.1) & (step < 0.0))
    assert np.all(inside | back)


def test_links_stay_out_of_keep_outs_where_the_tcp_does() -> None:
    # the elbow alone, so that the numbers here do not follow the shipped spheres
    elbow_alone = ArmModel([LinkSphere("fr3_link4", (0.0, 0.0, 0.0), 0.09)])
    (elbow,) = elbow_alone.centres(REST)
    post = Box("post", shifted(elbow, -0.02, 0.12, -0.3), shifted(elbow, 0.02, 0.2, 0.3))
    # the elbow's sphere reaches to 3 cm from the post
    near, nearer = (replace(PROFILE, keep_out=(post,), keep_out_margin=margin) for margin in (0.028, 0.032))

    def ask(profile: GateProfile, action=STILL) -> tuple[Verdict, GateState]:
        request = StepRequest("e", 0, NOW, "fr3_link0", action, "axis_angle")
        return gate.judge(profile, elbow_alone, armed(), request, senses())

    left, right = (0.0, 0.045, *STILL[2:]), (0.0, -0.045, *STILL[2:])
    assert ask(near)[0].accepted and ask(near, action=right)[0].accepted
    # the base turns towards the post: the TCP goes left, and the elbow with it
    verdict, _ = ask(near, action=left)
    assert verdict.check == "links" and "fr3_link4" in verdict.reason and "post" in verdict.reason
    assert ask(replace(near, keep_out_links=False), action=left)[0].accepted
    # an elbow that is there already may go away, and nothing else
    assert ask(nearer)[0].check == "links" and ask(nearer, action=left)[0].check == "links"
    assert ask(nearer, action=right)[0].accepted


def test_a_tilted_hand_does_not_put_a_finger_through_the_floor() -> None:
    low = replace(PROFILE, box=Box("box", (0.3, -0.25, HOME.position[2] - 0.001), (0.65, 0.25, 0.6)))
    assert judge(low)[0].accepted
    verdict, _ = judge(low, action=(0.0, 0.0, 0.0, 0.09, 0.0, 0.0, 1.0))
    assert verdict.check == "links" and "floor" in verdict.reason


def test_a_profile_that_needs_a_model_accepts_nothing_without_one() -> None:
    verdict, _ = gate.judge(
        PROFILE, None, armed(), StepRequest("e", 0, NOW, "fr3_link0", STILL, "axis_angle"), senses()
    )
    assert verdict.check == "joints"


# --- keep-outs that move ---

HANDS = replace(PROFILE, moving_keep_out=True, keep_out_links=False, keep_out_margin=0.0)


def test_moving_keep_outs_must_be_heard_and_are_kept_out_of() -> None:
    assert judge(HANDS)[0].check == "keep_out"
    assert judge(HANDS, keep_out=(), keep_out_stamp=NOW)[0].accepted
    assert judge(HANDS, keep_out=(), keep_out_stamp=NOW - 301_000_000)[0].check == "keep_out"
    beside = Box("hand", shifted(HOME.position, 0.02, -0.1, -0.1), shifted(HOME.position, 0.1, 0.1, 0.1))
    verdict, _ = judge(HANDS, action=(0.03, *STILL[1:]), keep_out=(beside,), keep_out_stamp=NOW)
    assert verdict.check == "keep_out" and "hand" in verdict.reason


def test_a_hand_that_comes_onto_the_way_holds_and_its_silence_does_not_stop() -> None:
    state = running(profile=HANDS, action=(0.03, *STILL[1:]), keep_out=(), keep_out_stamp=NOW)
    ahead = Box("hand", shifted(HOME.position, 0.02, -0.1, -0.1), shifted(HOME.position, 0.1, 0.1, 0.1))
    held = tick(state, AT + 0.05, HANDS, keep_out=(ahead,), keep_out_stamp=NOW)
    assert (held.mode, held.check) == (Mode.HOLD, "keep_out") and "hand" in held.reason
    away = Box("hand", (0.3, 0.2, 0.3), (0.31, 0.21, 0.31))
    assert tick(state, AT + 0.05, HANDS, keep_out=(away,), keep_out_stamp=NOW).mode is Mode.ACTIVE
    silent = tick(state, AT + 0.05, HANDS, keep_out=(), keep_out_stamp=NOW - 10_000_000_000)
    assert (silent.mode, silent.check) == (Mode.HOLD, "keep_out")
    gone = tick(state, AT + 0.05, HANDS, keep_out=(), keep_out_stamp=0, joints_stamp=0)
    assert (gone.mode, gone.check) == (Mode.STOPPED, "state")


# --- steps that are shortened ---

SHORTENING = replace(PROFILE, shorten_steps=True)
component = st.floats(-0.4, 0.4)


@settings(deadline=None, max_examples=60)
@given(st.tuples(component, component, component, component, component, component))
def test_a_step_is_shortened_along_its_own_direction(motion) -> None:
    profile = replace(SHORTENING, box=Box("all", (-9.0,) * 3, (9.0,) * 3), watch_joints=False, keep_out_links=False)
    verdict, state = judge(profile, action=(*motion, 1.0))
    assert verdict.accepted and state.reference is verdict.target
    whole = gate.judge(
        replace(profile, max_speed=1e9, max_rotation_speed=1e9),
        ARM,
        armed(),
        StepRequest("e", 0, NOW, "fr3_link0", (*motion, 1.0), "axis_angle"),
        senses(),
    )[0].target
    way, asked = verdict.target.position - HOME.position, whole.position - HOME.position
    assert np.allclose(way, verdict.factor * asked, atol=1e-12)
    assert math.isclose(HOME.angle(verdict.target), verdict.factor * HOME.angle(whole), abs_tol=1e-6)
    assert np.linalg.norm(way) <= 0.05 + 1e-8 and HOME.angle(verdict.target) <= 0.1 + 1e-6
    short = np.linalg.norm(asked) > 0.05 + 1e-8 or HOME.angle(whole) > 0.1 + 1e-8
    assert (verdict.check == "length") == short == (verdict.factor < 1.0)
    if short:
        assert f"{verdict.factor:.4f}" in verdict.reason
        assert math.isclose(max(np.linalg.norm(way) / 0.05, HOME.angle(verdict.target) / 0.1), 1.0, abs_tol=1e-5)


def test_a_shortened_step_meets_the_other_checks_and_zero_stands_still() -> None:
    at_the_edge = Pose(np.array([0.64, 0.0, 0.3]), HOME.quaternion)
    assert judge(SHORTENING, measured=at_the_edge, action=(0.3, *STILL[1:]))[0].check == "box"
    verdict, _ = judge(replace(SHORTENING, max_speed=0.0), action=(0.3, *STILL[1:]))
    assert verdict.accepted and verdict.factor == 0.0 and verdict.target.distance(HOME) == 0.0


# --- operators ---


def teleop(state: GateState, sequence: int = 0, now: float = AT, action=STILL, source: str = "teleop", **changes):
    sensed = {name: value for name, value in changes.items() if name in SENSED}
    asked = {name: value for name, value in changes.items() if name not in SENSED}
    request = StepRequest("", sequence, round(now * 1e9), "fr3_link0", action, "axis_angle", source)
    return gate.judge(PROFILE, ARM, state, replace(request, **asked), senses(now, **sensed))


def give_back(state: GateState, sequence: int, now: float = AT, source: str = "teleop"):
    request = StepRequest("", sequence, round(now * 1e9), "fr3_link0", (), "", source)
    return gate.hand_back(PROFILE, state, request, senses(now))


def test_the_first_proper_step_of_an_operator_takes_over_whether_it_may_move_or_not() -> None:
    for action, check in ((STILL, ""), ((1.0, *STILL[1:]), "speed")):
        state = running(action=(0.02, *STILL[1:]))
        verdict, state = teleop(state, action=action)
        assert (verdict.check, state.authority, state.operator) == (check, Authority.OPERATOR, "teleop")
        # the target is the measured TCP's from here on, no longer the policy's
        assert state.reference is verdict.target
        refused, state = judge(state=state, step=1)
        assert refused.check == "operator" and "teleop" in refused.reason and state.next_step == 2
    released, state = teleop(running(), dead_man=False)
    assert released.check == "dead_man" and state.authority is Authority.OPERATOR


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("frame", {"frame": "world"}),
        ("finite", {"action": (math.nan, *STILL[1:])}),
        ("age", {"stamp": NOW - 251_000_000}),
        ("episode", {"episode_id": "other"}),
        ("operator", {"source": "somebody"}),
    ],
)
def test_what_is_no_proper_step_takes_nothing_over(check: str, changes: dict) -> None:
    verdict, state = teleop(running(), **changes)
    assert (verdict.check, state.authority) == (check, Authority.POLICY)


def test_operators_are_judged_like_all_others() -> None:
    assert teleop(armed(), action=(0.0251, *STILL[1:]))[0].check == "speed"  # of its own, shorter period
    assert teleop(armed(), action=(0.0249, *STILL[1:]))[0].accepted
    assert teleop(armed(), wrench=(99.0, 0.0, 0.0, 0.0, 0.0, 0.0))[0].check == "wrench"
    assert teleop(armed(), robot_mode=5)[1].mode is Mode.STOPPED
    low = Pose(np.array([0.45, 0.0, 0.03]), HOME.quaternion)
    assert teleop(armed(), action=(0.0, 0.0, -0.02, 0.0, 0.0, 0.0, 1.0), measured=low)[0].check == "box"


def test_homing_and_free_teleop_need_no_episode() -> None:
    verdict, state = teleop(GateState(), source="homing")
    assert verdict.accepted and (state.mode, state.authority) == (Mode.IDLE, Authority.OPERATOR)
    assert judge(state=state)[0].check == "episode"
    # announced while it drives: it goes on driving
    state = gate.arm(state, "e", False)
    assert (state.mode, state.authority) == (Mode.ACTIVE, Authority.OPERATOR)
    assert teleop(state, 1, source="homing", episode_id="e")[0].accepted
    assert judge(state=gate.heartbeat(state, "e", AT))[0].check == "operator"


def test_a_person_outranks_the_homing() -> None:
    _, state = teleop(GateState(), source="homing")
    assert teleop(state, source="teleop")[1].operator == "teleop"
    _, state = teleop(state, source="teleop")
    assert teleop(state, 1, source="homing")[0].check == "operator"
    assert give_back(state, 2, source="homing")[0].check == "operator"
    verdict, state = give_back(state, 1)
    assert verdict.accepted and state.authority is Authority.POLICY
    assert give_back(state, 2)[0].check == "authority"


def test_replayed_steps_of_an_operator_are_out_of_order() -> None:
    _, state = teleop(GateState(), 7)
    assert teleop(state, 7)[0].check == "order"
    assert teleop(state, 3)[0].check == "order"
    assert teleop(state, 8)[0].accepted
    # a teleop that was started again counts from 0
    assert teleop(state, 0, AT + 0.4)[0].accepted


def test_an_operator_who_pauses_is_held_and_goes_on() -> None:
    _, state = teleop(running())
    assert tick(state, AT + 0.3).mode is Mode.ACTIVE
    held = tick(state, AT + 0.31)
    assert (held.mode, held.check) == (Mode.HOLD, "operator")
    assert tick(held, AT + 100.0).mode is Mode.HOLD
    verdict, state = teleop(held, 1, AT + 100.0)
    assert verdict.accepted and state.mode is Mode.ACTIVE


def test_the_policys_timers_rest_while_an_operator_drives_and_begin_anew() -> None:
    _, state = teleop(running())
    for count in range(1, 60):
        now = AT + count * 0.1
        state = tick(state, now)
        assert state.mode is Mode.ACTIVE
        _, state = teleop(state, count, now)
    now += 0.1
    verdict, state = give_back(state, 99, now)
    assert verdict.accepted and (state.mode, state.authority) == (Mode.ACTIVE, Authority.POLICY)
    assert state.reference is None
    assert tick(state, now + 5.0).mode is Mode.ACTIVE
    state = gate.heartbeat(state, "e", now + 5.0)
    request = StepRequest("e", 1, round((now + 5.0) * 1e9), "fr3_link0", STILL, "axis_angle")
    verdict, state = gate.judge(PROFILE, ARM, state, request, senses(now + 5.0))
    assert verdict.accepted
    assert tick(gate.heartbeat(state, "e", now + 5.5), now + 5.5).mode is Mode.STOPPED


def test_in_lock_step_operators_are_refused() -> None:
    verdict, state = teleop(gate.arm(GateState(), "e", True))
    assert (verdict.check, state.authority) == ("operator", Authority.POLICY)


def test_an_operator_between_open_and_closed_leaves_the_gripper() -> None:
    verdict, state = teleop(GateState(), action=(*STILL[:6], 0.5))
    assert verdict.accepted and verdict.gripper is None and state.gripper is None
    assert teleop(GateState(), action=(*STILL[:6], 0.1))[0].gripper == 0.0


# --- after a stop ---


def test_a_reset_waits_for_the_cool_down_and_for_the_cause_to_go() -> None:
    stopped = gate.stop(running(), "robot_mode", "user stop", AT)
    assert "cool-down" in gate.reset_refusal(PROFILE, stopped, senses(AT + 1.9))
    assert "user stop" in gate.reset_refusal(PROFILE, stopped, senses(AT + 2.1, robot_mode=5))
    assert "not active" in gate.reset_refusal(PROFILE, stopped, senses(AT + 2.1, controller_active=False))
    assert "N" in gate.reset_refusal(PROFILE, stopped, senses(AT + 2.1, wrench=(99.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    assert gate.reset_refusal(PROFILE, stopped, senses(AT + 2.1)) == ""
    assert gate.reset_refusal(PROFILE, running(), senses()) == ""
    driven = gate.stop(teleop(running())[1], "wrench", "too much", AT)
    assert gate.reset(driven).authority is Authority.POLICY


def test_a_joint_that_nears_its_limit_on_the_way_stops_and_may_leave_again() -> None:
    low = PROFILE.joint_limits.low[5]
    margin = PROFILE.joint_limit_margin

    def at(gap: float) -> tuple[float, ...]:
        return (*REST[:5], low + gap, REST[6])

    def after(then: float, now: float) -> GateState:
        state = replace(armed(), last_step=AT, last_heartbeat=AT, joints=at(then))
        return tick(state, AT + 0.02, joints=at(now))

    stopped = after(margin + 0.05, margin - 0.01)
    assert (stopped.mode, stopped.check) == (Mode.STOPPED, "joints") and "joint 6 is 0.090 rad" in stopped.reason
    # outside of the margin, on the way out of it, or trembling within it
    assert after(margin + 0.05, margin + 0.001).mode is Mode.ACTIVE
    assert after(margin - 0.05, margin - 0.02).mode is Mode.ACTIVE
    assert after(margin - 0.01, margin - 0.013).mode is Mode.ACTIVE
    unwatched = replace(PROFILE, watch_joints=False)
    state = replace(armed(), last_step=AT, last_heartbeat=AT, joints=at(0.2))
    assert tick(state, AT + 0.02, unwatched, joints=at(0.01)).mode is Mode.ACTIVE
