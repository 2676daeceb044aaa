"""RGB-D images of textured boxes on a table, by ray casting in NumPy: scenes whose every motion is known, for tests."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_reward.camera import Calibration

_TABLE = (205.0, 190.0, 165.0)
_CELLS = 6


@dataclass(frozen=True, eq=False)
class Box:
    """``size`` (3,) metres along its axes, ``pose`` of its middle in the base frame, mean ``color`` RGB in [0, 255] of
    its chequered faces; ``contrast`` in [0, 1]: 0 for plain faces; ``seed`` of the pattern."""

    size: tuple[float, float, float]
    pose: Pose
    color: tuple[float, float, float]
    contrast: float = 0.35
    seed: int = 0
    pattern: Array = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        light = rng.uniform(-1.0, 1.0, (6, _CELLS, _CELLS, 1))
        tint = rng.uniform(-0.3, 0.3, (6, _CELLS, _CELLS, 3))
        object.__setattr__(self, "pattern", light + tint)

    def moved(self, pose: Pose) -> Box:
        """The same box elsewhere."""
        return Box(self.size, pose, self.color, self.contrast, self.seed)


def lab_camera(width: int = 320, height: int = 240) -> Calibration:
    """A camera 0.8 m from the middle of the table, (0.45, 0, 0), looking down at it."""
    eye, look_at = np.array([1.0, -0.25, 0.55]), np.array([0.45, 0.0, 0.03])
    forwards = (look_at - eye) / np.linalg.norm(look_at - eye)
    right = np.cross(forwards, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forwards, right), forwards], axis=1)
    pose = Pose(eye, Rotation.from_matrix(rotation).as_quat())
    return Calibration(
        width, height, 0.95 * width, 0.95 * width, 0.5 * (width - 1), 0.5 * (height - 1), pose, "raycast"
    )


def raycast(
    calibration: Calibration, boxes: Sequence[Box]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
    """Colour (H, W, 3) uint8 RGB, depth (H, W) float32 metres along the optical axis, and labels (H, W): the index of
    the box that is seen, -1 for the table, which is the plane z = 0."""
    rays, depth, color = (values.copy() for values in _table(calibration))
    labels = np.full(depth.shape, -1, dtype=np.int32)
    for index, box in enumerate(boxes):
        area = _window(calibration, box)
        near, shade = _hit(calibration.eye, rays[area], box)
        seen = near < depth[area]
        depth[area] = np.where(seen, near, depth[area])
        color[area] = np.where(seen[..., None], shade, color[area])
        labels[area] = np.where(seen, index, labels[area])
    return np.clip(np.rint(color), 0, 255).astype(np.uint8), depth.astype(np.float32), labels


@functools.lru_cache(maxsize=2)
def _table(calibration: Calibration) -> tuple[Array, Array, Array]:
    """Rays (H, W, 3) along which the parameter is the depth, and depth (H, W) and colour (H, W, 3) of the table."""
    height, width = calibration.height, calibration.width
    rows, columns = np.indices((height, width))
    rays = calibration.deproject(np.stack([columns, rows], axis=-1).astype(float), np.ones((height, width)))
    rays -= calibration.eye
    depth = np.where(rays[..., 2] < -1e-9, calibration.eye[2] / -np.minimum(rays[..., 2], -1e-9), np.inf)
    spot = calibration.eye + depth[..., None] * rays
    grain = 1.0 + 0.03 * np.sin(70.0 * spot[..., 0] + 23.0 * spot[..., 1])
    return rays, depth, np.array(_TABLE) * grain[..., None]


def _window(calibration: Calibration, box: Box) -> tuple[slice, slice]:
    """The part of the image that the box can be in."""
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * box.size
    pixels, depth = calibration.project(box.pose.rotation.apply(corners) + box.pose.position)
    if (depth <= 0.01).any():
        return slice(None), slice(None)
    low = np.floor(pixels.min(axis=0)).astype(int).clip(0)
    high = np.ceil(pixels.max(axis=0)).astype(int).clip(-1) + 1
    return slice(low[1], high[1]), slice(low[0], high[0])


def _hit(eye: Array, rays: Array, box: Box) -> tuple[Array, Array]:
    """Depth (H, W), infinite beside the box, and colour (H, W, 3) where each ray enters it; the slab method."""
    rotation = box.pose.rotation.as_matrix()
    origin = (eye - box.pose.position) @ rotation
    local = rays @ rotation
    local = np.where(np.abs(local) < 1e-12, 1e-12, local)
    half = 0.5 * np.array(box.size)
    first, second = (-half - origin) / local, (half - origin) / local
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    near = enter.max(axis=2)
    axis = enter.argmax(axis=2)
    hit = (near < leave.min(axis=2)) & (near > 0)
    point = (origin + near[..., None] * local) / half
    along = np.take_along_axis(point, axis[..., None], axis=2)[..., 0]
    face = 2 * axis + (along > 0)
    cell = np.clip(((point + 1.0) * 0.5 * _CELLS).astype(int), 0, _CELLS - 1)
    i = np.take_along_axis(cell, ((axis + 1) % 3)[..., None], axis=2)[..., 0]
    j = np.take_along_axis(cell, ((axis + 2) % 3)[..., None], axis=2)[..., 0]
    light = np.array([0.85, 0.95, 1.0])[axis]
    shade = np.array(box.color) * (1.0 + box.contrast * box.pattern[face, i, j]) * light[..., None]
    return np.where(hit, near, np.inf), shade
