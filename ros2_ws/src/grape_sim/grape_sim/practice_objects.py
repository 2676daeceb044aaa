"""What a base model practises on beside its tasks' objects: blocks, candles and jars in four colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from grape_sim import textures as tx
from grape_sim.meshes import box, join, lathe
from grape_sim.models import ObjectModel, Shape, Triple

COLOURS: dict[str, Triple] = {
    "white": (240, 238, 232),
    "black": (44, 44, 48),
    "pink": (238, 132, 176),
    "turquoise": (52, 188, 190),
}


def _block(name: str, colour: Triple) -> ObjectModel:
    """A building block that lies flat."""
    size = (0.066, 0.034, 0.040)
    edge = [0.75 * channel for channel in colour]
    texture = tx.atlas(tx.framed(colour, edge, 0.08), size=32)
    return ObjectModel(
        name, box(size), texture, (Shape("box", size),), 0.08, 0.020, 0.038, grasp_width=0.034, elongated=True
    )


def _candle(name: str, colour: Triple) -> ObjectModel:
    """A pillar candle with its wick."""
    radius, half = 0.017, 0.034
    body = lathe([(0.0, -half), (radius, -half), (radius, half), (0.003, half - 0.003)], 18, tx.band(0, 2))
    wick = lathe([(0.003, half - 0.003), (0.0015, half + 0.010), (0.0, half + 0.010)], 8, tx.band(1, 2))
    texture = tx.atlas(tx.speckled(colour, 0.02, 41), tx.plain((60, 52, 44)), size=64)
    shapes = (Shape("cylinder", (radius, 2 * half)),)
    return ObjectModel(name, join(body, wick), texture, shapes, 0.06, half, radius, grasp_width=2 * radius)


def _jar(name: str, colour: Triple) -> ObjectModel:
    """A low jar with a wooden lid."""
    radius, half = 0.025, 0.023
    body = lathe([(0.0, -half), (radius, -half), (radius, 0.008), (0.020, 0.013)], 20, tx.band(0, 2))
    lid = lathe([(0.020, 0.013), (0.023, 0.013), (0.023, half), (0.0, half)], 20, tx.band(1, 2))
    texture = tx.atlas(tx.speckled(colour, 0.03, 42), tx.speckled((188, 146, 96), 0.08, 43), size=64)
    shapes = (Shape("cylinder", (radius, 2 * half)),)
    return ObjectModel(name, join(body, lid), texture, shapes, 0.08, half, radius, grasp_width=2 * radius)


_SHAPES: dict[str, Callable[[str, Triple], ObjectModel]] = {"block": _block, "candle": _candle, "jar": _jar}
PRACTICE_OBJECTS: Mapping[str, Callable[[], ObjectModel]] = {
    f"{colour}_{shape}": partial(build, f"{colour}_{shape}", rgb)
    for shape, build in _SHAPES.items()
    for colour, rgb in COLOURS.items()
}
"""Builders by name, such as ``pink_candle``."""


def twin_of(name: str) -> str:
    """The same thing in the colour that follows its own."""
    colour, shape = name.split("_")
    colours = list(COLOURS)
    return f"{colours[(colours.index(colour) + 1) % len(colours)]}_{shape}"
