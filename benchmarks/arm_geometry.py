"""Arithmetic of poses, boxes and the Franka arm for the gate's checker: its own, so that it errs on its own.

Denavit-Hartenberg parameters after Craig, as Franka publishes them. Poses are arrays (7,): position m, quaternion
x, y, z, w; base frame; radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
_DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
)
FLANGE, TOOL, TOOL_YAW = 0.107, 0.145, -math.pi / 4
"""Metres from joint 7 to the flange and from there to the TCP, and the tool's turn about the approach."""
_CA, _SA = np.cos([alpha for _, _, alpha in _DH]), np.sin([alpha for _, _, alpha in _DH])
_FIXED_BASE = np.eye(4)
_FIXED = np.zeros((len(_DH), 4, 4))
"""What of the seven links' matrices does not depend on the angles."""
for _link, (_a, _d, _), _ca, _sa in zip(_FIXED, _DH, _CA, _SA, strict=True):
    _link[:, 2:] = [[0.0, _a], [-_sa, -_d * _sa], [_ca, _d * _ca], [0.0, 1.0]]
LINKS = (*(f"fr3_link{number}" for number in range(9)), "hand", "tcp")
"""Names of the frames of ``frames_of``."""
_MOUNT = np.eye(4)
_MOUNT[:2, :2] = [[math.cos(TOOL_YAW), -math.sin(TOOL_YAW)], [math.sin(TOOL_YAW), math.cos(TOOL_YAW)]]
SINGULAR = 0.05
"""Least singular value of the Jacobian, m, below which what the arm would do is not foretold."""


def frames_of(joints: Array) -> list[Array]:
    """Base-frame matrices (4, 4) of ``LINKS`` for angles (7,) radians: 0 to 7 turn with the joint of their number, 8 is
    the flange, ``hand`` the gripper's mount."""
    cosine, sine = np.cos(joints), np.sin(joints)
    links = _FIXED.copy()
    links[:, 0, 0], links[:, 0, 1] = cosine, -sine
    links[:, 1, 0], links[:, 1, 1] = sine * _CA, cosine * _CA
    links[:, 2, 0], links[:, 2, 1] = sine * _SA, cosine * _SA
    current = _FIXED_BASE
    frames = [current]
    for link in links:
        current = current @ link
        frames.append(current)
    flange = current.copy()
    flange[:3, 3] += FLANGE * current[:3, 2]
    hand = flange @ _MOUNT
    tool = hand.copy()
    tool[:3, 3] += TOOL * hand[:3, 2]
    return [*frames, flange, hand, tool]


def quaternion_of(matrix: Array) -> Array:
    """Quaternion (4,) of a rotation matrix (3, 3), from the largest of its four squares."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    squares = (1.0 + a - e - i, 1.0 - a + e - i, 1.0 - a - e + i, 1.0 + a + e + i)
    largest = squares.index(max(squares))
    root = math.sqrt(squares[largest])
    parts = (
        (root, (b + d) / root, (c + g) / root, (h - f) / root),
        ((b + d) / root, root, (f + h) / root, (c - g) / root),
        ((c + g) / root, (f + h) / root, root, (d - b) / root),
        ((h - f) / root, (c - g) / root, (d - b) / root, root),
    )[largest]
    return 0.5 * np.array(parts)


def vector_between(start: Array, end: Array) -> Array:
    """Rotation vector (3,) in the base frame from one matrix (3, 3) to another less than half a turn away."""
    matrix = (end @ start.T).tolist()
    axis = (matrix[2][1] - matrix[1][2], matrix[0][2] - matrix[2][0], matrix[1][0] - matrix[0][1])
    sine, cosine = math.hypot(*axis) / 2.0, (matrix[0][0] + matrix[1][1] + matrix[2][2] - 1.0) / 2.0
    return np.array(axis) * (0.5 if sine < 1e-9 else 0.5 * math.atan2(sine, cosine) / sine)


def tcp_of(joints: Array) -> Array:
    """TCP (7,) of angles (7,) radians."""
    return pose_of(frames_of(joints))


def pose_of(frames: list[Array]) -> Array:
    """TCP (7,) of ``frames_of``."""
    tool = frames[-1]
    return np.concatenate([tool[:3, 3], quaternion_of(tool[:3, :3])])


def jacobian_of(frames: list[Array]) -> Array:
    """(6, 7) of the TCP in the base frame."""
    turning = np.array(frames[1 : 1 + len(_DH)])
    axes = turning[:, :3, 2].T
    x, y, z = axes
    a, b, c = (frames[-1][:3, 3] - turning[:, :3, 3]).T
    return np.array([y * c - z * b, z * a - x * c, x * b - y * a, x, y, z])


def angle_between(one: Array, other: Array) -> float:
    """Radians between two quaternions (4,), of any length."""
    a, b = one / np.linalg.norm(one), other / np.linalg.norm(other)
    near, far = sorted((float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b))))
    # by the half-angle's tangent: exact where the arc cosine of a product near one is not
    return 4.0 * math.atan2(near, far)


def box_distance(point: Array, low: Array, high: Array) -> float:
    """Metres from a point to a box; 0 inside."""
    return float(np.linalg.norm(np.maximum(np.maximum(low - point, point - high), 0.0)))


def way_touches(start: Array, end: Array, low: Array, high: Array) -> bool:
    """Whether the straight way comes into the open box: by the overlap of the three intervals of its parameter."""
    first, last = 0.0, 1.0
    for a, b, lo, hi in zip(start, end, low, high, strict=True):
        if abs(b - a) < 1e-15:
            if not lo < a < hi:
                return False
            continue
        t0, t1 = (lo - a) / (b - a), (hi - a) / (b - a)
        first, last = max(first, min(t0, t1)), min(last, max(t0, t1))
    return bool(first < last)


def turned(action: tuple[float, ...], convention: str, share: float) -> Rotation:
    """The rotation of an action, or of a ``share`` of it about the same axis."""
    x, y, z = action[3:6]
    if convention == "euler_xyz":
        whole = Rotation.from_rotvec([0, 0, z]) * Rotation.from_rotvec([0, y, 0]) * Rotation.from_rotvec([x, 0, 0])
    else:
        whole = Rotation.from_rotvec([x, y, z])
    if share == 1.0:
        return whole
    return Rotation.from_rotvec(share * whole.as_rotvec())


def reached(joints: Array, way: Array, rounds: int = 12) -> tuple[Array, bool]:
    """Joints (7,) whose TCP is ``way`` (6,) from that of ``joints``, by Newton steps of least norm; and whether they
    were found with no singularity near."""
    frames = frames_of(joints)
    place = frames[-1][:3, 3] + way[:3]
    turn = Rotation.from_rotvec(way[3:]).as_matrix() @ frames[-1][:3, :3]
    there = joints
    for _ in range(rounds):
        error = np.concatenate([place - frames[-1][:3, 3], vector_between(frames[-1][:3, :3], turn)])
        if float(np.abs(error).max()) < 1e-5:
            return there, True
        matrix = jacobian_of(frames)
        square = matrix @ matrix.T
        if float(np.linalg.eigvalsh(square)[0]) < SINGULAR**2:
            return there, False
        there = there + matrix.T @ np.linalg.solve(square, error)
        frames = frames_of(there)
    return there, False


def placed(spheres: Sequence[tuple[str, Array, float]], joints: Array) -> list[Array]:
    """Centres (3,) in the base frame of spheres (link, centre in its frame, radius)."""
    frames = dict(zip(LINKS, frames_of(joints), strict=True))
    return [frames[link][:3, :3] @ centre + frames[link][:3, 3] for link, centre, _ in spheres]
