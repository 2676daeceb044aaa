"""What the operator lays the scene out by: the live image over the stored first frame, and which state it is. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]


def blend(live: Picture, stored: Picture, weight: float) -> Picture:
    """``weight`` * live + (1 - weight) * stored, rounded; all (H, W, 3) uint8 RGB.

    Raises ValueError naming the sizes where they differ: scaled, nothing would lie where it lay."""
    if live.shape != stored.shape:
        raise ValueError(f"{sizes(stored)} was stored, the camera sends {sizes(live)}")
    share = round(weight * 256.0)  # in integers: a tenth of the time of floats
    mixed = live.astype(np.uint16) * np.uint16(share) + stored.astype(np.uint16) * np.uint16(256 - share)
    return ((mixed + np.uint16(128)) >> 8).astype(np.uint8)  # 65,280 + 128 at most


def sizes(image: Picture) -> str:
    """Width and height for people."""
    return f"{image.shape[1]}x{image.shape[0]}"


def difference(live: Picture, stored: Picture) -> float:
    """Mean absolute difference of two images of one size, 0 (the same) to 1."""
    return float(np.mean(np.abs(live.astype(np.int16) - stored.astype(np.int16)))) / 255.0


def labelled(image: Picture, lines: tuple[str, ...]) -> Picture:
    """A copy with ``lines`` on a dark bar along the top; the text's height follows the image's."""
    size = max(10, image.shape[0] // 24)
    font = ImageFont.load_default(size)
    bar = min(image.shape[0], round(len(lines) * size * 1.4) + 4)
    shown = image.copy()
    shown[:bar] //= 3
    picture = Image.fromarray(shown)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((4, 2 + round(number * size * 1.4)), line, fill=(255, 255, 255), font=font)
    return np.array(picture)
