"""The surface that a depth image shows: which of its pixels can be believed, where they face, how large they are."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array
from grape_reward.camera import Calibration
from grape_reward.keypoints.masks import Region

_WINDOW = 5
# A surface seen edge on would count without bound, and the normals of a depth camera are not that good.
_LEAST_COSINE = 0.2
_USUAL_COSINE = 0.7


@dataclass(frozen=True, eq=False)
class Surface:
    """What a depth image shows: ``cloud`` (H, W, 3) metres, base frame, NaN where there is no depth; ``areas`` (H, W)
    square metres that each pixel shows."""

    cloud: Array
    areas: Array

    @staticmethod
    def of(depth: NDArray[np.float32], calibration: Calibration) -> Surface:
        """Of depth (H, W) metres along the optical axis."""
        cloud = calibration.cloud(depth)
        return Surface(cloud, areas(cloud, calibration))


def solid(region: Region, cloud: Array, flying: float) -> Region:
    """The pixels (H, W) of a mask whose depth can be believed: known, and nearer than ``flying`` metres to the mean of
    their neighbours in the mask (a window of 5 pixels); all known ones where none is. ``cloud`` (H, W, 3) metres, NaN
    where there is no depth."""
    around = _around(region)
    believed = np.zeros_like(region)
    believed[around] = _believed(region[around], cloud[around], flying)
    return believed


def _around(region: Region) -> tuple[slice, slice]:
    """The region's rows and columns, with a window's margin: most things fill a small part of an image."""
    margin = _WINDOW // 2
    found = [np.flatnonzero(region.any(axis=axis)) for axis in (1, 0)]
    if not len(found[0]):
        return slice(0, 0), slice(0, 0)
    rows, columns = (slice(max(0, int(some[0]) - margin), int(some[-1]) + margin + 1) for some in found)
    return rows, columns


def _believed(region: Region, cloud: Array, flying: float) -> Region:
    known = np.asarray(region & np.isfinite(cloud[..., 2]))
    if not known.any():
        return known
    weight = cv2.blur(known.astype(np.float64), (_WINDOW, _WINDOW))
    points = np.where(known[..., None], cloud, 0.0)
    mean = cv2.blur(points, (_WINDOW, _WINDOW)) / np.maximum(weight, 1e-9)[..., None]
    believed = np.asarray(known & (np.linalg.norm(points - mean, axis=-1) <= flying))
    return believed if believed.any() else known


def areas(cloud: Array, calibration: Calibration) -> Array:
    """Square metres of surface that each pixel (H, W) shows: depth squared over both focal lengths and the cosine
    between the pixel's ray and the surface's normal. 0 where there is no depth. A mean weighted so is the surface's
    centroid; a plain mean over pixels would lean towards what is near and faces the camera."""
    ray = cloud - calibration.eye
    depth = ray @ calibration.rotation[:, 2]
    with np.errstate(invalid="ignore"):
        cosine = np.abs(np.sum(normals(cloud) * ray, axis=-1)) / np.linalg.norm(ray, axis=-1)
        cosine = np.where(cosine > 0, np.maximum(cosine, _LEAST_COSINE), _USUAL_COSINE)
    # The ray's own slope against the optical axis is part of the pixel's solid angle.
    slope = depth / np.linalg.norm(ray, axis=-1)
    return np.nan_to_num(depth**2 * slope / cosine) / (calibration.fx * calibration.fy)


def normals(cloud: Array, reach: int = 2) -> Array:
    """Unit normals (H, W, 3) of points (H, W, 3): from the neighbours ``reach`` pixels away on four sides; 0 where one
    of them is missing. They point to the side the camera is on (u right, v down)."""
    padded = np.pad(cloud, ((reach, reach), (reach, reach), (0, 0)), constant_values=np.nan)
    middle = slice(reach, -reach)
    along_u = padded[middle, 2 * reach :] - padded[middle, : -2 * reach]
    along_v = padded[2 * reach :, middle] - padded[: -2 * reach, middle]
    across = np.cross(along_v, along_u)
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    found: Array = np.divide(across, length, out=np.zeros_like(across), where=length > 0)
    return np.nan_to_num(found)
