"""An arm without hardware for dry runs: it is where the gate's set point is. Pure kinematics, no dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_robot.arm_model import ArmModel

HOME = (0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4)
"""Joints (7,) rad of an arm that stands ready: gripper down, some 30 cm above the middle of the table."""
NEAR = 1e-4
"""Metres and radians within which the set point counts as reached."""
STEPS = 8
"""Of damped least squares a tick: set points are millimetres apart."""


class GhostError(ValueError):
    """Joints that are none; the text names the parameter."""


@dataclass(frozen=True)
class Ghost:
    """``joints`` (7,) radians; ``gripper`` 0 closed to 1 open."""

    joints: tuple[float, ...] = HOME
    gripper: float = 1.0

    @property
    def knuckle(self) -> float:
        """Angle of the gripper's knuckle joint, radians."""
        return topics.KNUCKLE_CLOSED * (1.0 - self.gripper)


def ghost_at(joints: Sequence[float]) -> Ghost:
    """Raises GhostError where ``joints`` are not seven finite angles in radians."""
    if len(joints) != len(HOME) or not all(math.isfinite(angle) for angle in joints):
        raise GhostError(f"parameter joints: seven finite angles in radians are needed, not {list(joints)}")
    return Ghost(tuple(float(angle) for angle in joints))


def follow(model: ArmModel, ghost: Ghost, setpoint: Pose | None, gripper: float) -> tuple[Ghost, Pose]:
    """The arm at ``setpoint`` (TCP, base frame; None: where it is) with its gripper at ``gripper`` (NaN: as it is),
    and its TCP by forward kinematics.

    The nearest posture is taken, by damped least squares; where the set point is out of reach it stays short of it."""
    opening = ghost.gripper if math.isnan(gripper) else min(max(gripper, 0.0), 1.0)
    joints, pose = ghost.joints, model.forward(ghost.joints)
    for _ in range(STEPS if setpoint is not None else 0):
        assert setpoint is not None
        if pose.distance(setpoint) < NEAR and pose.angle(setpoint) < NEAR:
            break
        joints = model.reach(joints, pose, setpoint)
        pose = model.forward(joints)
    return replace(ghost, joints=joints, gripper=opening), pose
