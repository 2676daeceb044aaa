"""One RGB-D frame from files: colour PNG or JPEG, depth PNG (16 bits, millimetres) or NPZ (metres)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from grape_reward.camera import Calibration
from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.masks import Color

# 16UC1, as depth cameras publish it in ROS.
_MILLIMETRE = 0.001


@dataclass(frozen=True, eq=False)
class RgbdFrame:
    """``color`` (H, W, 3) uint8 RGB; ``depth`` (H, W) float32 metres along the optical axis, 0 where unknown."""

    color: Color
    depth: NDArray[np.float32]


def check_frame(frame: RgbdFrame, calibration: Calibration, color: str = "colour", depth: str = "depth") -> RgbdFrame:
    """The frame itself, its unknown depth made 0. ``color`` and ``depth`` name them in messages. Raises KeypointsError
    where a size is not the calibration's, or no pixel has depth."""
    wanted = (calibration.height, calibration.width)
    for name, shape in ((color, frame.color.shape[:2]), (depth, frame.depth.shape)):
        if tuple(shape) != wanted:
            seen = "x".join(str(side) for side in reversed(shape))
            raise KeypointsError(
                f"{name}: {seen} pixels, the calibration of {calibration.camera} is for {wanted[1]}x{wanted[0]}"
            )
    known = np.where(np.isfinite(frame.depth) & (frame.depth > 0), frame.depth, 0).astype(np.float32)
    if not known.any():
        raise KeypointsError(f"{depth}: no pixel has depth")
    return RgbdFrame(frame.color, known)


def read_frame(color: Path, depth: Path, calibration: Calibration) -> RgbdFrame:
    """Raises KeypointsError naming the file."""
    return check_frame(RgbdFrame(read_color(color), read_depth(depth)), calibration, str(color), str(depth))


def read_color(path: Path) -> Color:
    """(H, W, 3) uint8 RGB. Raises KeypointsError naming the file."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise KeypointsError(f"{path}: no image: {getattr(error, 'strerror', None) or error}") from None


def read_depth(path: Path) -> NDArray[np.float32]:
    """(H, W) float32 metres: a 16-bit PNG holds millimetres; an NPZ an array ``depth``, or a single one, in metres,
    or in millimetres where it holds integers. Raises KeypointsError naming the file."""
    values = _archived(path) if path.suffix == ".npz" else _pictured(path)
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise KeypointsError(f"{path}: depth {values.shape} of {values.dtype}: expected one number a pixel")
    scale = _MILLIMETRE if np.issubdtype(values.dtype, np.integer) else 1.0
    return np.asarray(values.astype(np.float64) * scale, dtype=np.float32)


def _pictured(path: Path) -> NDArray[np.generic]:
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in {"I", "I;16", "I;16B"}:
                raise KeypointsError(f"{path}: mode {image.mode}: a depth image has 16 bits and one channel")
            return np.asarray(image).astype(np.int32)
    except (OSError, UnidentifiedImageError) as error:
        raise KeypointsError(f"{path}: no depth image: {getattr(error, 'strerror', None) or error}") from None


def _archived(path: Path) -> NDArray[np.generic]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = "depth" if "depth" in arrays.files else arrays.files[0] if len(arrays.files) == 1 else ""
            if not name:
                raise KeypointsError(f"{path}: depth: missing; found {', '.join(arrays.files) or 'nothing'}")
            return np.asarray(arrays[name])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise KeypointsError(f"{path}: no depth: {getattr(error, 'strerror', None) or error}") from None
