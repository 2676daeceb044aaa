"""Where a stage ends and when a task is done: conditions on one observation, as a task file declares them.

They look at the present and at the episode's first observation only, so that they serve live as well as offline, and
never at the world's own judgement. Metres and newtons in the robot's base frame. Nothing of a task file is evaluated as
code: a condition is a tree of these classes, a number read off the observation at every leaf.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from grape_reward.timeline import Event

TCP = -1
"""Stands for the tool centre point where a keypoint's index is expected."""


class Measure(Protocol):
    """A number read off an observation ``now``, given the episode's first one, ``start``."""

    def read(self, now: Event, start: Event) -> float: ...


class Predicate(Protocol):
    """A condition on an observation, given the episode's first one."""

    def holds(self, now: Event, start: Event) -> bool: ...


@dataclass(frozen=True)
class GripperWidth:
    """Opening of the gripper, metres."""

    def read(self, now: Event, start: Event) -> float:
        return now.gripper_width


@dataclass(frozen=True)
class Force:
    """Contact: magnitude of the external force on the hand, newtons; NaN where no wrench was measured."""

    def read(self, now: Event, start: Event) -> float:
        return math.nan if now.wrench is None else _length(now.wrench[:3].tolist())


@dataclass(frozen=True)
class Distance:
    """Between points ``a`` and ``b`` (keypoint indices, or TCP), metres."""

    a: int
    b: int

    def read(self, now: Event, start: Event) -> float:
        return _length([p - q for p, q in zip(_point(now, self.a), _point(now, self.b), strict=True)])


@dataclass(frozen=True)
class HorizontalDistance:
    """Between points ``a`` and ``b`` seen along the axis ``up`` (0, 1, 2), metres."""

    a: int
    b: int
    up: int

    def read(self, now: Event, start: Event) -> float:
        a, b = _point(now, self.a), _point(now, self.b)
        return _length([a[axis] - b[axis] for axis in range(3) if axis != self.up])


@dataclass(frozen=True)
class Height:
    """How far ``a`` is above ``b`` along the axis ``up``, metres; negative below."""

    a: int
    b: int
    up: int

    def read(self, now: Event, start: Event) -> float:
        return _point(now, self.a)[self.up] - _point(now, self.b)[self.up]


@dataclass(frozen=True)
class Rise:
    """How far ``a`` is above where it was at first, metres."""

    a: int
    up: int

    def read(self, now: Event, start: Event) -> float:
        return _point(now, self.a)[self.up] - _point(start, self.a)[self.up]


@dataclass(frozen=True)
class Moved:
    """How far ``a`` is from where it was at first, metres."""

    a: int

    def read(self, now: Event, start: Event) -> float:
        return _length([p - q for p, q in zip(_point(now, self.a), _point(start, self.a), strict=True)])


@dataclass(frozen=True)
class Between:
    """``measure`` lies in [``at_least``, ``at_most``]; a number that is not known lies nowhere."""

    measure: Measure
    at_least: float = -math.inf
    at_most: float = math.inf

    def holds(self, now: Event, start: Event) -> bool:
        return self.at_least <= self.measure.read(now, start) <= self.at_most


@dataclass(frozen=True)
class All:
    parts: tuple[Predicate, ...]

    def holds(self, now: Event, start: Event) -> bool:
        return all(part.holds(now, start) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Predicate, ...]

    def holds(self, now: Event, start: Event) -> bool:
        return any(part.holds(now, start) for part in self.parts)


@dataclass(frozen=True)
class Not:
    part: Predicate

    def holds(self, now: Event, start: Event) -> bool:
        return not self.part.holds(now, start)


def leaves(predicate: Predicate) -> Iterator[Between]:
    """The bounds that a condition is made of, in order."""
    match predicate:
        case Between():
            yield predicate
        case Not(part=part):
            yield from leaves(part)
        case All(parts=parts) | AnyOf(parts=parts):
            for part in parts:
                yield from leaves(part)


def reads_force(predicate: Predicate) -> bool:
    """Whether a condition needs the wrench."""
    return any(isinstance(leaf.measure, Force) for leaf in leaves(predicate))


def described(predicate: Any) -> dict[str, Any]:
    """Names and numbers of a condition, for a hash: plain JSON values."""
    match predicate:
        case All(parts=parts) | AnyOf(parts=parts):
            return {type(predicate).__name__: [described(part) for part in parts]}
        case Not(part=part):
            return {"Not": described(part)}
        case Between(measure=measure, at_least=low, at_most=high):
            name = type(measure).__name__
            return {name: asdict(measure), "at_least": repr(low), "at_most": repr(high)}  # type: ignore[call-overload]
    return {type(predicate).__name__: asdict(predicate)}


def _point(event: Event, index: int) -> list[float]:
    return (event.tcp[:3] if index == TCP else event.keypoints[index]).tolist()


def _length(vector: list[float]) -> float:
    # first to last, as NumPy sums so few numbers: recorded scores keep their last bit
    total = 0.0
    for value in vector:
        total += value * value
    return math.sqrt(total)
