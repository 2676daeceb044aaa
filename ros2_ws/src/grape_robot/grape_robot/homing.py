"""The arm's way home, as steps that the gate judges: up, over, down. Pure; metres, radians, base frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grape_episode.geometry import Array, Pose
from grape_robot.profile import GateProfile

ROTATION = "axis_angle"
"""Convention of the steps' rotation."""
OPEN = 1.0
_NEAR = 1e-6
"""Metres and radians within which a point of the way counts as reached: the rest is rounding."""


class HomingError(ValueError):
    """A way home that may not be gone; the text names the parameter or the number."""


@dataclass(frozen=True)
class Homing:
    """Where home is and how fast the way there is gone. ``period``: seconds of one step."""

    home: Pose
    travel_height: float
    """z at which the arm goes over: above everything that lies on the table."""
    speed: float
    rotation_speed: float
    period: float
    tolerance: float = 0.02
    """Metres within which the measured TCP is home."""
    rotation_tolerance: float = 0.1

    def at_home(self, measured: Pose) -> bool:
        """Whether the arm is where every episode starts."""
        near = measured.distance(self.home) <= self.tolerance
        return near and measured.angle(self.home) <= self.rotation_tolerance


def check_homing(homing: Homing, profile: GateProfile) -> None:
    """Raises HomingError where the gate with this profile would refuse the way as a whole: its speed, or its end."""
    for name, value, limit in (
        ("speed", homing.speed, profile.max_speed),
        ("rotation_speed", homing.rotation_speed, profile.max_rotation_speed),
    ):
        if not 0.0 < value < limit:
            raise HomingError(
                f"parameter {name}: {value:g} is not above 0 and below profile {profile.name}'s {limit:g}"
            )
    if not math.isclose(float(np.linalg.norm(homing.home.quaternion)), 1.0, abs_tol=1e-3):
        raise HomingError(f"parameter home_quaternion: {homing.home.quaternion.tolist()} is not of length one")
    x, y, z = homing.home.position.tolist()
    for name, point in (("home_position", (x, y, z)), ("travel_height", (x, y, max(z, homing.travel_height)))):
        if not profile.box.contains(point):
            low, high = list(profile.box.low), list(profile.box.high)
            raise HomingError(
                f"parameter {name}: {list(point)} m is outside profile {profile.name}'s box {low} to {high}"
            )


def way(start: Pose, homing: Homing) -> tuple[Pose, ...]:
    """The points from ``start``, each reached in a straight line: above the start, above home (turned), home.

    Over at the travel height, or at the height of start or home where one is above it."""
    home = homing.home
    height = max(homing.travel_height, float(start.position[2]), float(home.position[2]))
    above_start = Pose(_at_height(start.position, height), start.quaternion)
    return above_start, Pose(_at_height(home.position, height), home.quaternion), home


def _at_height(position: Array, height: float) -> Array:
    return np.array([position[0], position[1], height])


def reached(reference: Pose, point: Pose) -> bool:
    """Whether the target has arrived at a point of the way."""
    return reference.distance(point) <= _NEAR and reference.angle(point) <= _NEAR


def step(reference: Pose, point: Pose, homing: Homing) -> tuple[float, ...]:
    """The action (7,) of one period from ``reference`` (the gate's target) towards ``point``, gripper open.

    Moves and turns by the same part of what is left, so that both end together and the way is straight."""
    apart = point.position - reference.position
    turn = (point.rotation * reference.rotation.inv()).as_rotvec()
    parts = [1.0]
    for left, speed in ((apart, homing.speed), (turn, homing.rotation_speed)):
        length = float(np.linalg.norm(left))
        if length > 0.0:
            parts.append(speed * homing.period / length)
    part = min(parts)
    return (*(part * apart).tolist(), *(part * turn).tolist(), OPEN)


STAY: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, OPEN)
"""A step that goes nowhere: the target stays, the gripper is open."""
