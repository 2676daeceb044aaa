"""The simulated arm's modes, hardware and controllers, against franka_ros2's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_sim.franka import CONTROLLER, CONTROLLERS, HARDWARE, LAST_WORDS, ON_ARM, STATE_BROADCASTER, FrankaArm


def recovered(arm: FrankaArm) -> FrankaArm:
    """All of franka_ros2's three steps; each must succeed."""
    arm, reason = arm.cleared()
    assert not reason
    arm, reason = arm.set_hardware(HARDWARE, "active")
    assert not reason and not arm.follows, "hardware alone moves nothing"
    arm, reason = arm.switch(ON_ARM, [], strict=True)
    assert not reason
    return arm


@pytest.mark.parametrize("kind", ["user stop", "reflex"])
def test_a_stopped_arm_fails_falls_silent_and_comes_back_in_order(kind: str) -> None:
    whole = FrankaArm()
    assert (whole.mode, whole.follows, whole.line, whole.errors) == (2, True, "", ())
    arm = whole.stopped(True, 10.0) if kind == "user stop" else whole.tripped(10.0)
    assert arm.mode == (5 if kind == "user stop" else 4) and not arm.follows and kind in arm.line
    assert arm.hardware == "unconfigured" and arm.active == {"robotiq_gripper_controller"}
    assert arm.tells(10.0 + LAST_WORDS) and not arm.tells(10.01 + LAST_WORDS)
    assert arm.switch(ON_ARM, [], strict=True)[1], "controllers before hardware"
    if kind == "user stop":
        assert arm.cleared() == (arm, "the user stop is pressed")
        arm = arm.stopped(False, 11.0)
        assert not arm.follows, "a release alone moves nothing"
    else:
        assert arm.set_hardware(HARDWARE, "active")[1], "hardware before the error is cleared"
    back = recovered(arm)
    assert back.follows and back.mode == 2 and back.tells(99.0) and back.active == set(CONTROLLERS)


def test_a_user_stop_while_nothing_commands_is_told_on_and_on() -> None:
    idle, reason = FrankaArm().switch([], [CONTROLLER], strict=True)
    assert not reason and idle.mode == 1
    arm = idle.stopped(True, 10.0)
    assert arm.mode == 5 and arm.hardware == "active" and arm.tells(99.0)
    assert "user stop" in arm.switch([CONTROLLER], [], strict=True)[1]
    assert arm.stopped(False, 11.0) == idle


def test_switching_strictly_is_all_or_nothing_and_else_what_can_be() -> None:
    arm = FrankaArm()
    same, reason = arm.switch(["nobody"], [CONTROLLER], strict=True)
    assert same == arm and "'nobody'" in reason
    loose, reason = arm.switch(["nobody"], [CONTROLLER], strict=False)
    assert not loose.follows and not reason
    assert loose.switch(["nobody"], [], strict=False)[1]
    assert "already" in arm.switch([CONTROLLER], [], strict=True)[1]


def test_only_known_hardware_and_states_are_set_and_its_controllers_end_with_it() -> None:
    arm = FrankaArm()
    assert "'other'" in arm.set_hardware("other", "active")[1] and "'sleepy'" in arm.set_hardware(HARDWARE, "sleepy")[1]
    off, reason = arm.set_hardware(HARDWARE, "inactive")
    assert not reason and not off.follows and not off.tells(10.0)


OPERATIONS = st.sampled_from(["press", "release", "trip", "clear", "hardware", "activate", "deactivate"])


@given(st.lists(OPERATIONS, max_size=12))
def test_an_arm_follows_only_without_stop_and_reflex_and_on_active_hardware(operations: list[str]) -> None:
    arm = FrankaArm()
    for now, operation in enumerate(operations):
        arm = {
            "press": lambda a, t: a.stopped(True, t),
            "release": lambda a, t: a.stopped(False, t),
            "trip": lambda a, t: a.tripped(t),
            "clear": lambda a, t: a.cleared()[0],
            "hardware": lambda a, t: a.set_hardware(HARDWARE, "active")[0],
            "activate": lambda a, t: a.switch(ON_ARM, [], strict=False)[0],
            "deactivate": lambda a, t: a.switch([], [CONTROLLER], strict=False)[0],
        }[operation](arm, float(now))
        if arm.follows:
            assert not arm.user_stop and not arm.reflex and arm.hardware == "active"
        assert arm.follows == (arm.line == "") == (arm.mode == 2)
        assert (STATE_BROADCASTER in arm.active) <= (arm.hardware == "active")
