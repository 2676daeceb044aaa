"""Non-maximum suppression of boxes, in NumPy: torchvision's does not load beside a CPU build of torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array


def intersection_over_union(box: Array, boxes: Array) -> Array:
    """(N,) of a box (4,) with boxes (N, 4), each (left, top, right, bottom); 0 for boxes without area."""
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = _area(box[None]) + _area(boxes) - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)


def suppress(boxes: Array, scores: Array, threshold: float) -> NDArray[np.intp]:
    """Indices of the boxes (N, 4) that stay, best score (N,) first: greedily, each removes the later ones that overlap
    it by more than ``threshold``. Of equal scores the earlier box wins."""
    boxes, scores = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(scores, dtype=np.float64)
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = rest[intersection_over_union(boxes[best], boxes[rest]) <= threshold]
    return np.array(kept, dtype=np.intp)


def _area(boxes: Array) -> Array:
    area: Array = np.maximum(boxes[:, 2] - boxes[:, 0], 0.0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0.0)
    return area
