"""What the sticks and buttons of a sensor_msgs/Joy device mean, read from a YAML file in which every key is stated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

MOTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
FUNCTIONS = ("gripper", "hand_back", "evaluate", "end_episode")


class MappingError(ValueError):
    """A mapping that cannot be used; the text begins with the file and names the key."""


@dataclass(frozen=True)
class Axis:
    """An axis of the device; ``speed``: m/s or rad/s at +1, below 0 for the other direction."""

    axis: int
    speed: float


@dataclass(frozen=True)
class Press:
    """A button held for ``hold`` seconds; 0: as soon as it is pressed."""

    button: int
    hold: float


@dataclass(frozen=True)
class JoyMapping:
    """A device. ``axes`` by MOTIONS, along and about the base frame's axes; ``presses`` by FUNCTIONS; what the device
    has nothing for is not in them."""

    name: str
    dead_band: float
    """Of an axis's range of 0 to 1: below it the stick is at rest."""
    max_speed: float
    """Metres per second of the whole translation, however many sticks are moved."""
    max_rotation_speed: float
    """Radians per second of the whole rotation."""
    joy_timeout: float
    """Seconds without a message after which everything counts as released."""
    debounce: float
    """Seconds in which a button that has changed does not change again."""
    dead_man: int
    """Button that must be held for anybody's steps to move the arm. The gate reads it itself, by its profile."""
    axes: dict[str, Axis]
    presses: dict[str, Press]

    def problem(self, axes: Sequence[float], buttons: Sequence[int]) -> str:
        """Why a message is not of this device, or "": numbers that are missing or not finite."""
        for motion, axis in self.axes.items():
            if axis.axis >= len(axes):
                return f"{len(axes)} axes, the mapping {self.name} has {motion} on axis {axis.axis}"
            if not math.isfinite(axes[axis.axis]):
                return f"axis {axis.axis} is {axes[axis.axis]}"
        for function, button in [("dead_man", self.dead_man), *((f, p.button) for f, p in self.presses.items())]:
            if button >= len(buttons):
                return f"{len(buttons)} buttons, the mapping {self.name} has {function} on button {button}"
        return ""

    def velocity(self, axes: Sequence[float]) -> NDArray[np.float64]:
        """(6,) m/s along and rad/s about the base frame's x, y and z, the rotation as a rotation vector.

        The speed rises from 0 at the edge of the dead band; a sum above a bound is shortened, its direction kept."""
        wanted = np.zeros(6)
        for row, motion in enumerate(MOTIONS):
            if motion in self.axes:
                wanted[row] = self.axes[motion].speed * deflection(axes[self.axes[motion].axis], self.dead_band)
        for part, bound in ((wanted[:3], self.max_speed), (wanted[3:], self.max_rotation_speed)):
            length = float(np.linalg.norm(part))
            if length > bound:
                part *= bound / length
        return wanted


def deflection(value: float, dead_band: float) -> float:
    """An axis's ``value`` (clipped to -1..1) without its dead band: 0 within it, continuous, odd, 1 at 1."""
    size = min(abs(value), 1.0)
    return math.copysign((size - dead_band) / (1.0 - dead_band), value) if size > dead_band else 0.0


def load_mapping(path: Path) -> JoyMapping:
    """Reads and checks a mapping. Raises MappingError naming file and key (see ``parse_mapping``)."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    return parse_mapping(data, str(path))


def parse_mapping(data: Any, source: str) -> JoyMapping:
    """``data`` as YAML gives it; ``source`` begins the text of the errors.

    Raises MappingError for a missing or unknown key, a number out of its range, an axis or a button that means two
    things at once."""
    numbers = [field.name for field in fields(JoyMapping) if field.type == "float"]
    _keys(data, ["name", *numbers, "axes", "buttons"], source)
    if not isinstance(data["name"], str) or not data["name"]:
        raise MappingError(f"{source}: name: a name is needed, not {data['name']!r}")
    values = {key: _number(data[key], f"{source}: {key}") for key in numbers}
    if values["dead_band"] >= 1.0:
        raise MappingError(f"{source}: dead_band: {values['dead_band']} leaves nothing of an axis: below 1 is needed")
    if values["joy_timeout"] <= 0.0:
        raise MappingError(f"{source}: joy_timeout: must be above 0")
    axes = _table(data["axes"], MOTIONS, _axis, f"{source}: axes")
    if not isinstance(data["buttons"], dict) or "dead_man" not in data["buttons"]:
        raise MappingError(f"{source}: buttons.dead_man: missing; every key must be stated")
    rest = {key: value for key, value in data["buttons"].items() if key != "dead_man"}
    presses = _table(rest, FUNCTIONS, _press, f"{source}: buttons")
    dead_man = _index(data["buttons"]["dead_man"], f"{source}: buttons.dead_man")
    _apart({key: (axis.axis,) for key, axis in axes.items()}, f"{source}: axes", "axis")
    _apart({key: (press.button, press.hold) for key, press in presses.items()}, f"{source}: buttons", "button and hold")
    for key, press in presses.items():
        if press.button == dead_man:
            raise MappingError(f"{source}: buttons.{key}: button {dead_man} is the dead-man's")
    return JoyMapping(name=data["name"], dead_man=dead_man, axes=axes, presses=presses, **values)


def _table(data: Any, known: Sequence[str], parse: Callable[[Any, str], Any], where: str) -> dict[str, Any]:
    """By key what ``parse`` makes of it; null, which says that the device has nothing for it, is left out."""
    _keys(data, known, where)
    return {key: parse(data[key], f"{where}.{key}") for key in known if data[key] is not None}


def _axis(data: Any, where: str) -> Axis:
    _keys(data, ["axis", "speed"], where)
    return Axis(_index(data["axis"], f"{where}.axis"), _number(data["speed"], f"{where}.speed", least=-math.inf))


def _press(data: Any, where: str) -> Press:
    _keys(data, ["button", "hold"], where)
    return Press(_index(data["button"], f"{where}.button"), _number(data["hold"], f"{where}.hold"))


def _apart(used: dict[str, tuple], where: str, what: str) -> None:
    first: dict[tuple, str] = {}
    for key, place in used.items():
        if place in first:
            raise MappingError(f"{where}.{key}: the same {what} as {first[place]}")
        first[place] = key


def _keys(data: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(data, dict):
        raise MappingError(f"{where}: expected keys {', '.join(known)}, not {data!r}")
    for key in data:
        if key not in known:
            raise MappingError(f"{where}: {key}: unknown key, expected {', '.join(known)}")
    for key in known:
        if key not in data:
            raise MappingError(f"{where}: {key}: missing; every key must be stated, null where the device has nothing")


def _number(value: Any, where: str, least: float = 0.0) -> float:
    # bool is an int in Python: `true` is no number
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MappingError(f"{where}: a finite number is needed, not {value!r}")
    if value < least:
        raise MappingError(f"{where}: {value} is below {least:g}")
    return float(value)


def _index(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MappingError(f"{where}: a number counted from 0 is needed, not {value!r}")
    return value
