"""Kinematics of the Panda with a tool: forward, Jacobian, and inverse by damped least squares.

Own arithmetic instead of the engine's solver: a solution depends on its arguments alone, so that a scene replays bit
for bit. Frames: robot base (x forward, z up) and TCP (between the fingertips, z along the approach). Metres, radians.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose

JOINTS = 7
FLANGE_OFFSET = 0.107
TOOL_OFFSET = 0.145
TOOL_YAW = -math.pi / 4

# Denavit-Hartenberg parameters after Craig, as Franka publishes them: a, d, alpha of each joint.
_DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
)
JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
REST = np.array([0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4])


def _tool() -> Array:
    matrix = np.eye(4)
    matrix[:2, :2] = [
        [math.cos(TOOL_YAW), -math.sin(TOOL_YAW)],
        [math.sin(TOOL_YAW), math.cos(TOOL_YAW)],
    ]
    matrix[2, 3] = FLANGE_OFFSET + TOOL_OFFSET
    return matrix


_TOOL = _tool()


def _frames(joints: Array) -> list[Array]:
    """Base-frame matrices (4, 4) of the seven joints, then the TCP."""
    frames = []
    current = np.eye(4)
    for (a, d, alpha), angle in zip(_DH, joints, strict=True):
        ca, sa, cq, sq = math.cos(alpha), math.sin(alpha), math.cos(angle), math.sin(angle)
        link = np.array(
            [
                [cq, -sq, 0.0, a],
                [sq * ca, cq * ca, -sa, -d * sa],
                [sq * sa, cq * sa, ca, d * ca],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )
        current = current @ link
        frames.append(current)
    frames.append(current @ _TOOL)
    return frames


def forward(joints: Array) -> Pose:
    """TCP pose in the base frame of joint angles (7,) radians."""
    tcp = _frames(joints)[-1]
    return Pose(tcp[:3, 3], Rotation.from_matrix(tcp[:3, :3]).as_quat())


def jacobian(joints: Array) -> Array:
    """Geometric Jacobian (6, 7) of the TCP in the base frame: metres and radians per radian."""
    return _jacobian(_frames(joints))


def _jacobian(frames: list[Array]) -> Array:
    axes = np.array([frame[:3, 2] for frame in frames[:-1]])
    arms = frames[-1][:3, 3] - np.array([frame[:3, 3] for frame in frames[:-1]])
    return np.vstack([np.cross(axes, arms).T, axes.T])


def inverse(
    target: Pose,
    seed: Array,
    iterations: int = 30,
    tolerance: float = 1e-5,
    damping: float = 0.02,
    rest_gain: float = 0.05,
) -> Array:
    """Joint angles (7,) radians whose TCP is nearest to ``target`` (base frame), reached from ``seed``.

    Damped least squares with the redundant degree of freedom drawn to ``REST``; angles stay within the arm's limits.
    A target out of reach gives the nearest pose found, not an error: the arm does what it can.
    """
    joints = np.clip(np.asarray(seed, dtype=np.float64), JOINT_LOW, JOINT_HIGH)
    wanted = target.rotation.as_matrix()
    for _ in range(iterations):
        frames = _frames(joints)
        tcp = frames[-1]
        error = np.concatenate([target.position - tcp[:3, 3], _rotation_vector(wanted @ tcp[:3, :3].T)])
        if np.abs(error).max() < tolerance:
            break
        matrix = _jacobian(frames)
        # The damping fades with the error: stable far away, exact in the end.
        factor = damping * min(1.0, float(np.linalg.norm(error)) / 0.1) ** 2 + 1e-8
        pseudo = matrix.T @ np.linalg.inv(matrix @ matrix.T + factor * np.eye(6))
        step = pseudo @ error + (np.eye(JOINTS) - pseudo @ matrix) @ (rest_gain * (REST - joints))
        joints = np.clip(joints + np.clip(step, -0.2, 0.2), JOINT_LOW, JOINT_HIGH)
    return joints


def _rotation_vector(matrix: Array) -> Array:
    """Rotation vector (3,) radians of a rotation matrix, by its antisymmetric part; exact below pi/2."""
    axis = 0.5 * np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    sine = float(np.linalg.norm(axis))
    cosine = 0.5 * (float(np.trace(matrix)) - 1.0)
    if sine < 1e-12:
        return axis
    return np.asarray(axis * (math.atan2(sine, cosine) / sine))
