"""The first frame of a recorded episode, in the camera's own size: how its scene was laid out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode import topics
from grape_episode.bag import BagScan, Record
from grape_episode.episode import EpisodeError, Identity
from grape_episode.messages import identity_of
from grape_episode.reader import bag_file, check_first, checked_records, decode, header_stamp


def first_frame(bag: Path) -> tuple[Identity, NDArray[np.uint8]]:
    """Whose episode it is, and the camera's frame (H, W, 3) uint8 RGB that the model was first shown.

    Not the bag's first frame: the arm may have been on its way home then. Raises EpisodeError naming file and topic."""
    file = bag_file(bag)
    identity, shown = None, None
    for record in _records(file):
        if identity is None:
            check_first(file, record)
            identity = identity_of(decode(file, record))
        elif record.topic == topics.MODEL_INPUT:
            shown = header_stamp(record.data)
            break
    if identity is None or shown is None:
        raise EpisodeError(f"{file}: nothing on {topics.MODEL_INPUT}: nothing was shown to the model")
    seen = 0
    for record in _records(file):
        if record.topic == topics.COLOR:
            seen += 1
            if header_stamp(record.data) == shown:
                return identity, _rgb(file, decode(file, record))
    if not seen:
        raise EpisodeError(f"{file}: nothing on {topics.COLOR}: the recorder's parameter camera was false")
    raise EpisodeError(f"{file}: none of {seen} frames on {topics.COLOR} has the stamp of the first observation")


def _records(file: Path) -> Iterator[Record]:
    return checked_records(BagScan(file))


def _rgb(file: Path, message: Any) -> NDArray[np.uint8]:
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, np.uint8)
    if message.encoding not in ("rgb8", "bgr8") or step < 3 * width or data.size < step * height:
        told = f"{width}x{height} {message.encoding} of {data.size} bytes with step {step}"
        raise EpisodeError(f"{file}: {topics.COLOR}: {told}, expected rgb8 or bgr8")
    pixels = data[: step * height].reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    return np.ascontiguousarray(pixels[..., ::-1] if message.encoding == "bgr8" else pixels)
