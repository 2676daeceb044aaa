"""Features of every pixel, by which a thing is divided into parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array
from grape_reward.keypoints.masks import Color
from grape_reward.keypoints.surface import normals


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """``grid`` (h, w, F): features of patches that cover an image of ``height`` x ``width`` pixels evenly."""

    grid: NDArray[np.float32]
    height: int
    width: int

    def at(self, pixels: NDArray[np.integer]) -> Array:
        """(N, F) at pixels (N, 2), u right, v down: bilinear between the patches' middles, flat beyond the outer ones.

        The same numbers as upsampling the grid to the image, without the gigabyte that this takes at 384 features."""
        rows, columns = self.grid.shape[:2]
        v, low_v, high_v = _between(pixels[:, 1], rows / self.height, rows)
        u, low_u, high_u = _between(pixels[:, 0], columns / self.width, columns)
        upper = (1 - u) * self.grid[low_v, low_u] + u * self.grid[low_v, high_u]
        lower = (1 - u) * self.grid[high_v, low_u] + u * self.grid[high_v, high_u]
        mixed: Array = (1 - v) * upper + v * lower
        return mixed


def _between(pixels: NDArray[np.integer], scale: float, count: int) -> tuple[Array, NDArray[np.intp], NDArray[np.intp]]:
    """Weight (N, 1) of the higher one, and the indices of the lower and the higher patch."""
    where = np.clip((pixels + 0.5) * scale - 0.5, 0.0, count - 1.0)
    low = np.floor(where).astype(np.intp)
    return (where - low)[:, None], low, np.minimum(low + 1, count - 1)


class Features(Protocol):
    """Where features come from."""

    @property
    def described(self) -> str:
        """The features in a word or two, for the result."""
        ...

    def __call__(self, color: Color, cloud: Array) -> FeatureMap:
        """Features of an image (H, W, 3) uint8 RGB with points (H, W, 3) metres, NaN where there is no depth."""
        ...


class GeometryFeatures:
    """Colour and surface direction, for where there are no weights of DINOv2: L, a, b of the smoothed image, each over
    100, and the surface's normal in the base frame (0 where depth is missing)."""

    described = "geometry"

    def __call__(self, color: Color, cloud: Array) -> FeatureMap:
        smooth = cv2.GaussianBlur(color, (0, 0), 2.0).astype(np.float32) / 255.0
        lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB) / 100.0
        grid = np.concatenate([lab, normals(cloud)], axis=-1).astype(np.float32)
        return FeatureMap(grid, *color.shape[:2])
