"""The camera the tracker looks through: its calibration file, and the arithmetic between pixels, depth and points.

Pinhole without distortion (images are rectified). Optical frame as in ROS and OpenCV: x right, y down, z forwards;
pixel (0, 0) is the middle of the upper left pixel.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from grape_episode.geometry import Array, Pose
from grape_reward.errors import RewardError

_FORMAT = "grape-camera-1"


class CalibrationError(RewardError):
    """A camera calibration that cannot be used. The text begins with its file or the camera's name."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """``width``, ``height``, focal lengths ``fx``, ``fy`` and principal point ``cx``, ``cy`` in pixels; ``pose``: the
    optical frame in the robot's base frame. Raises CalibrationError naming a number that makes no sense."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    pose: Pose
    camera: str = "camera"

    def __post_init__(self) -> None:
        numbers = np.array([self.width, self.height, self.fx, self.fy, self.cx, self.cy], dtype=float)
        if not np.isfinite(numbers).all() or (numbers[:4] <= 0).any():
            raise CalibrationError(f"{self.camera}: width, height, fx, fy, cx, cy are {numbers.tolist()}")
        length = float(np.linalg.norm(self.pose.quaternion))
        if not np.isfinite(self.pose.position).all() or not abs(length - 1.0) < 1e-3:
            raise CalibrationError(
                f"{self.camera}: pose {self.pose} is not finite or its quaternion no unit quaternion"
            )

    @functools.cached_property
    def rotation(self) -> Array:
        """(3, 3): directions in the optical frame to the base frame."""
        return np.ascontiguousarray(self.pose.rotation.as_matrix())

    @property
    def eye(self) -> Array:
        """Where the camera stands (3,), base frame, metres."""
        return self.pose.position

    def deproject(self, pixels: Array, depth: Array) -> Array:
        """Points (..., 3) in the base frame of pixels (..., 2) (u right, v down) at ``depth`` (...) metres along z."""
        pixels, depth = np.asarray(pixels, dtype=np.float64), np.asarray(depth, dtype=np.float64)
        local = np.empty((*depth.shape, 3))
        local[..., 0] = (pixels[..., 0] - self.cx) / self.fx * depth
        local[..., 1] = (pixels[..., 1] - self.cy) / self.fy * depth
        local[..., 2] = depth
        return local @ self.rotation.T + self.pose.position

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixels (..., 2) and depths (...) metres of points (..., 3) in the base frame. What is not before the camera
        has NaN pixels and its depth, which is not positive."""
        local = (np.asarray(points, dtype=np.float64) - self.pose.position) @ self.rotation
        depth = local[..., 2]
        safe = np.where(depth > 1e-6, depth, np.nan)
        pixels = np.empty((*depth.shape, 2))
        pixels[..., 0] = self.fx * local[..., 0] / safe + self.cx
        pixels[..., 1] = self.fy * local[..., 1] / safe + self.cy
        return pixels, depth

    def cloud(self, depth: NDArray[np.float32]) -> Array:
        """Points (H, W, 3) of a whole depth image (H, W) metres; NaN where it has no depth (0 or not finite)."""
        rows, columns = np.indices(depth.shape)
        known = np.where(depth > 0, depth, np.nan)
        return self.deproject(np.stack([columns, rows], axis=-1), known)

    def described(self) -> dict[str, Any]:
        """What the calibration file holds."""
        return {
            "format": _FORMAT,
            "camera": self.camera,
            "width": self.width,
            "height": self.height,
            "intrinsics": {"fx": self.fx, "fy": self.fy, "cx": self.cx, "cy": self.cy},
            "pose_in_base": {
                "position": [float(x) for x in self.pose.position],
                "quaternion_xyzw": [float(x) for x in self.pose.quaternion],
            },
        }

    def save(self, path: Path) -> str:
        """Write the calibration file; returns its hash."""
        path.write_text(yaml.safe_dump(self.described(), sort_keys=False), encoding="utf-8")
        return calibration_hash(path)


def calibration_hash(path: Path) -> str:
    """sha256 hex of the calibration file's bytes: what an episode's identity names. Raises CalibrationError."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror or error}") from None


def load_calibration(path: Path) -> Calibration:
    """The calibration in a YAML file. Raises CalibrationError naming file and field."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise CalibrationError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise CalibrationError(f"{path}: format: expected {_FORMAT}")
    if any(_numbers(path, data, "distortion")):
        raise CalibrationError(f"{path}: distortion: images must be rectified; calibrate the rectified image instead")
    lens = {key: _number(path, data, "intrinsics", key) for key in ("fx", "fy", "cx", "cy")}
    width, height = (int(_number(path, data, key)) for key in ("width", "height"))
    place = _numbers(path, data, "pose_in_base", "position", count=3)
    turn = _numbers(path, data, "pose_in_base", "quaternion_xyzw", count=4)
    try:
        pose = Pose(np.array(place), np.array(turn))
        return Calibration(width, height, **lens, pose=pose, camera=str(data.get("camera", "camera")))
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None


def _field(path: Path, data: Any, *keys: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(data, dict) or key not in data:
            raise CalibrationError(f"{path}: {'.'.join(keys[: depth + 1])}: missing")
        data = data[key]
    return data


def _number(path: Path, data: Any, *keys: str) -> float:
    value = _field(path, data, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalibrationError(f"{path}: {'.'.join(keys)}: {value!r} is no number")
    return float(value)


def _numbers(path: Path, data: Any, *keys: str, count: int | None = None) -> list[float]:
    """A list of numbers; without ``count`` it may be missing."""
    if count is None and keys[-1] not in data:
        return []
    values = _field(path, data, *keys)
    good = isinstance(values, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if not good or (count is not None and len(values) != count):
        raise CalibrationError(f"{path}: {'.'.join(keys)}: {values!r} are not {count or 'any'} numbers")
    return [float(value) for value in values]
