"""Poses. Quaternions are (x, y, z, w), as in ROS and SciPy; metres; frames are named by the caller."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


def _identity() -> Array:
    return np.array([0.0, 0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Pose:
    """A rigid transform: ``position`` (3,) metres, ``quaternion`` (4,) x, y, z, w."""

    position: Array
    quaternion: Array = field(default_factory=_identity)

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", np.array(self.position, dtype=np.float64))
        object.__setattr__(self, "quaternion", np.array(self.quaternion, dtype=np.float64))
        if self.position.shape != (3,) or self.quaternion.shape != (4,):
            raise ValueError(
                f"a pose has a position (3,) and a quaternion (4,), "
                f"not {self.position.shape} and {self.quaternion.shape}"
            )

    @property
    def rotation(self) -> Rotation:
        return Rotation.from_quat(self.quaternion)

    def distance(self, other: Pose) -> float:
        """Distance of the two origins, metres."""
        return float(np.linalg.norm(self.position - other.position))

    def angle(self, other: Pose) -> float:
        """Angle of the rotation between the two, radians in [0, pi]."""
        return float((self.rotation.inv() * other.rotation).magnitude())
