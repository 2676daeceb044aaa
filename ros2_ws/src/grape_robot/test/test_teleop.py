"""From Joy messages to what a person commands, on a clock of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_robot.joy_mapping import load_mapping
from grape_robot.teleop import Commands, Joy, TeleopState, advance, hear, may_evaluate

MAPPING = load_mapping(Path(__file__).parents[4] / "launch" / "params" / "teleop_gamepad.yaml")
PERIOD = 0.05
GRIPPER, HAND_BACK, END, EVALUATE = (
    MAPPING.presses[name].button for name in ("gripper", "hand_back", "end_episode", "evaluate")
)
REST = (0.0,) * 6
AHEAD = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def joy(axes: Iterable[float] = REST, *down: int) -> Joy:
    return Joy(tuple(axes), tuple(int(number in down) for number in range(15)))


@dataclass
class Device:
    """Messages every 20 ms, as a driver repeats them, and the node's timer every period."""

    opening: float | None = None
    now: float = 10.0
    state: TeleopState = field(default_factory=TeleopState)
    said: list[tuple[float, Commands]] = field(default_factory=list)

    def look(self) -> None:
        self.state, commands = advance(MAPPING, self.state, self.now, PERIOD, self.opening)
        if commands != Commands():
            self.said.append((round(self.now, 3), commands))

    def hold(self, message: Joy | None, seconds: float) -> list[tuple[float, Commands]]:
        """What is said while ``message`` is repeated; None: silence."""
        first, end = len(self.said), self.now + seconds
        while self.now < end - 1e-9:
            if message is not None:
                self.state = hear(MAPPING, self.state, message, self.now)
            self.look()
            self.now += 0.02
        return self.said[first:]


def motions(said: list[tuple[float, Commands]]) -> list[np.ndarray]:
    return [np.array(commands.motion) for _, commands in said if commands.motion is not None]


def test_a_stick_at_rest_says_nothing_and_a_moved_one_speaks_at_once() -> None:
    device = Device()
    assert device.hold(joy(), 1.0) == []
    began = device.now
    said = device.hold(joy(AHEAD), 1.0)
    assert said[0][0] == pytest.approx(began)
    assert 16 <= len(said) <= 21, "one a period"
    for motion in motions(said):
        assert motion[:6] == pytest.approx([0.1 * PERIOD, 0, 0, 0, 0, 0]) and motion[6] == 0.5
    assert device.hold(joy(), 1.0) == []


def test_silence_is_a_release_and_sticks_must_be_at_rest_before_they_count_again() -> None:
    device = Device()
    device.hold(joy(), 0.1)
    assert motions(device.hold(joy(AHEAD), 0.2))
    lost = device.hold(None, 2.0)
    assert all(at <= device.now - 2.0 + MAPPING.joy_timeout + 0.02 for at, _ in lost)
    assert device.hold(joy(AHEAD), 1.0) == [], "the driver came back with the stick moved"
    device.hold(joy(), 0.1)
    assert motions(device.hold(joy(AHEAD), 0.2))


def test_a_device_that_is_moved_when_it_is_first_heard_says_nothing() -> None:
    device = Device()
    assert device.hold(joy(AHEAD, GRIPPER, EVALUATE, END), 3.0) == []


def test_handing_back_ends_the_drive_until_the_stick_has_been_at_rest() -> None:
    device = Device()
    device.hold(joy(), 0.1)
    device.hold(joy(AHEAD), 0.5)
    said = device.hold(joy(AHEAD, HAND_BACK), 0.5)
    assert said[0][1] == Commands(hand_back=True) and len(said) == 1
    assert device.hold(joy(AHEAD), 0.5) == []
    device.hold(joy(), 0.1)
    assert motions(device.hold(joy(AHEAD), 0.1))


@pytest.mark.parametrize(("opening", "chosen"), [(None, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_gripper_button_turns_what_was_commanded_last(opening: float | None, chosen: float) -> None:
    device = Device(opening)
    device.hold(joy(), 0.1)
    (only,) = motions(device.hold(joy(REST, GRIPPER), 0.5))
    assert only.tolist() == [0.0] * 6 + [chosen]
    device.hold(joy(), 0.1)
    moved = motions(device.hold(joy(AHEAD), 0.2))
    assert all(motion[6] == chosen for motion in moved), "it stays while the person drives"
    device.hold(joy(REST), 0.1)
    (again,) = motions(device.hold(joy(REST, GRIPPER), 0.2))
    assert again[6] == 1.0 - chosen
    device.hold(joy(REST, HAND_BACK), 0.1)
    device.hold(joy(), 0.1)
    assert motions(device.hold(joy(AHEAD), 0.1))[0][6] == 0.5, "what was chosen is over"


def test_a_gripper_press_while_moving_waits_for_its_period_and_is_not_lost() -> None:
    device = Device(1.0)
    device.hold(joy(), 0.1)
    device.hold(joy(AHEAD), 0.5)
    after = motions(device.hold(joy(AHEAD, GRIPPER), 0.2))
    assert [motion[6] for motion in after] == [0.0] * len(after) and len(after) >= 3


def test_evaluate_and_end_are_said_once_a_hold() -> None:
    device = Device()
    device.hold(joy(), 0.1)
    said = device.hold(joy(REST, EVALUATE), 5.0)
    assert [commands for _, commands in said] == [Commands(evaluate=True)]
    device.hold(joy(), 0.1)
    assert [c for _, c in device.hold(joy(REST, END), 3.0)] == [Commands(end_episode=True)]


def test_a_message_of_another_device_is_none() -> None:
    state = hear(MAPPING, TeleopState(), Joy((1.0,), (1,)), 1.0)
    assert "1 axes" in state.problem and state.joy is None
    good = hear(MAPPING, state, joy(), 2.0)
    assert good.problem == "" and good.joy is not None
    # it does not keep alive what was heard before
    later = hear(MAPPING, good, Joy((float("nan"),) * 6, (0,) * 15), 2.0 + MAPPING.joy_timeout)
    assert advance(MAPPING, later, 2.1 + MAPPING.joy_timeout, PERIOD)[0].joy is None


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-1, 1), min_size=6, max_size=6),
            st.sets(st.integers(0, 14), max_size=3),
            st.floats(0.001, 0.5),
        ),
        max_size=60,
    )
)
def test_no_stream_drives_faster_than_the_mapping_allows(stream: list[tuple[list[float], set[int], float]]) -> None:
    now, state, sent = 5.0, TeleopState(), []
    for axes, down, gap in stream:
        state = hear(MAPPING, state, joy(axes, *down), now)
        for _ in range(3):
            state, said = advance(MAPPING, state, now, PERIOD)
            if said.motion is not None:
                sent.append((now, np.array(said.motion)))
            now += gap / 3
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(sent)]
    assert all(gap >= PERIOD - 2e-3 for gap in gaps)
    for _, motion in sent:
        assert np.linalg.norm(motion[:3]) <= MAPPING.max_speed * PERIOD + 1e-12
        assert np.linalg.norm(motion[3:6]) <= MAPPING.max_rotation_speed * PERIOD + 1e-12
        assert motion[6] in (0.0, 0.5, 1.0)


def test_when_an_evaluation_may_begin() -> None:
    assert may_evaluate(False, "", 0.1, running=False, moving=False) == ""
    assert "running" in may_evaluate(False, "", 0.1, running=True, moving=False)
    assert "gate" in may_evaluate(False, "", None, running=False, moving=False)
    assert "gate" in may_evaluate(False, "", 2.0, running=False, moving=False)
    assert "drives" in may_evaluate(True, "", 0.1, running=False, moving=False)
    assert "drives" in may_evaluate(False, "", 0.1, running=False, moving=True)
    assert "carrot-1" in may_evaluate(False, "carrot-1", 0.1, running=False, moving=False)
