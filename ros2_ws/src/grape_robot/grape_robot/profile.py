"""The gate's limits, read from a YAML file in which every one of them is stated."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from grape_robot.boxes import Box, LinkSphere, Point

CLOCKS = ("ros", "steady")
JOINTS = 7


class ProfileError(ValueError):
    """A gate profile that cannot be used; the text begins with the file and names the key."""


@dataclass(frozen=True)
class JointLimits:
    """``low`` and ``high`` (7,) radians."""

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class DeadMan:
    """The button that must be held: ``button`` is its index in sensor_msgs/Joy; a Joy that is silent for longer than
    ``timeout`` seconds counts as released. Where it is not ``required``, nobody asks for it."""

    required: bool
    button: int
    timeout: float


@dataclass(frozen=True)
class GateProfile:
    """Every limit of the gate; there are no defaults. Zero is a value: a limit of 0.0 is a limit."""

    name: str
    clock: str
    """Clock of the watchdogs: ``ros`` (simulation: the world's time) or ``steady`` (an arm)."""
    frame: str
    """Frame in which steps and measured poses must be."""
    control_period: float
    """Seconds between two steps."""
    hold_margin: float
    """Seconds beyond the period without a step, then hold."""
    stop_margin: float
    """Seconds beyond the period without a step or a heartbeat, or beyond ``state_timeout``, then stop and latch."""
    heartbeat_timeout: float
    """Seconds without a heartbeat, then hold."""
    age_margin: float
    """Seconds beyond the period that an observation may be old."""
    ahead_margin: float
    """Seconds that a stamp may be ahead of the gate's clock."""
    state_timeout: float
    """Seconds that what is sensed of the arm (pose; joints, wrench, mode where watched) may be old, then hold."""
    operator_period: float
    """Seconds of one step of an operator."""
    operator_timeout: float
    """Seconds without a step of the operator who drives, then hold (not latched)."""
    max_speed: float
    """Metres per second of a step, over its period."""
    max_rotation_speed: float
    """Radians per second of a step, over its period."""
    shorten_steps: bool
    """A step that is too fast is shortened along its own direction, and recorded so, instead of refused."""
    slew_rate: float
    """Hz at which the set point is published in real time."""
    slew_speed: float
    """Metres per second at most of the published set point."""
    slew_rotation_speed: float
    """Radians per second at most of the published set point."""
    anchor_gap: float
    """Metres between last target and measured TCP from which on the reference is the measured TCP."""
    anchor_gap_rotation: float
    """The same, radians."""
    gripper_close_below: float
    """A gripper value (0 closed to 1 open) below this closes."""
    gripper_open_above: float
    """A gripper value above this opens; between the two nothing changes."""
    gripper_effort: float
    """Largest effort of the gripper's goals; 0: the controller's own."""
    gripper_deadline: float
    """Seconds in which the gripper's controller accepts a goal; later is a fault."""
    watch_joints: bool
    """Joint limits are checked, and /joint_states must be heard."""
    joint_limits: JointLimits
    joint_limit_margin: float
    """Radians that every joint keeps from its limit."""
    max_joint_step: float
    """Radians that a target may be away from the measured joints, in any joint: near a singularity it is far."""
    watch_wrench: bool
    """The external wrench is checked, and must be heard."""
    max_force: float
    """Newtons; above it, stop."""
    max_torque: float
    """Newton metres; above it, stop."""
    watch_robot_mode: bool
    """The robot's mode must be heard and be one that moves; reflex and user stop stop the gate."""
    controller: str
    """Name of the arm's controller, which must be active; empty: not watched."""
    controller_timeout: float
    """Seconds that the word of the controller manager may be old, then hold."""
    dead_man: DeadMan
    reset_cooldown: float
    """Seconds after a stop in which it cannot be reset."""
    box: Box
    """Where targets must be."""
    keep_out: tuple[Box, ...]
    """Where neither a target nor the straight way to it may be."""
    keep_out_margin: float
    """Metres added to every keep-out on every side."""
    keep_out_links: bool
    """The arm's spheres must stay out of the keep-outs, and above the floor of ``box``, too."""
    link_spheres: tuple[LinkSphere, ...]
    moving_keep_out: bool
    """Boxes that move are heard, must be heard, and are kept out of."""
    keep_out_timeout: float
    """Seconds that they may be old, then hold."""

    @property
    def needs_model(self) -> bool:
        """Whether a model of the arm is needed."""
        return self.watch_joints or self.keep_out_links


_TEXT = ("name", "clock", "frame")
_POSITIVE = ("control_period", "operator_period", "slew_rate")


def load_profile(path: Path) -> GateProfile:
    """Reads and checks a profile.

    Raises ProfileError naming file and key for a missing or unknown key, a value that is no finite number >= 0,
    a box whose low is above its high, or an unknown clock."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: no text") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    return parse_profile(data, str(path))


def parse_profile(data: Any, source: str) -> GateProfile:
    """``data`` as YAML gives it; ``source`` begins the text of the errors. Raises ProfileError (see load_profile)."""
    known = [field.name for field in fields(GateProfile)]
    _keys(data, known, source)
    readers = {
        "box": lambda value, where: _box(value, where, "box"),
        "keep_out": _keep_out,
        "joint_limits": _joint_limits,
        "dead_man": _dead_man,
        "link_spheres": _link_spheres,
        "controller": _text,
        **{field.name: _bool for field in fields(GateProfile) if field.type == "bool"},
        **dict.fromkeys(_TEXT, _name),
    }
    values: dict[str, Any] = {}
    for key in known:
        where = f"{source}: {key}"
        values[key] = readers[key](data[key], where) if key in readers else _number(data[key], where, least=0.0)
    profile = GateProfile(**values)
    _consistent(profile, source)
    return profile


def _consistent(profile: GateProfile, source: str) -> None:
    if profile.clock not in CLOCKS:
        raise ProfileError(f"{source}: clock: {profile.clock!r}, expected one of {', '.join(CLOCKS)}")
    for key in _POSITIVE:
        if getattr(profile, key) <= 0.0:
            raise ProfileError(f"{source}: {key}: must be above 0")
    if profile.stop_margin < profile.hold_margin:
        raise ProfileError(f"{source}: stop_margin: {profile.stop_margin} s is below hold_margin")
    if profile.gripper_open_above < profile.gripper_close_below:
        raise ProfileError(f"{source}: gripper_open_above: {profile.gripper_open_above} is below gripper_close_below")
    for joint, (low, high) in enumerate(zip(profile.joint_limits.low, profile.joint_limits.high, strict=True), 1):
        if high - low <= 2.0 * profile.joint_limit_margin:
            raise ProfileError(f"{source}: joint_limits: joint {joint} has no room between {low} and {high} rad")
    if profile.keep_out_links and not profile.link_spheres:
        raise ProfileError(f"{source}: link_spheres: none, and keep_out_links is true")


def _keys(data: Any, known: list[str], source: str) -> None:
    if not isinstance(data, dict):
        raise ProfileError(f"{source}: expected keys {', '.join(known)}")
    for key in data:
        if key not in known:
            raise ProfileError(f"{source}: {key}: unknown key")
    for key in known:
        if key not in data:
            raise ProfileError(f"{source}: {key}: missing; every limit must be stated")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ProfileError(f"{where}: a name is needed, not {value!r}")
    return value


def _name(value: Any, where: str) -> str:
    if not _text(value, where):
        raise ProfileError(f"{where}: a name is needed, not {value!r}")
    return str(value)


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ProfileError(f"{where}: true or false is needed, not {value!r}")
    return value


def _number(value: Any, where: str, least: float | None = None) -> float:
    # bool is an int in Python: `true` is no limit
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProfileError(f"{where}: a finite number is needed, not {value!r}")
    if least is not None and value < least:
        raise ProfileError(f"{where}: {value} is below {least:g}")
    return float(value)


def _point(value: Any, where: str) -> Point:
    if not isinstance(value, list) or len(value) != 3:
        raise ProfileError(f"{where}: three numbers [x, y, z] in metres are needed, not {value!r}")
    x, y, z = (_number(number, where) for number in value)
    return x, y, z


def _box(data: Any, where: str, name: str) -> Box:
    _keys(data, ["low", "high"], where)
    lows, highs = _point(data["low"], f"{where}.low"), _point(data["high"], f"{where}.high")
    for axis, low, high in zip("xyz", lows, highs, strict=True):
        if low > high:
            raise ProfileError(f"{where}: low is above high on {axis}")
    return Box(name, lows, highs)


def _keep_out(data: Any, where: str) -> tuple[Box, ...]:
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: boxes by name are needed, {{}} for none, not {data!r}")
    return tuple(_box(box, f"{where}.{name}", str(name)) for name, box in data.items())


def _joint_limits(data: Any, where: str) -> JointLimits:
    _keys(data, ["low", "high"], where)
    for key, values in data.items():
        if not isinstance(values, list) or len(values) != JOINTS:
            raise ProfileError(f"{where}.{key}: {JOINTS} angles in radians are needed, not {values!r}")
    low, high = (tuple(_number(value, f"{where}.{key}") for value in data[key]) for key in ("low", "high"))
    return JointLimits(low, high)


def _dead_man(data: Any, where: str) -> DeadMan:
    _keys(data, ["required", "button", "timeout"], where)
    button = data["button"]
    if isinstance(button, bool) or not isinstance(button, int) or button < 0:
        raise ProfileError(f"{where}.button: the index of a button is needed, not {button!r}")
    timeout = _number(data["timeout"], f"{where}.timeout", least=0.0)
    return DeadMan(_bool(data["required"], f"{where}.required"), button, timeout)


def _link_spheres(data: Any, where: str) -> tuple[LinkSphere, ...]:
    if not isinstance(data, list):
        raise ProfileError(f"{where}: a list of spheres is needed, [] for none, not {data!r}")
    spheres = []
    for index, sphere in enumerate(data):
        here = f"{where}[{index}]"
        _keys(sphere, ["link", "centre", "radius"], here)
        link, centre = _name(sphere["link"], f"{here}.link"), _point(sphere["centre"], f"{here}.centre")
        spheres.append(LinkSphere(link, centre, _number(sphere["radius"], f"{here}.radius", least=0.0)))
    return tuple(spheres)
