"""Where a stage ends and when a task is done: predicates over gripper width, keypoints and TCP at one observation.

They look at the present and at the first observation only, so that they serve live as well as offline, and never at the
world's own judgement. z is up; metres. keypoints[0] is the object, keypoints[1] the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from grape_episode.geometry import Array
from grape_reward.timeline import Event


class Predicate(Protocol):
    """A condition on an observation, given the episode's first one."""

    def holds(self, now: Event, start: Event) -> bool: ...


@dataclass(frozen=True)
class Lifted:
    """The gripper has the object: it is ``rise`` above where it lay at first, within ``reach`` of the TCP, and the
    gripper is no wider than ``width``."""

    rise: float
    reach: float
    width: float

    def holds(self, now: Event, start: Event) -> bool:
        rise = now.keypoints[0, 2] - start.keypoints[0, 2]
        held = _distance(now.tcp[:3], now.keypoints[0]) <= self.reach and now.gripper_width <= self.width
        return bool(held and rise >= self.rise)


@dataclass(frozen=True)
class Above:
    """The object is within ``radius`` of the target, seen from above."""

    radius: float

    def holds(self, now: Event, start: Event) -> bool:
        return _distance(now.keypoints[0, :2], now.keypoints[1, :2]) <= self.radius


@dataclass(frozen=True)
class Placed:
    """The object lies on or in its target, and the gripper has let go.

    Seen from above the object is within ``radius`` of the target, and its height over the target's keypoint is between
    ``low`` and ``high``; the gripper is at least ``width`` open, so much wider than the object that it is clear of its
    sides."""

    radius: float
    low: float
    high: float
    width: float

    def holds(self, now: Event, start: Event) -> bool:
        thing, target = now.keypoints[0], now.keypoints[1]
        height = thing[2] - target[2]
        resting = _distance(thing[:2], target[:2]) <= self.radius and self.low <= height <= self.high
        return bool(resting and now.gripper_width >= self.width)


def _distance(a: Array, b: Array) -> float:
    return float(np.sqrt(np.sum((a - b) ** 2)))
