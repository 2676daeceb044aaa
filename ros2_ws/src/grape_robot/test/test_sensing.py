"""From messages, which need no ROS here, to what the gate knows."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace as Of

import pytest

from grape_episode import topics
from grape_robot.franka import RobotMode
from grape_robot.profile import load_profile
from grape_robot.sensing import MOST_BOXES, Arm, KeepOutError, Sensing, keep_out_boxes

PROFILE = load_profile(Path(__file__).parents[4] / "launch" / "params" / "gate_real.yaml")


def header(stamp: int = 1_500_000_000, frame: str = "fr3_link0") -> Of:
    return Of(stamp=Of(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=frame)


def point(x: float, y: float, z: float) -> Of:
    return Of(x=x, y=y, z=z)


POSE = Of(header=header(), pose=Of(position=point(0.4, 0.0, 0.3), orientation=Of(x=1.0, y=0.0, z=0.0, w=0.0)))
WRENCH = Of(header=header(), wrench=Of(force=point(1.0, 2.0, 3.0), torque=point(0.1, 0.2, 0.3)))


def sensing() -> Sensing:
    return Sensing(PROFILE, lambda: POSE, lambda: WRENCH)


def boxes(*corners, frame: str = "fr3_link0") -> Of:
    lows, highs = [point(*low) for low, _ in corners], [point(*high) for _, high in corners]
    return Of(header=header(frame=frame), names=[f"b{i}" for i in range(len(corners))], low=lows, high=highs)


def test_nothing_heard_is_unknown_and_what_is_heard_is_told() -> None:
    silent = Sensing(PROFILE, lambda: None, lambda: None).senses(9.0, 2_000_000_000, 50.0, Arm())
    assert (silent.measured, silent.joints, silent.wrench, silent.robot_mode, silent.controller_active) == (None,) * 5
    assert (silent.joy_heard, silent.keep_out) == (None, None)
    heard = sensing()
    heard.hear_joints(Of(header=header(7), name=["x", *topics.ARM_JOINTS], position=[9.0, *range(7)]))
    heard.hear_keep_out(boxes(((0, 0, 0), (1, 1, 1))))
    mode = RobotMode(2, (), 0, 49.9)
    senses = heard.senses(9.0, 2_000_000_000, 50.0, Arm(mode, True, 49.5))
    assert senses.measured is not None and senses.measured.position.tolist() == [0.4, 0.0, 0.3]
    assert (senses.measured_stamp, senses.measured_frame) == (1_500_000_000, "fr3_link0")
    assert senses.joints == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0) and senses.joints_stamp == 7
    assert senses.wrench == (1.0, 2.0, 3.0, 0.1, 0.2, 0.3)
    # what was heard on the steady clock, on the watchdogs'
    assert senses.robot_mode_heard == pytest.approx(8.9) and senses.controller_heard == pytest.approx(8.5)
    assert senses.keep_out is not None and senses.keep_out[0].name == "b0"


def test_joints_of_another_device_say_nothing_about_the_arm() -> None:
    heard = sensing()
    heard.hear_joints(Of(header=header(7), name=list(topics.ARM_JOINTS), position=[0.5] * 7))
    heard.hear_joints(Of(header=header(8), name=[topics.KNUCKLE_JOINT], position=[0.1]))
    heard.hear_joints(Of(header=header(9), name=list(topics.ARM_JOINTS), position=[0.1] * 3))
    senses = heard.senses(0.0, 0, 0.0, Arm())
    assert senses.joints == (0.5,) * 7 and senses.joints_stamp == 7


@pytest.mark.parametrize(
    ("buttons", "held"), [([0] * 9 + [1], True), ([1] * 9 + [0], False), ([1, 1], False), ([], False)]
)
def test_only_the_dead_mans_button_counts(buttons: list[int], held: bool) -> None:
    heard = sensing()
    heard.hear_joy(buttons, 4.0)
    senses = heard.senses(4.1, 0, 0.0, Arm())
    assert (senses.dead_man, senses.joy_heard) == (held, 4.0)


def test_in_lock_step_everything_that_is_watched_is_waited_for() -> None:
    heard = sensing()
    assert not heard.observed(1_500_000_000)
    heard.hear_joints(Of(header=header(), name=list(topics.ARM_JOINTS), position=[0.5] * 7))
    assert heard.observed(1_500_000_000) and not heard.observed(1_500_000_001)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (boxes(frame="world"), "frame 'world'"),
        (boxes(*[((0, 0, 0), (1, 1, 1))] * (MOST_BOXES + 1)), "at most"),
        (boxes(((0, 0, 0), (1, math.nan, 1))), "'b0'"),
        (boxes(((0, 2, 0), (1, 1, 1))), "'b0'"),
        (Of(header=header(), names=["a"], low=[], high=[]), "1 names, 0 low"),
    ],
)
def test_boxes_that_cannot_be_used_are_named_and_not_taken(message: Of, text: str) -> None:
    with pytest.raises(KeepOutError, match=rf"^{topics.KEEP_OUT}: .*{text}"):
        keep_out_boxes(message, "fr3_link0")
    heard = sensing()
    heard.hear_keep_out(boxes(((0, 0, 0), (1, 1, 1))))
    with pytest.raises(KeepOutError):
        heard.hear_keep_out(message)
    assert len(heard.senses(0.0, 0, 0.0, Arm()).keep_out or ()) == 1
