"""Which colours are an object's, told from what lay around it at the start."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array
from grape_reward.appearance import Frame, chroma, color_agreement

_BITS = 4
_RING = (4, 16)
_SCALE = np.array([0.03, 0.03, 0.35])


class Palette:
    """A table over coarse RGB of how much rather a colour is the object's than its surroundings', in [-1, 1]."""

    def __init__(self, frame: Frame, mask: NDArray[np.bool_], size: int = 16) -> None:
        region = mask.astype(np.uint8)
        near, far = (cv2.dilate(region, np.ones((2 * width + 1,) * 2, np.uint8)) for width in _RING)
        own = _typical(chroma(frame.smooth[cv2.erode(region, np.ones((3, 3), np.uint8)) > 0].astype(float)), size)
        around = _typical(chroma(frame.smooth[(far > 0) & (near == 0)].astype(float)), size)
        levels = (np.arange(1 << _BITS) + 0.5) * (256 >> _BITS)
        cells = chroma(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3))
        self._table = _best(cells, own) - _best(cells, around)

    def __call__(self, color: NDArray[np.uint8]) -> Array:
        """(...) in [-1, 1] of colours (..., 3) uint8 RGB."""
        cell = (color >> (8 - _BITS)).astype(np.intp)
        return np.asarray(self._table[(cell[..., 0] << 2 * _BITS) | (cell[..., 1] << _BITS) | cell[..., 2]])


def _best(cells: Array, colors: Array) -> Array:
    if not len(colors):
        return np.zeros(len(cells))
    best = color_agreement(cells, colors[0])
    for color in colors[1:]:
        best = np.maximum(best, color_agreement(cells, color))
    return best


def _typical(colors: Array, count: int) -> Array:
    """Up to ``count`` of the colours (N, 3), far from each other, none of them alone."""
    if not len(colors):
        return colors
    sample = colors[:: max(1, len(colors) // 250)]
    scaled = sample / _SCALE
    # A colour that few pixels share is an edge's mixture: the eighth nearest of its kind must be near.
    crowd = np.sort(np.linalg.norm(scaled[:, None] - scaled[None], axis=2), axis=1)[:, min(8, len(sample) - 1)]
    sample, scaled = (
        sample[crowd <= max(0.7, float(np.median(crowd)))],
        scaled[crowd <= max(0.7, float(np.median(crowd)))],
    )
    chosen = [int(np.argmin(np.linalg.norm(scaled - np.median(scaled, axis=0), axis=1)))]
    distance = np.full(len(scaled), np.inf)
    while len(chosen) < min(count, len(scaled)):
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return np.asarray(sample[chosen])
