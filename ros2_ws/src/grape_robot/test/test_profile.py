from __future__ import annotations

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_robot.profile import Box, GateProfile, ProfileError, load_profile, parse_profile

PARAMS = Path(__file__).parents[4] / "launch" / "params"
SHIPPED = ("gate_sim.yaml", "gate_supervised.yaml", "gate_real.yaml")


@pytest.fixture
def data() -> dict:
    return yaml.safe_load((PARAMS / "gate_sim.yaml").read_text())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_load(name: str) -> None:
    profile = load_profile(PARAMS / name)
    assert name == f"gate_{profile.name}.yaml"


def test_supervised_has_the_promised_limits() -> None:
    profile = load_profile(PARAMS / "gate_supervised.yaml")
    assert (profile.max_speed, profile.max_rotation_speed, profile.clock) == (0.25, 0.5, "steady")
    assert (profile.hold_margin, profile.stop_margin, profile.age_margin) == (0.1, 0.2, 0.15)


def test_real_is_supervised_with_a_dead_mans_switch() -> None:
    real, supervised = (load_profile(PARAMS / f"gate_{name}.yaml") for name in ("real", "supervised"))
    assert real.dead_man.required and not supervised.dead_man.required
    assert replace(real, name=supervised.name, dead_man=supervised.dead_man) == supervised
    assert real.watch_joints and real.watch_wrench and real.watch_robot_mode and real.keep_out_links and real.controller
    assert real.joint_limit_margin == 0.1 and not real.shorten_steps


@pytest.mark.parametrize("key", [field.name for field in fields(GateProfile)])
def test_a_missing_limit_is_named(data: dict, key: str) -> None:
    del data[key]
    with pytest.raises(ProfileError, match=rf"^here\.yaml: {key}: missing"):
        parse_profile(data, "here.yaml")


def test_an_unknown_key_is_named(data: dict) -> None:
    data["max_sped"] = 1.0
    with pytest.raises(ProfileError, match=r"^here\.yaml: max_sped: unknown key"):
        parse_profile(data, "here.yaml")


NUMBERS = [f.name for f in fields(GateProfile) if f.type == "float"]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [None, True, "0.2", float("nan"), float("inf"), -0.1])
def test_what_is_no_limit_is_named(data: dict, key: str, value: object) -> None:
    data[key] = value
    with pytest.raises(ProfileError, match=rf"^here\.yaml: {key}:"):
        parse_profile(data, "here.yaml")


@pytest.mark.parametrize("key", [f.name for f in fields(GateProfile) if f.type == "bool"])
@pytest.mark.parametrize("value", [None, 0, 1, "true", "yes"])
def test_a_switch_is_true_or_false(data: dict, key: str, value: object) -> None:
    data[key] = value
    with pytest.raises(ProfileError, match=rf"^here\.yaml: {key}: true or false"):
        parse_profile(data, "here.yaml")


@pytest.mark.parametrize(
    "key", ["max_speed", "max_rotation_speed", "anchor_gap", "age_margin", "max_force", "reset_cooldown"]
)
def test_zero_is_a_value(data: dict, key: str) -> None:
    data[key] = 0
    assert getattr(parse_profile(data, "here.yaml"), key) == 0.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"control_period": 0.0}, "control_period: must be above 0"),
        ({"clock": "wall"}, "clock: 'wall', expected one of ros, steady"),
        ({"hold_margin": 0.5}, "stop_margin: 0.2 s is below hold_margin"),
        ({"gripper_open_above": 0.1}, "gripper_open_above: 0.1 is below gripper_close_below"),
        ({"box": {"low": [0, 0, 1], "high": [1, 1, 0]}}, "box: low is above high on z"),
        ({"box": {"low": [0, 0, 0]}}, "box: high: missing"),
        ({"box": {"low": [0, 0], "high": [1, 1, 1]}}, "box.low: three numbers"),
        ({"keep_out": {"post": {"low": [0, 0, 0], "high": [1, 1, 1], "hi": 1}}}, "keep_out.post: hi: unknown key"),
        ({"keep_out": [1]}, "keep_out: boxes by name"),
        ({"slew_rate": 0.0}, "slew_rate: must be above 0"),
        ({"operator_period": 0.0}, "operator_period: must be above 0"),
        ({"controller": None}, "controller: a name is needed"),
        ({"joint_limits": {"low": [0.0] * 7, "high": [1.0] * 6}}, "joint_limits.high: 7 angles"),
        ({"joint_limits": {"low": [0.0] * 7, "high": [0.2] * 7}}, "joint_limits: joint 1 has no room"),
        ({"joint_limits": {"low": [0.0] * 6 + [None], "high": [1.0] * 7}}, "joint_limits.low: a finite number"),
        ({"dead_man": {"required": True, "button": 9}}, "dead_man: timeout: missing"),
        ({"dead_man": {"required": True, "button": 9.0, "timeout": 0.1}}, "dead_man.button: the index"),
        ({"dead_man": {"required": 1, "button": 9, "timeout": 0.1}}, "dead_man.required: true or false"),
        ({"dead_man": {"required": True, "button": 9, "timeout": -0.1}}, "dead_man.timeout: -0.1 is below 0"),
        ({"keep_out_links": True}, "link_spheres: none, and keep_out_links is true"),
        ({"link_spheres": {}}, "link_spheres: a list of spheres"),
        ({"link_spheres": [{"link": "tcp", "centre": [0, 0, 0]}]}, "link_spheres[0]: radius: missing"),
        ({"link_spheres": [{"link": "", "centre": [0, 0, 0], "radius": 0.1}]}, "link_spheres[0].link: a name"),
    ],
)
def test_nonsense_is_named(data: dict, change: dict, text: str) -> None:
    broken = {**copy.deepcopy(data), **change}
    with pytest.raises(ProfileError) as error:
        parse_profile(broken, "here.yaml")
    assert str(error.value).startswith(f"here.yaml: {text}")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"absent\.yaml: No such file"):
        load_profile(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ProfileError, match=r"broken\.yaml: no YAML"):
        load_profile(broken)


point = st.tuples(*[st.floats(-2.0, 2.0)] * 3)


@settings(deadline=None)
@given(point, point, point, point)
def test_crosses_agrees_with_points_along_the_way(a, b, low, high) -> None:
    box = Box("b", tuple(map(min, low, high)), tuple(map(max, low, high)))
    start, end = np.array(a), np.array(b)
    inside = any(box.contains(start + t * (end - start)) for t in np.linspace(0.0, 1.0, 101))
    if inside:
        grown = Box("b", tuple(x - 1e-9 for x in box.low), tuple(x + 1e-9 for x in box.high))
        assert grown.crosses(start, end)
    if box.crosses(start, end):
        dense = start + np.linspace(0.0, 1.0, 4001)[:, None] * (end - start)
        gap = np.maximum(np.maximum(np.array(box.low) - dense, dense - np.array(box.high)), 0.0).max(axis=1).min()
        assert gap <= 2e-3
