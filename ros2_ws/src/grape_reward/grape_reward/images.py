"""Camera images as arrays, from the messages of rclpy as well as of rosbags."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_reward.errors import RewardError

_KINDS: dict[str, tuple[type, int]] = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "32FC1": (np.float32, 1),
    "16UC1": (np.uint16, 1),
}


class ImageMessageError(RewardError):
    """An image in an encoding that is not read, or of another size than it says; the text begins with the topic."""


def color_of(message: Any, topic: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an rgb8 or bgr8 image. Raises ImageMessageError."""
    image = _decoded(message, topic, ("rgb8", "bgr8"))
    return np.ascontiguousarray(image[..., ::-1]) if message.encoding == "bgr8" else image


def depth_of(message: Any, topic: str) -> NDArray[np.float32]:
    """(H, W) float32 metres, 0 or NaN where unknown, of a 32FC1 (metres) or 16UC1 (millimetres) image. Raises
    ImageMessageError."""
    image = _decoded(message, topic, ("32FC1", "16UC1"))[..., 0]
    return image.astype(np.float32) / np.float32(1000) if message.encoding == "16UC1" else np.ascontiguousarray(image)


def _decoded(message: Any, topic: str, encodings: tuple[str, ...]) -> NDArray:
    if message.encoding not in encodings:
        raise ImageMessageError(f"{topic}: image encoding {message.encoding!r}, expected {' or '.join(encodings)}")
    kind, channels = _KINDS[message.encoding]
    row = message.width * channels * np.dtype(kind).itemsize
    raw = np.frombuffer(message.data, np.uint8)
    if message.is_bigendian or message.step < row or raw.size < message.step * message.height:
        raise ImageMessageError(
            f"{topic}: image {message.width}x{message.height} {message.encoding} with step {message.step} carries "
            f"{raw.size} bytes{', big-endian' if message.is_bigendian else ''}"
        )
    rows = np.ascontiguousarray(raw[: message.step * message.height].reshape(message.height, message.step)[:, :row])
    return rows.view(kind).reshape(message.height, message.width, channels)
