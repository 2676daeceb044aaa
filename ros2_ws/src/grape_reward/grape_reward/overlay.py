"""Numbered keypoints drawn into a camera image, for a person's eyes and for a vision-language model's."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array
from grape_reward.camera import Calibration
from grape_reward.tracking import KNOWN, Tracked

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (230, 25, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (60, 180, 75),
    (0, 128, 128),
    (170, 110, 40),
    (128, 0, 0),
)
_UNKNOWN: Colour = (120, 120, 120)
_WHITE: Colour = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def numbered(
    color: NDArray[np.uint8],
    pixels: Array,
    labels: Sequence[str] | None = None,
    known: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """A copy of ``color`` (H, W, 3) uint8 RGB with a numbered disc at each of ``pixels`` (K, 2) (u right, v down); what
    lies outside the image or is not finite is left out. ``labels``: K texts beside the discs; ``known`` (K,): where
    false, the disc is a grey ring with a question mark."""
    image = np.ascontiguousarray(color.copy())
    height, width = image.shape[:2]
    scale = max(0.35, height / 1000)
    radius = max(6, round(0.019 * height))
    for index, (u, v) in enumerate(np.asarray(pixels, dtype=np.float64)):
        if not (np.isfinite([u, v]).all() and 0 <= u < width and 0 <= v < height):
            continue
        sure = known is None or bool(known[index])
        at = (round(u), round(v))
        colour = COLOURS[index % len(COLOURS)] if sure else _UNKNOWN
        cv2.circle(image, at, radius, colour if sure else _WHITE, -1, cv2.LINE_AA)
        cv2.circle(image, at, radius, _WHITE if sure else colour, 1, cv2.LINE_AA)
        _text(image, str(index), at, scale, _WHITE if sure else colour, None)
        if labels is not None:
            text = labels[index] if sure else f"{labels[index]} ?"
            size = cv2.getTextSize(text, _FONT, scale, 1)[0]
            # To the right of the disc, or to its left where the image ends.
            side = at[0] + radius + 3 if at[0] + radius + 3 + size[0] < width else at[0] - radius - 3 - size[0]
            _text(image, text, (side + size[0] // 2, at[1]), scale, colour, _WHITE)
    return image


def tracked_overlay(
    color: NDArray[np.uint8], calibration: Calibration, tracked: Tracked, threshold: float = KNOWN
) -> NDArray[np.uint8]:
    """The camera image (H, W, 3) uint8 RGB with the tracked keypoints, their names and confidence."""
    labels = [f"{name} {sure:.2f}" for name, sure in zip(tracked.names, tracked.confidence, strict=True)]
    pixels, _ = calibration.project(tracked.keypoints)
    return numbered(color, pixels, labels, tracked.confidence >= threshold)


def _text(
    image: NDArray[np.uint8], text: str, middle: tuple[int, int], scale: float, colour: Colour, plate: Colour | None
) -> None:
    """Text around a pixel; on a plate of a colour, so that it can be read on whatever is behind it."""
    size = cv2.getTextSize(text, _FONT, scale, 1)[0]
    left, bottom = middle[0] - size[0] // 2, middle[1] + size[1] // 2
    if plate is not None:
        cv2.rectangle(image, (left - 2, bottom - size[1] - 3), (left + size[0] + 2, bottom + 3), plate, -1)
    cv2.putText(image, text, (left, bottom), _FONT, scale, colour, 1, cv2.LINE_AA)
