"""Starts near a limit: joint angles with a joint near its end, or the TCP near the side of the gate's workspace.

Pure functions of a random generator, so that an initial state's start is the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np

from grape_episode.geometry import Array, Pose
from grape_sim import kinematics
from grape_sim.robot import HOME_TCP

WORKSPACE_LOW = (0.20, -0.40, 0.004)
WORKSPACE_HIGH = (0.75, 0.40, 0.50)
"""Box of the gate's profile ``sim`` (metres, base frame), near whose faces a start of variant ``near_edge`` lies."""
JOINT_GAP = (0.15, 0.40)
"""A joint's distance to its limit, radians: more than the 0.1 rad at which the gate refuses, less than two steps."""
EDGE_GAP = (0.005, 0.03)
"""Distance of the TCP to a face of the workspace, metres."""
_EDGES = ("left", "right", "far", "top")


def near_limit(rng: np.random.Generator) -> Array:
    """Joint angles (7,) radians with the wrist or the elbow near its limit, the gripper pointing down.

    The wrist (joint 7) is turned half round, which a gripper of two fingers does not show; or the elbow (joint 4) is
    folded, with the TCP close to the base."""
    if rng.random() < 0.5:
        joints = kinematics.inverse(HOME_TCP, kinematics.REST, iterations=200).copy()
        joints[6] = kinematics.JOINT_LOW[6] + rng.uniform(*JOINT_GAP)
        return joints
    # further in or down the elbow would be at its limit
    x, z = rng.uniform(0.28, 0.31), rng.uniform(0.23, 0.28)
    return _above(x, rng.uniform(-0.05, 0.05), z)


def near_edge(rng: np.random.Generator) -> Array:
    """Joint angles (7,) radians with the TCP near a face of the workspace, the gripper pointing down."""
    gap = rng.uniform(*EDGE_GAP)
    edge = _EDGES[int(rng.integers(len(_EDGES)))]
    x, y, z = rng.uniform(0.40, 0.60), rng.uniform(-0.15, 0.15), rng.uniform(0.18, 0.30)
    if edge == "left":
        y = WORKSPACE_HIGH[1] - gap
    elif edge == "right":
        y = WORKSPACE_LOW[1] + gap
    elif edge == "far":
        x = WORKSPACE_HIGH[0] - gap
    else:
        z = WORKSPACE_HIGH[2] - gap
    return _above(x, y, z)


def limit_distance(joints: Array) -> float:
    """Least distance of a joint (7,) to its limit, radians."""
    return float(np.minimum(joints - kinematics.JOINT_LOW, kinematics.JOINT_HIGH - joints).min())


def edge_distance(point: Array) -> float:
    """Distance of a point (3,) within the workspace to its nearest side or top face, metres."""
    sides = [*(point[:2] - WORKSPACE_LOW[:2]), *(np.asarray(WORKSPACE_HIGH) - point)]
    return float(min(sides)) if min(sides) >= 0 else -math.inf


def _above(x: float, y: float, z: float) -> Array:
    return kinematics.inverse(Pose(np.array([x, y, z]), HOME_TCP.quaternion), kinematics.REST, iterations=300)
