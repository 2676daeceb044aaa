"""Launch arguments that do not go together, each refused in one line that names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from grape.nodes import NodesError
from grape_robot.profile import GateProfile, ProfileError, load_profile

_WORLD = "with robot:=sim"
_ARM = "with robot:=franka"


def check(told: Mapping[str, str]) -> None:
    """Raises NodesError naming the first arguments that do not go together."""
    for wrong, reason in _rules(told):
        if wrong:
            raise NodesError(reason)


def _rules(told: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    """(whether it applies, the line)."""

    def true(name: str) -> bool:
        return told[name].lower() == "true"

    sim, arm = told["robot"] == "sim", told["robot"] == "franka"
    yield not (sim or arm), f"robot:={told['robot']}: neither sim nor franka"
    yield sim and told["use_sim_time"] == "false", f"use_sim_time:=false {_WORLD}: the simulated world is the clock"
    yield (
        arm and told["use_sim_time"] == "true",
        f"use_sim_time:=true {_ARM}: nothing but the steady clock watches an arm",
    )
    yield (
        arm and told["profile"] == "sim",
        f"profile:=sim {_ARM}: these are the simulated arm's limits; supervised, real or a file",
    )
    yield arm and true("lock_step"), f"lock_step:=true {_ARM}: an arm waits for nobody"
    yield sim and told["camera"] != "none", f"camera:={told['camera']} {_WORLD}: the simulated world has its own"
    yield sim and bool(told["calibration"]), f"calibration:= {_WORLD}: the simulated world tells the keypoints"
    yield sim and told["discovery"] == "SUBNET", f"discovery:=SUBNET {_WORLD}: a simulation stays on its own machine"
    yield true("dry_run") and true("lock_step"), "dry_run:=true with lock_step:=true: the world would wait for ever"
    yield (
        true("dry_run") and true("trainer"),
        "dry_run:=true with trainer:=true: nothing happens that could be learnt from",
    )
    yield (
        true("dry_run") and told["evaluate"] != "none",
        f"dry_run:=true with evaluate:={told['evaluate']}: nothing happens that could be measured",
    )
    yield told["evaluate"] == "button" and told["joy"] == "none", "evaluate:=button needs joy:=: there is no button"
    yield told["evaluate"] == "now" and bool(told["instruction"]), "evaluate:=now with instruction:=: one at a time"
    idle = told["autostart"].lower() == "false"
    yield idle and bool(told["instruction"]), "instruction:= needs autostart:=true: nothing would be active"
    yield idle and told["evaluate"] == "now", "evaluate:=now needs autostart:=true: nothing would be active"
    yield told["joy"] == "none" and told["joy_driver"] != "auto", f"joy_driver:={told['joy_driver']} needs joy:="


def gate_profile(path: Path, told: Mapping[str, str]) -> GateProfile:
    """The limits in ``path``. Raises NodesError where they cannot be used, or not with these arguments."""
    try:
        limits = load_profile(path)
    except ProfileError as error:
        raise NodesError(f"profile:={told['profile']}: {error}") from None
    name = f"profile:={told['profile']}"
    if told["robot"] == "franka" and limits.clock != "steady":
        raise NodesError(f"{name} {_ARM}: its clock is {limits.clock!r}; an arm's watchdogs need clock: steady")
    if told["robot"] == "sim" and limits.clock != "ros":
        raise NodesError(
            f"{name} {_WORLD}: its clock is {limits.clock!r} and /clock is refused; a copy with clock: ros"
        )
    if limits.dead_man.required and told["joy"] == "none":
        raise NodesError(f"{name} asks for a dead-man's button: joy:=gamepad, joy:=spacemouse or a mapping file")
    return limits


def same_period(params_file: Path, limits: GateProfile) -> None:
    """The period that a parameter file states must be the gate's. Raises NodesError naming the file."""
    for name, period in _periods(params_file):
        if period != limits.control_period:
            told = f"{name} has control_period {period} s, gate profile {limits.name} has {limits.control_period} s"
            raise NodesError(f"{params_file}: {told}: a step of one is no step of the other")


def _periods(params_file: Path) -> Iterator[tuple[str, Any]]:
    try:
        data = yaml.safe_load(params_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NodesError(f"params_file:={params_file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NodesError(f"params_file:={params_file}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise NodesError(f"params_file:={params_file}: no parameter file: expected node names")
    for node, content in data.items():
        values = content.get("ros__parameters") if isinstance(content, dict) else None
        if isinstance(values, dict) and "control_period" in values:
            yield str(node), values["control_period"]
