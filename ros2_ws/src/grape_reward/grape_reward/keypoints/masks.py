"""Masks of what there is in an image, from whatever source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from grape_reward.keypoints.errors import KeypointsError

Color = NDArray[np.uint8]
Region = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Mask:
    """``region`` (H, W) bool; ``score`` in [0, 1]: how sure its source is of it; ``name`` of the thing, if known."""

    region: Region
    score: float = 1.0
    name: str = ""

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.region.sum())


class MaskSource(Protocol):
    """Where masks come from."""

    @property
    def described(self) -> str:
        """The source in a word or two, for the result."""
        ...

    def __call__(self, color: Color) -> list[Mask]:
        """The masks in an image (H, W, 3) uint8 RGB; they may overlap."""
        ...


@dataclass(frozen=True, eq=False)
class GivenMasks:
    """Masks that are known already: those of a label image (H, W), each of whose values from ``first`` on is a thing.

    ``names`` of the values ``first``, ``first`` + 1 and so on; a value without a name stays without."""

    labels: NDArray[np.integer]
    names: Sequence[str] = ()
    first: int = 1
    origin: str = "label image"

    @property
    def described(self) -> str:
        return self.origin

    def __call__(self, color: Color) -> list[Mask]:
        """Raises KeypointsError naming the origin where sizes differ or where there is no mask."""
        if self.labels.shape != color.shape[:2]:
            raise KeypointsError(
                f"{self.origin}: {_size(self.labels.shape)} pixels, but the colour image has {_size(color.shape)}"
            )
        values = [int(value) for value in np.unique(self.labels) if value >= self.first]
        if not values:
            raise KeypointsError(f"{self.origin}: no mask (every pixel is below {self.first})")
        named = dict(enumerate(self.names, self.first))
        return [Mask(self.labels == value, name=named.get(value, "")) for value in values]


def read_label_image(path: Path, names: Sequence[str] = ()) -> GivenMasks:
    """The masks of a single-channel PNG, 8 or 16 bits: 0 is nothing, every other value a thing.

    Raises KeypointsError naming the file."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in {"L", "P", "1", "I", "I;16", "I;16B"}:
                raise KeypointsError(f"{path}: mode {image.mode}: a label image has one channel")
            labels = np.asarray(image).astype(np.int32)
    except (OSError, UnidentifiedImageError) as error:
        raise KeypointsError(f"{path}: no label image: {getattr(error, 'strerror', None) or error}") from None
    return GivenMasks(labels, names, origin=str(path))


def label_image(masks: Sequence[Mask]) -> NDArray[np.uint16]:
    """(H, W): 0 where there is no mask, else 1 + the mask's index; where masks overlap the smaller one shows."""
    labels = np.zeros(masks[0].region.shape, dtype=np.uint16)
    for index in sorted(range(len(masks)), key=lambda index: -masks[index].area):
        labels[masks[index].region] = index + 1
    return labels


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"
