"""Trajectories to evaluate a cost program on, from an npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from grape_reward.costs import Array
from grape_reward.errors import CostError
from grape_reward.program.compiler import MAX_KEYPOINTS

MAX_BYTES = 1 << 30
SHAPES = {"end_effector": "(T, 3)", "keypoints": "(T, K, 3)"}


def read_inputs(path: Path) -> tuple[Array, Array]:
    """``end_effector`` (T, 3) and ``keypoints`` (T, K, 3), float64, metres, of an npz file; no pickles are read.

    Raises CostError naming the file and the array that is missing or of another shape."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise CostError(f"{path}: {size} bytes of arrays, at most {MAX_BYTES} are read")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in SHAPES if name in file.files}
    except OSError as error:
        raise CostError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CostError(f"{path}: not a readable npz file: {' '.join(str(error).split())}") from None
    for name, shape in SHAPES.items():
        if name not in arrays:
            raise CostError(f"{path}: no array {name} {shape}")
        array = arrays[name]
        if array.dtype.kind not in "fiu" or array.ndim != len(shape.split(",")) or array.shape[-1] != 3:
            raise CostError(f"{path}: {name} is {array.dtype} {array.shape}, expected numbers {shape}")
    end_effector, keypoints = (arrays[name].astype(np.float64) for name in SHAPES)
    if len(end_effector) != len(keypoints):
        raise CostError(f"{path}: {len(end_effector)} instants of end_effector, {len(keypoints)} of keypoints")
    if not 1 <= keypoints.shape[1] <= MAX_KEYPOINTS:
        raise CostError(f"{path}: {keypoints.shape[1]} keypoints, expected 1 to {MAX_KEYPOINTS}")
    return end_effector, keypoints
