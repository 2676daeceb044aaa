"""Axis-aligned boxes and spheres in the base frame, in plain floats: the gate asks them hundreds of times a second."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the base frame: ``low`` and ``high`` (3,) metres, faces included.

    ``margin`` metres, in the methods, is added on every side."""

    name: str
    low: Point
    high: Point

    def contains(self, point: Iterable[float], margin: float = 0.0) -> bool:
        """Whether ``point`` (3,) metres is inside or on a face."""
        for value, low, high in zip(point, self.low, self.high, strict=True):
            if not low - margin <= value <= high + margin:
                return False
        return True

    def crosses(self, start: Iterable[float], end: Iterable[float], margin: float = 0.0) -> bool:
        """Whether the straight way from ``start`` to ``end`` (3,) metres touches the box (slab method)."""
        first, last = 0.0, 1.0
        for a, b, low, high in zip(start, end, self.low, self.high, strict=True):
            low, high = low - margin, high + margin
            length = b - a
            if length == 0.0:
                if not low <= a <= high:
                    return False
                continue
            enter, leave = (low - a) / length, (high - a) / length
            if enter > leave:
                enter, leave = leave, enter
            if enter > first:
                first = enter
            if leave < last:
                last = leave
            if not first <= last:
                return False
        return True

    def distance(self, point: Iterable[float]) -> float:
        """From the box's faces to ``point`` (3,), metres; negative inside: the way to the nearest face."""
        outside, inside = 0.0, -math.inf
        for value, low, high in zip(point, self.low, self.high, strict=True):
            beyond = low - value if low - value > value - high else value - high
            if beyond > 0.0:
                outside += beyond * beyond
            if beyond > inside:
                inside = beyond
        return math.sqrt(outside) if outside > 0.0 else inside


@dataclass(frozen=True)
class LinkSphere:
    """A sphere fixed to a link of the arm: ``centre`` (3,) in the link's frame and ``radius``, metres."""

    link: str
    centre: Point
    radius: float
