"""What sticks and buttons mean: the shipped files, what is refused and named, and the speeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grape_robot.joy_mapping import FUNCTIONS, MOTIONS, MappingError, deflection, load_mapping, parse_mapping

PARAMS = Path(__file__).parents[4] / "launch" / "params"
FILES = ("teleop_gamepad.yaml", "teleop_spacemouse.yaml")
GAMEPAD = PARAMS / FILES[0]
sticks = st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6)


def told(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(GAMEPAD.read_text()), **changes}


@pytest.mark.parametrize("file", FILES)
def test_the_shipped_mappings_are_whole(file: str) -> None:
    mapping = load_mapping(PARAMS / file)
    assert mapping.problem([0.0] * 6, [0] * 15) == ""
    assert {"x", "y", "z"} <= set(mapping.axes) and {"gripper", "hand_back", "end_episode"} <= set(mapping.presses)
    # slower than what the gate allows before a person
    supervised = yaml.safe_load((PARAMS / "gate_supervised.yaml").read_text())
    assert mapping.max_speed < supervised["max_speed"]
    assert mapping.max_rotation_speed < supervised["max_rotation_speed"]


@pytest.mark.parametrize("key", sorted(told()))
def test_every_key_must_be_stated(key: str, tmp_path: Path) -> None:
    data = told()
    del data[key]
    file = tmp_path / "pad.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(MappingError, match=f"^{file}: {key}: missing"):
        load_mapping(file)


@pytest.mark.parametrize("part", ["axes", "buttons"])
def test_every_motion_and_every_button_must_be_stated(part: str) -> None:
    for key in told()[part]:
        data = told()
        del data[part][key]
        with pytest.raises(MappingError, match=rf"^pad: {part}[:.] ?{key}"):
            parse_mapping(data, "pad")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dead_bnad": 0.1}, "dead_bnad: unknown key"),
        ({"dead_band": 1.0}, "dead_band"),
        ({"dead_band": True}, "dead_band: a finite number"),
        ({"max_speed": -0.1}, "max_speed: -0.1 is below 0"),
        ({"max_rotation_speed": math.inf}, "max_rotation_speed: a finite number"),
        ({"joy_timeout": 0.0}, "joy_timeout"),
        ({"name": ""}, "name"),
        ({"axes": []}, "axes: expected keys"),
        ({"axes": {**told()["axes"], "x": {"axis": 1}}}, "axes.x: speed: missing"),
        ({"axes": {**told()["axes"], "x": {"axis": 0, "speed": 0.1}}}, "axes.y: the same axis as x"),
        ({"axes": {**told()["axes"], "x": {"axis": -1, "speed": 0.1}}}, "axes.x.axis"),
        ({"buttons": {**told()["buttons"], "dead_man": None}}, "buttons.dead_man"),
        ({"buttons": {**told()["buttons"], "gripper": {"button": 9, "hold": 0.0}}}, "buttons.gripper: button 9"),
        ({"buttons": {**told()["buttons"], "gripper": {"button": 1, "hold": 0.0}}}, "buttons.hand_back: the same"),
        ({"buttons": {**told()["buttons"], "gripper": {"button": 0.5, "hold": 0.0}}}, "buttons.gripper.button"),
    ],
)
def test_what_makes_no_sense_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MappingError) as refused:
        parse_mapping(told(**changes), "pad")
    assert str(refused.value).startswith("pad: ") and named in str(refused.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"none\.yaml: No such file"):
        load_mapping(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(MappingError, match=r"bad\.yaml: no YAML"):
        load_mapping(tmp_path / "bad.yaml")


@given(sticks)
def test_no_stick_makes_more_than_the_bounds(axes: list[float]) -> None:
    for file in FILES:
        mapping = load_mapping(PARAMS / file)
        velocity = mapping.velocity(axes)
        assert np.linalg.norm(velocity[:3]) <= mapping.max_speed * (1 + 1e-12)
        assert np.linalg.norm(velocity[3:]) <= mapping.max_rotation_speed * (1 + 1e-12)


@given(sticks)
def test_the_direction_is_the_sticks_own(axes: list[float]) -> None:
    mapping = load_mapping(PARAMS / FILES[1])
    velocity = mapping.velocity(axes)
    wanted = np.array([mapping.axes[m].speed * deflection(axes[mapping.axes[m].axis], 0.15) for m in MOTIONS])
    for part in (slice(0, 3), slice(3, 6)):
        length = np.linalg.norm(wanted[part])
        assert np.allclose(np.cross(velocity[part], wanted[part]), 0.0, atol=1e-12)
        assert np.dot(velocity[part], wanted[part]) >= 0
        assert bool(np.any(velocity[part])) == bool(length > 0)


@given(st.floats(-2, 2), st.floats(0, 0.9))
def test_a_dead_band_is_dead_and_nothing_jumps(value: float, band: float) -> None:
    out = deflection(value, band)
    assert out == -deflection(-value, band)
    assert (out == 0.0) if abs(value) <= band else (0 < abs(out) <= 1 and (out > 0) == (value > 0))
    assert abs(deflection(band + 1e-9, band)) < 1e-7 and deflection(1.0, band) == pytest.approx(1.0)


def test_a_message_of_another_device_says_why() -> None:
    mapping = load_mapping(GAMEPAD)
    assert "6 axes" not in mapping.problem([0.0] * 6, [0] * 15)
    assert mapping.problem([0.0] * 2, [0] * 15) == "2 axes, the mapping gamepad has z on axis 3"
    assert mapping.problem([0.0, math.nan, 0.0, 0.0], [0] * 15) == "axis 1 is nan"
    assert mapping.problem([0.0] * 6, [0] * 3) == "3 buttons, the mapping gamepad has dead_man on button 9"
    assert set(mapping.presses) == set(FUNCTIONS)
