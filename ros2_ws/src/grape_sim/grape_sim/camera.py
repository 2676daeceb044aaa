"""The fixed camera: where it stands, what it sees, and the arithmetic between points and pixels.

Optical frame as in ROS and OpenCV: x right, y down, z forwards; pixel (0, 0) is the middle of the upper left pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pybullet as pb
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class CameraConfig:
    """``eye`` and ``look_at`` in the base frame, metres; ``fov`` vertical, degrees; near and far planes, metres."""

    eye: Vector = (1.04, -0.34, 0.62)
    look_at: Vector = (0.43, 0.005, 0.085)
    fov: float = 43.0
    near: float = 0.1
    far: float = 3.0
    light_from: Vector = (0.6, -0.9, 1.6)
    shadows: bool = False


@dataclass(frozen=True)
class Light:
    """``direction`` in the base frame that the light comes from, None: the camera's ``light_from``; ``colour`` RGB in
    [0, 1]; ``ambient`` and ``diffuse``: shares of the light that is everywhere and that comes from there."""

    direction: Vector | None = None
    colour: Vector = (1.0, 1.0, 1.0)
    ambient: float = 0.62
    diffuse: float = 0.42


@dataclass(frozen=True, eq=False)
class View:
    """One look through the camera: ``color`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32 metres along the optical
    axis (0 where nothing is), ``labels`` (H, W) int32: whose pixel it is, -1 where nobody's."""

    color: NDArray[np.uint8]
    depth: NDArray[np.float32]
    labels: NDArray[np.int32]


class Camera:
    """Renders one physics client with the software renderer (no window, no GPU), in ``light``."""

    def __init__(self, client: int, config: CameraConfig) -> None:
        self._client = client
        self.config = config
        self.light = Light()
        self._view = pb.computeViewMatrix(config.eye, config.look_at, (0.0, 0.0, 1.0))

    def pose(self) -> Pose:
        """Pose of the optical frame in the base frame."""
        eye, look_at = np.array(self.config.eye), np.array(self.config.look_at)
        forwards = (look_at - eye) / np.linalg.norm(look_at - eye)
        right = np.cross(forwards, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        matrix = np.stack([right, np.cross(forwards, right), forwards], axis=1)
        return Pose(eye, Rotation.from_matrix(matrix).as_quat())

    def intrinsics(self, width: int, height: int) -> Array:
        """Camera matrix (3, 3) in pixels of an image of this size."""
        focal = 0.5 * height / math.tan(math.radians(self.config.fov) / 2)
        return np.array([[focal, 0.0, 0.5 * (width - 1)], [0.0, focal, 0.5 * (height - 1)], [0.0, 0.0, 1.0]])

    def project(self, points: Array, width: int, height: int) -> Array:
        """Pixels (N, 2) (u right, v down) of points (N, 3) in the base frame."""
        pose = self.pose()
        local = pose.rotation.inv().apply(np.atleast_2d(points) - pose.position)
        pixels = local @ self.intrinsics(width, height).T
        return np.asarray(pixels[:, :2] / pixels[:, 2:])

    def render(
        self, width: int, height: int, depth: bool = False, shadows: bool | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Colour (H, W, 3) uint8 RGB and, if asked for, depth (H, W) float32 metres along the optical axis.

        Where nothing is seen the depth is 0, as from a depth camera.
        """
        image, buffer, _ = self._shoot(width, height, shadows, pb.ER_NO_SEGMENTATION_MASK)
        return image, self._metres(buffer) if depth else None

    def view(self, width: int, height: int) -> View:
        """Colour, depth and segmentation from one rendering; ``labels`` are body ids of the physics client."""
        image, buffer, labels = self._shoot(width, height, None, 0)
        return View(image, self._metres(buffer), np.array(labels, dtype=np.int32).reshape(height, width))

    def _shoot(self, width: int, height: int, shadows: bool | None, flags: int) -> tuple[NDArray[np.uint8], Array, Any]:
        """Colour, the depth buffer (H, W) in [0, 1], and what the renderer says of segmentation."""
        config, light = self.config, self.light
        projection = pb.computeProjectionMatrixFOV(config.fov, width / height, config.near, config.far)
        _, _, colour, buffer, labels = pb.getCameraImage(
            width,
            height,
            self._view,
            projection,
            lightDirection=light.direction or config.light_from,
            lightColor=light.colour,
            lightDistance=3.0,
            shadow=int(config.shadows if shadows is None else shadows),
            lightAmbientCoeff=light.ambient,
            lightDiffuseCoeff=light.diffuse,
            lightSpecularCoeff=0.04,
            renderer=pb.ER_TINY_RENDERER,
            flags=flags,
            physicsClientId=self._client,
        )
        image = np.ascontiguousarray(np.asarray(colour, dtype=np.uint8).reshape(height, width, 4)[..., :3])
        return image, np.asarray(buffer, dtype=np.float64).reshape(height, width), labels

    def _metres(self, buffer: Array) -> NDArray[np.float32]:
        config = self.config
        metres = config.far * config.near / (config.far - (config.far - config.near) * buffer)
        metres[metres > 0.999 * config.far] = 0.0
        return metres.astype(np.float32)
