"""The order of a recovery, whatever is answered and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_robot import recovery
from grape_robot.franka import MODES, RobotMode
from grape_robot.recovery import Recovery, RecoveryPlan, Stage

PLAN = RecoveryPlan(("arm", "hand"), ("joints", "state", "impedance"), 5.0)
INACTIVE = dict.fromkeys(PLAN.controllers, "inactive")
ORDER = [Stage.CLEAR, Stage.HARDWARE, Stage.HARDWARE, Stage.LOOK, Stage.SWITCH]


def mode(number: int, *errors: str, heard: float = 10.0) -> RobotMode:
    return RobotMode(number, errors, 0, heard)


def test_everything_in_order() -> None:
    now, current, seen = 10.0, recovery.begin(mode(4, "joint_reflex"), 10.0), []
    while not current.ended:
        seen.append(current.stage)
        now += 1.0
        current = recovery.succeed(PLAN, current, now, INACTIVE)
    assert seen == ORDER and current.stage is Stage.DONE
    assert current.line == (
        "recovered: error recovery; activating the hardware arm; activating the hardware hand; "
        "activating the controllers joints, state, impedance"
    )


def test_only_what_is_not_active_is_activated() -> None:
    looking = Recovery(Stage.LOOK, 0.0)
    after = recovery.succeed(PLAN, looking, 1.0, {**INACTIVE, "state": "active", "other": "inactive"})
    assert (after.stage, after.activate) == (Stage.SWITCH, ("joints", "impedance"))
    after = recovery.succeed(PLAN, looking, 1.0, dict.fromkeys(PLAN.controllers, "active"))
    assert after.stage is Stage.DONE and after.line.endswith("every controller is active")


@pytest.mark.parametrize("state", ["unconfigured", "finalized", None])
def test_a_controller_that_cannot_be_activated_is_named(state: str | None) -> None:
    states = {name: value for name, value in {**INACTIVE, "impedance": state}.items() if value}
    after = recovery.succeed(PLAN, Recovery(Stage.LOOK, 0.0), 1.0, states)
    assert after.stage is Stage.FAILED and f"impedance is {state or 'not loaded'}" in after.reason


def test_no_error_is_cleared_that_is_freshly_said_not_to_be_there() -> None:
    assert recovery.begin(mode(2), 10.5).stage is Stage.HARDWARE
    for unsure in (None, mode(2, heard=5.0), mode(2, "joint_reflex"), mode(4), mode(0)):
        assert recovery.begin(unsure, 10.5).stage is Stage.CLEAR


@pytest.mark.parametrize("number", MODES)
def test_an_arm_that_a_person_has_stopped_or_leads_is_refused_while_it_says_so(number: int) -> None:
    refused = recovery.refusal(mode(number), "STOPPED", "e", 10.0, 10.5)
    assert bool(refused) == (number in (3, 5, 6))
    if number == 5:
        assert refused == "the arm is in user stop: release it first"
    assert recovery.refusal(mode(number, heard=5.0), "STOPPED", "e", 10.0, 10.5) == ""


@pytest.mark.parametrize(("gate", "refused"), [("IDLE", False), ("ACTIVE", True), ("HOLD", True), ("STOPPED", False)])
def test_nobody_who_has_the_arm_is_recovered_from_under(gate: str, refused: bool) -> None:
    reason = recovery.refusal(mode(4), gate, "episode_7", 10.0, 10.5)
    assert bool(reason) == refused and ("episode_7" in reason) == refused
    assert recovery.refusal(mode(4), gate, "episode_7", 5.0, 10.5) == "", "a gate that was heard long ago"
    assert recovery.refusal(None, "", "", None, 10.5) == ""


@given(
    answers=st.lists(st.sampled_from(["yes", "no", "late"]), min_size=1, max_size=8),
    states=st.fixed_dictionaries(dict.fromkeys(PLAN.controllers, st.sampled_from(["active", "inactive", "gone"]))),
    start=st.sampled_from([None, mode(1), mode(4)]),
)
def test_nothing_is_asked_before_what_comes_before_it_has_succeeded(
    answers: list[str], states: dict[str, str], start: RobotMode | None
) -> None:
    """Against the order written out: what was asked is a beginning of it, with a failure only as its end."""
    order = ORDER if start is None or start.mode == 4 else ORDER[1:]
    current, now, seen = recovery.begin(start, 10.0), 10.0, []
    for answer in answers:
        seen.append(current.stage)
        assert seen == order[: len(seen)]
        if answer == "yes":
            current = recovery.succeed(PLAN, current, now, states)
        elif answer == "no":
            current = recovery.fail(PLAN, current, "refused")
        else:
            assert recovery.overdue(PLAN, current, current.since + PLAN.deadline, "x") is current
            now += PLAN.deadline + 0.1
            current = recovery.overdue(PLAN, current, now, "it has not answered")
        now += 1.0
        if current.ended:
            break
    if current.stage is Stage.DONE:
        assert seen == (order if "inactive" in states.values() else order[:-1])
        assert "gone" not in states.values() and set(answers[: len(seen)]) == {"yes"}
    if current.stage is Stage.FAILED:
        assert str(seen[-1]) in current.reason and recovery.overdue(PLAN, current, now + 99.0, "x") is current
