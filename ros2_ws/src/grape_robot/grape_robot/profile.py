"""The gate's limits, read from a YAML file in which every one of them is stated."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

CLOCKS = ("ros", "steady")


class ProfileError(ValueError):
    """A gate profile that cannot be used; the text begins with the file and names the key."""


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the base frame: ``low`` and ``high`` (3,) metres, faces included."""

    name: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def contains(self, point: NDArray[np.float64]) -> bool:
        """Whether ``point`` (3,) metres is inside or on a face."""
        return bool(np.all(point >= self.low) and np.all(point <= self.high))

    def crosses(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> bool:
        """Whether the straight way from ``start`` to ``end`` (3,) metres touches the box (slab method)."""
        first, last = 0.0, 1.0
        for a, b, low, high in zip(start.tolist(), end.tolist(), self.low, self.high, strict=True):
            if a == b:
                if not low <= a <= high:
                    return False
                continue
            enter, leave = sorted(((low - a) / (b - a), (high - a) / (b - a)))
            first, last = max(first, enter), min(last, leave)
        return first <= last


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
    """Seconds beyond the period without a step or a heartbeat, then stop and latch."""
    heartbeat_timeout: float
    """Seconds without a heartbeat, then hold."""
    age_margin: float
    """Seconds beyond the period that an observation may be old."""
    ahead_margin: float
    """Seconds that an observation's stamp may be ahead of the gate's clock."""
    max_speed: float
    """Metres per second of a step, over one control period."""
    max_rotation_speed: float
    """Radians per second of a step, over one control period."""
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
    box: Box
    """Where targets must be."""
    keep_out: tuple[Box, ...]
    """Where neither a target nor the straight way to it may be."""


_TEXT = ("name", "clock", "frame")
_POSITIVE = ("control_period",)


def load_profile(path: Path) -> GateProfile:
    """Reads and checks a profile.

    Raises ProfileError naming file and key for a missing or unknown key, a value that is no finite number >= 0,
    a box whose low is above its high, or an unknown clock."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    return parse_profile(data, str(path))


def parse_profile(data: Any, source: str) -> GateProfile:
    """``data`` as YAML gives it; ``source`` begins the text of the errors. Raises ProfileError (see load_profile)."""
    known = [field.name for field in fields(GateProfile)]
    _keys(data, known, source)
    values: dict[str, Any] = {}
    for key in known:
        where = f"{source}: {key}"
        if key in _TEXT:
            if not isinstance(data[key], str) or not data[key]:
                raise ProfileError(f"{where}: a name is needed, not {data[key]!r}")
            values[key] = data[key]
        elif key == "box":
            values[key] = _box(data[key], where, "box")
        elif key == "keep_out":
            values[key] = _keep_out(data[key], where)
        else:
            values[key] = _number(data[key], where, least=0.0)
    profile = GateProfile(**values)
    if profile.clock not in CLOCKS:
        raise ProfileError(f"{source}: clock: {profile.clock!r}, expected one of {', '.join(CLOCKS)}")
    for key in _POSITIVE:
        if getattr(profile, key) <= 0.0:
            raise ProfileError(f"{source}: {key}: must be above 0")
    if profile.stop_margin < profile.hold_margin:
        raise ProfileError(f"{source}: stop_margin: {profile.stop_margin} s is below hold_margin")
    if profile.gripper_open_above < profile.gripper_close_below:
        raise ProfileError(f"{source}: gripper_open_above: {profile.gripper_open_above} is below gripper_close_below")
    return profile


def _keys(data: Any, known: list[str], source: str) -> None:
    if not isinstance(data, dict):
        raise ProfileError(f"{source}: expected keys {', '.join(known)}")
    for key in data:
        if key not in known:
            raise ProfileError(f"{source}: {key}: unknown key")
    for key in known:
        if key not in data:
            raise ProfileError(f"{source}: {key}: missing; every limit must be stated")


def _number(value: Any, where: str, least: float | None = None) -> float:
    # bool is an int in Python: `true` is no limit
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProfileError(f"{where}: a finite number is needed, not {value!r}")
    if least is not None and value < least:
        raise ProfileError(f"{where}: {value} is below {least:g}")
    return float(value)


def _point(value: Any, where: str) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3:
        raise ProfileError(f"{where}: three numbers [x, y, z] in metres are needed, not {value!r}")
    x, y, z = (_number(number, where) for number in value)
    return x, y, z


def _box(data: Any, where: str, name: str) -> Box:
    _keys(data, ["low", "high"], where)
    box = Box(name, _point(data["low"], f"{where}.low"), _point(data["high"], f"{where}.high"))
    for axis, low, high in zip("xyz", box.low, box.high, strict=True):
        if low > high:
            raise ProfileError(f"{where}: low is above high on {axis}")
    return box


def _keep_out(data: Any, where: str) -> tuple[Box, ...]:
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: boxes by name are needed, {{}} for none, not {data!r}")
    return tuple(_box(box, f"{where}.{name}", str(name)) for name, box in data.items())
