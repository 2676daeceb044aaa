"""A Franka's modes and errors in words."""

import pytest

from grape_robot.franka import RobotMode, controller_state, raised


def mode(number: int, *errors: str) -> RobotMode:
    return RobotMode(number, errors, 0, 0.0)


@pytest.mark.parametrize(
    ("number", "name", "stops"),
    [
        (0, "other", False),
        (1, "idle", False),
        (2, "move", False),
        (3, "guiding", False),
        (4, "reflex", True),
        (5, "user stop", True),
        (6, "automatic error recovery", False),
        (9, "unknown mode 9", False),
    ],
)
def test_modes_have_names_and_two_of_them_stop(number: int, name: str, stops: bool) -> None:
    assert (mode(number).line, mode(number).stops) == (name, stops)


def test_errors_are_named_in_their_order_and_an_arm_with_one_is_not_healthy() -> None:
    names = raised({"joint_reflex": True, "cartesian_reflex": False, "power_limit_violation": True})
    assert mode(4, *names).line == "reflex: joint_reflex, power_limit_violation"
    assert mode(1).healthy and mode(2).healthy
    assert not mode(2, *names).healthy and not mode(3).healthy and not mode(0).healthy


def test_a_controller_that_is_not_there_is_not_loaded() -> None:
    states = [("a", "inactive"), ("b", "active")]
    assert [controller_state(states, name) for name in "abc"] == ["inactive", "active", "not loaded"]
