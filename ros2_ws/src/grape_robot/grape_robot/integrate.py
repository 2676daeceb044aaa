"""From the policy's relative action to an absolute target pose. One function, used wherever actions are integrated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose

ROTATIONS = ("euler_xyz", "axis_angle")
"""Conventions of an action's rotation part: roll, pitch, yaw about the fixed x, y, z axes; or a rotation vector."""


class ActionError(ValueError):
    """An action that is no action: its shape or the convention of its rotation is wrong."""


def rotation_delta(values: Sequence[float] | NDArray[np.float64], convention: str) -> Rotation:
    """The rotation behind ``values`` (3,) radians. ``euler_xyz`` is Rz(v2) Ry(v1) Rx(v0).

    Raises ActionError naming an unknown convention."""
    if convention == "euler_xyz":
        return Rotation.from_euler("xyz", values)
    if convention == "axis_angle":
        return Rotation.from_rotvec(values)
    raise ActionError(f"rotation {convention!r}: expected one of {', '.join(ROTATIONS)}")


def anchor(reference: Pose, measured: Pose, gap_metres: float, gap_radians: float) -> Pose:
    """``reference``, or ``measured`` where the two differ by more than either gap (metres; radians)."""
    if reference.distance(measured) > gap_metres or reference.angle(measured) > gap_radians:
        return measured
    return reference


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
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (7,):
        raise ActionError(f"action has shape {values.shape}, expected (7,)")
    start = anchor(reference, measured, gap_metres, gap_radians)
    turned = rotation_delta(values[3:6], rotation) * start.rotation
    return Pose(start.position + values[:3], turned.as_quat())
