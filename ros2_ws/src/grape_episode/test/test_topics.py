from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_episode import topics

# what the arm's own state says of the episode is in ArmStatus; the overlay is for the operator's eyes
FOR_OTHERS = {topics.ROBOT_STATE, topics.RESET_OVERLAY}
NO_DATA = {topics.CLOCK, topics.RECORD, topics.REPLAY, topics.GRIPPER_ACTION, *FOR_OTHERS}
SERVICES = {
    topics.RESET_WORLD,
    topics.PREPARE_RECORDING,
    topics.RESET_GATE,
    topics.LOAD_ADAPTER,
    topics.ROLLBACK_ADAPTER,
    topics.END_EPISODE,
    topics.RECOVER_ROBOT,
    topics.CONFIRM_RESET,
    topics.ERROR_RECOVERY,
    topics.CONTROLLER_MANAGER,
    topics.LIST_ADAPTERS,
    topics.RUN_EPISODE,
    topics.ALIGN,
    topics.EVALUATE,
}


def test_every_topic_that_carries_data_is_recorded():
    named = {value for value in vars(topics).values() if isinstance(value, str) and value.startswith("/")}
    named -= {vars(topics)["__file__"], vars(topics).get("__cached__")}
    assert set(topics.DATA_TYPES) == named - NO_DATA - SERVICES


def test_commands_are_among_them():
    assert set(topics.COMMANDS) <= set(topics.DATA_TYPES)


@pytest.mark.parametrize(("knuckle", "width"), [(0.0, 0.085), (0.7929, 0.0), (-0.1, 0.085), (1.0, 0.0)])
def test_the_gripper_opens_to_its_stroke(knuckle, width):
    assert topics.gripper_width(knuckle) == pytest.approx(width, abs=1e-12)


@given(st.floats(0, topics.KNUCKLE_CLOSED), st.floats(0, topics.KNUCKLE_CLOSED))
def test_the_gripper_closes_with_the_angle(a, b):
    assert (topics.gripper_width(a) <= topics.gripper_width(b)) or a < b
