"""From the policy's relative action to an absolute target pose. One function, used wherever actions are integrated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_robot import quaternions
from grape_robot.quaternions import Quaternion, Vector

Placed = tuple[Vector, Quaternion]
"""A pose in plain floats: position in metres, quaternion of length one."""

ROTATIONS = ("euler_xyz", "axis_angle")
"""Conventions of an action's rotation part: roll, pitch, yaw about the fixed x, y, z axes; or a rotation vector."""


class ActionError(ValueError):
    """An action that is no action: its shape or the convention of its rotation is wrong."""


def rotation_quaternion(values: Sequence[float], convention: str) -> Quaternion:
    """The rotation behind ``values`` (3,) radians. ``euler_xyz`` is Rz(v2) Ry(v1) Rx(v0).

    Raises ActionError naming an unknown convention."""
    if convention == "euler_xyz":
        return quaternions.from_euler(*values)
    if convention == "axis_angle":
        return quaternions.from_vector(values)
    raise ActionError(f"rotation {convention!r}: expected one of {', '.join(ROTATIONS)}")


def rotation_delta(values: Sequence[float] | NDArray[np.float64], convention: str) -> Rotation:
    """The same as SciPy's Rotation. Raises ActionError naming an unknown convention."""
    return Rotation.from_quat(rotation_quaternion([float(value) for value in values], convention))


def placed(pose: Pose) -> Placed:
    """``pose`` in plain floats, its quaternion of length one."""
    x, y, z = pose.position.tolist()
    return (x, y, z), quaternions.normalised(pose.quaternion.tolist())


def apart(a: Placed, b: Placed) -> tuple[float, float]:
    """Distance (metres) and angle (radians, in [0, pi]) between two poses."""
    return math.dist(a[0], b[0]), quaternions.angle(a[1], b[1])


def anchored(reference: Placed, measured: Placed, gap_metres: float, gap_radians: float) -> Placed:
    """``reference``, or ``measured`` where the two differ by more than either gap (metres; radians)."""
    if math.dist(reference[0], measured[0]) > gap_metres or quaternions.angle(reference[1], measured[1]) > gap_radians:
        return measured
    return reference


def displaced(start: Placed, action: Sequence[float], rotation: str) -> Placed:
    """``integrate`` in plain floats, from a reference that is anchored already. Raises ActionError."""
    if len(action) != 7:
        raise ActionError(f"action has shape ({len(action)},), expected (7,)")
    (x, y, z), turned = start
    dx, dy, dz = action[:3]
    turned = quaternions.product(rotation_quaternion(action[3:6], rotation), turned)
    return (x + dx, y + dy, z + dz), quaternions.normalised(turned)


def integrate(
    reference: Pose,
    measured: Pose,
    action: Sequence[float] | NDArray[np.float64],
    rotation: str,
    gap_metres: float,
    gap_radians: float,
) -> Pose:
    """The new target of the TCP in the robot's base frame.

    ``reference`` is the last accepted target, ``measured`` the TCP, both in the base frame. ``action`` (7,) is
    translation (metres, base frame), rotation (radians, by the convention ``rotation``) and gripper (unused here).
    The translation is added; the rotation is applied about the base frame's axes (left multiplication):
    p' = p + t, R' = dR R. The reference is re-anchored first: it is the measured pose where the two differ by more than
    either gap (metres; radians).

    Raises ActionError for an action of another shape or an unknown convention."""
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (7,):
        raise ActionError(f"action has shape {values.shape}, expected (7,)")
    start = anchored(placed(reference), placed(measured), gap_metres, gap_radians)
    place, turned = displaced(start, values.tolist(), rotation)
    return Pose(np.array(place), np.array(turned))
