"""Feature points from one image to the next: pyramidal Lucas-Kanade with a check backwards."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array


@dataclass(frozen=True)
class FlowSettings:
    """``window`` pixels and ``levels`` of the pyramid above the first; ``back`` pixels: how far from its start a point
    may come back; ``hold``: least eigenvalue of the gradient matrix per pixel, below which there is nothing to hold on
    to."""

    window: int = 13
    levels: int = 3
    back: float = 0.7
    hold: float = 2e-4


def follow(
    before: NDArray[np.uint8],
    now: NDArray[np.uint8],
    pixels: Array,
    guess: Array,
    settings: FlowSettings | None = None,
) -> tuple[Array, NDArray[np.bool_]]:
    """Where the points at ``pixels`` (N, 2) of image ``before`` (H, W) are in ``now``, searched from ``guess`` (N, 2);
    and which of them were found and lead back (N,) bool. Bouguet's pyramidal tracker; Kalal et al. (2010)."""
    settings = settings or FlowSettings()
    if len(pixels) == 0:
        return np.zeros((0, 2)), np.zeros(0, dtype=bool)
    start = np.ascontiguousarray(pixels, dtype=np.float32).reshape(-1, 1, 2)
    first = np.ascontiguousarray(guess, dtype=np.float32).reshape(-1, 1, 2)
    options = {
        "winSize": (settings.window, settings.window),
        "maxLevel": settings.levels,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
        "minEigThreshold": settings.hold,
    }
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, start, first.copy(), **options)  # type: ignore[call-overload]
    # Backwards from the point found, shifted by the guess's way, not from the start: that would be its own proof.
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, there, there - (first - start), **options)  # type: ignore[call-overload]
    away = np.abs(back - start).reshape(-1, 2).max(axis=1)
    height, width = now.shape
    ends = there.reshape(-1, 2).astype(np.float64)
    inside = ((ends >= 0) & (ends <= (width - 1, height - 1))).all(axis=1)
    good = (found.reshape(-1) == 1) & (again.reshape(-1) == 1) & (away < settings.back) & inside
    return ends, good
