"""Where the stages of a rollout begin (Eq. 7 of paper 002): by the task's conditions as it happens, or afterwards by
points that a vision-language model marked (Appendix A), each stage ending where the hand came nearest to its point.

Either way there are exactly S stages; one whose predecessor never ended has not begun.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grape_episode.geometry import Array
from grape_reward.errors import TaskError
from grape_reward.predicates import Predicate
from grape_reward.timeline import Event


@dataclass(frozen=True)
class Since:
    """A condition that holds from a stamp on, nanoseconds; None: never."""

    stamp: int | None

    def holds(self, now: Event, start: Event) -> bool:
        return self.stamp is not None and now.stamp >= self.stamp


@dataclass(frozen=True)
class StagePoints:
    """Where stage 1, 2, ... S-1 ends: ``points`` (S-1, 3), metres, base frame; a point that the TCP does not come
    within ``reach`` metres of was not reached."""

    points: tuple[tuple[float, float, float], ...]
    reach: float = 0.1

    def boundaries(self, events: Sequence[Event]) -> tuple[Predicate, ...]:
        """The conditions that end the stages of this one rollout; its events must all be known."""
        known = [event for event in events if not event.fault]
        tcp = np.array([event.tcp[:3] for event in known]).reshape(-1, 3)
        found = nearest_approach(tcp, np.array(self.points).reshape(-1, 3), self.reach)
        return tuple(Since(None if index is None else known[index].stamp) for index in found)


def nearest_approach(path: Array, points: Array, reach: float) -> tuple[int | None, ...]:
    """For each of P points (P, 3) the index of the position on ``path`` (T, 3) that belongs to it.

    In order, later points at later or the same positions, so that the sum of the distances is least; the earliest such
    positions. A point whose distance would exceed ``reach`` is not reached, nor are those behind it: None."""
    for count in range(len(points), 0, -1):
        if not len(path):
            break
        chosen = _in_order(np.linalg.norm(path[:, None] - points[None, :count], axis=2))
        if all(np.linalg.norm(path[at] - point) <= reach for at, point in zip(chosen, points[:count], strict=True)):
            return (*chosen, *[None] * (len(points) - count))
    return (None,) * len(points)


def _in_order(distances: Array) -> list[int]:
    """Rows t_1 <= t_2 <= ... of ``distances`` (T, P) whose sum is least, by dynamic programming."""
    total = distances[:, 0]
    choices = []
    for column in range(1, distances.shape[1]):
        best = np.minimum.accumulate(total)
        # the first row at which the running minimum is attained
        fallen = np.concatenate([[True], best[1:] < best[:-1]])
        first = np.maximum.accumulate(np.where(fallen, np.arange(len(total)), 0))
        choices.append(first)
        total = best + distances[:, column]
    rows = [int(np.argmin(total))]
    for first in reversed(choices):
        rows.append(int(first[rows[-1]]))
    return rows[::-1]


def read_stage_points(path: Path) -> dict[str, StagePoints]:
    """Episode id to its stage points, from JSON: ``{"reach": 0.1, "episodes": {ID: [[x, y, z], ...]}}``; the id ``*``
    stands for every episode that is not named.

    Raises TaskError naming file and field."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise TaskError(f"{path}: no JSON: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("episodes"), dict) or set(told) - {"reach", "episodes"}:
        raise TaskError(f"{path}: expected episodes, and reach where it is not 0.1")
    reach = told.get("reach", 0.1)
    if not _number(reach) or reach <= 0:
        raise TaskError(f"{path}: reach: {reach!r} is no length in metres")
    made = {}
    for name, points in told["episodes"].items():
        good = isinstance(points, list) and all(
            isinstance(point, list) and len(point) == 3 and all(map(_number, point)) for point in points
        )
        if not good:
            raise TaskError(f"{path}: episodes.{name}: expected points [x, y, z], metres")
        made[name] = StagePoints(tuple((float(x), float(y), float(z)) for x, y, z in points), float(reach))
    return made


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
