"""Axis-aligned boxes and spheres in the base frame, in plain floats: the gate asks them hundreds of times a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the base frame: ``low`` and ``high`` (3,) metres, faces included.

    ``margin`` metres, in the methods, is added on every side. Raises ValueError for corners that make no box."""

    name: str
    low: Point
    high: Point

    def __post_init__(self) -> None:
        # written so that what is no number is no box: it would let everything pass
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"box {self.name!r}: from {self.low} to {self.high} m is none")

    def contains(self, point: Sequence[float], margin: float = 0.0) -> bool:
        """Whether ``point`` (3,) metres is inside or on a face."""
        (a, b, c), (d, e, f), (x, y, z) = self.low, self.high, point
        m = margin
        return a - m <= x <= d + m and b - m <= y <= e + m and c - m <= z <= f + m

    def crosses(self, start: Sequence[float], end: Sequence[float], margin: float = 0.0) -> bool:
        """Whether the straight way from ``start`` to ``end`` (3,) metres touches the box (slab method)."""
        first, last = 0.0, 1.0
        for a, b, low, high in zip(start, end, self.low, self.high, strict=True):
            low, high = low - margin, high + margin
            if (a < low and b < low) or (a > high and b > high):
                return False
            length = b - a
            if length == 0.0:
                continue
            enter, leave = (low - a) / length, (high - a) / length
            if enter > leave:
                enter, leave = leave, enter
            if enter > first:
                first = enter
            if leave < last:
                last = leave
        return first <= last

    def distance(self, point: Sequence[float]) -> float:
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
