"""From the policy's relative action to an absolute target pose. One function, used wherever actions are integrated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_robot import quaternions
from grape_robot.quaternions import Quaternion

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


def apart(a: Pose, b: Pose) -> tuple[float, float]:
    """Distance (metres) and angle (radians, in [0, pi]) between two poses; quaternions of any length above zero."""
    p, q = quaternions.normalised(a.quaternion.tolist()), quaternions.normalised(b.quaternion.tolist())
    return math.dist(a.position.tolist(), b.position.tolist()), quaternions.angle(p, q)


def anchor(reference: Pose, measured: Pose, gap_metres: float, gap_radians: float) -> Pose:
    """``reference``, or ``measured`` where the two differ by more than either gap (metres; radians)."""
    distance, angle = apart(reference, measured)
    return measured if distance > gap_metres or angle > gap_radians else reference


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
    p' = p + t, R' = dR R. The reference is re-anchored first (see ``anchor``).

    Raises ActionError for an action of another shape or an unknown convention."""
    return moved(anchor(reference, measured, gap_metres, gap_radians), action, rotation)


def moved(start: Pose, action: Sequence[float] | NDArray[np.float64], rotation: str) -> Pose:
    """``integrate`` from a reference that is anchored already."""
    shape = action.shape if isinstance(action, np.ndarray) else (len(action),)
    if shape != (7,):
        raise ActionError(f"action has shape {shape}, expected (7,)")
    x, y, z = start.position.tolist()
    turn = rotation_quaternion([float(value) for value in action[3:6]], rotation)
    turned = quaternions.product(turn, quaternions.normalised(start.quaternion.tolist()))
    return Pose(
        np.array((x + float(action[0]), y + float(action[1]), z + float(action[2]))),
        np.array(quaternions.normalised(turned)),
    )
