"""How a scene looks beside its things: the table's top, the wall behind, the light. None of it is felt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grape_episode.geometry import Array
from grape_sim import textures as tx
from grape_sim.camera import Light
from grape_sim.models import Triple

WOOD = "wood"
TABLES: dict[str, Callable[[], Array]] = {
    WOOD: tx.wood,
    "walnut": lambda: tx.wood() * np.array([0.48, 0.36, 0.28]),
    "checked": lambda: _checked((70, 104, 168), (226, 230, 238)),
    "stone": lambda: tx.speckled((128, 132, 138), 0.10, 31, 256, 256),
    "felt": lambda: tx.speckled((40, 104, 66), 0.06, 32, 256, 256),
}
"""Table tops by name; the first is that of every seen world."""
PRACTICE_TABLES: dict[str, Callable[[], Array]] = {
    "rose": lambda: tx.speckled((216, 168, 172), 0.04, 51, 256, 256),
    "mustard": lambda: tx.speckled((222, 196, 112), 0.05, 52, 256, 256),
    "lavender": lambda: tx.speckled((178, 166, 214), 0.03, 53, 256, 256),
    "teal": lambda: tx.speckled((64, 140, 138), 0.05, 54, 256, 256),
    "terracotta": lambda: tx.speckled((178, 96, 74), 0.08, 55, 256, 256),
    "slate": lambda: tx.speckled((58, 60, 70), 0.08, 56, 256, 256),
    "paper": lambda: tx.plain((238, 236, 230), 256, 256),
    "striped": lambda: tx.stripes(((232, 226, 214), (150, 176, 120)) * 6, (3, 1) * 6, 256, 256),
    "birch": lambda: np.minimum(tx.wood() * np.array([1.08, 1.06, 1.0]), 255.0),
}
"""Table tops of the variant ``varied``."""
WALLS: tuple[Triple, ...] = ((0.62, 0.22, 0.18), (0.20, 0.34, 0.58), (0.16, 0.17, 0.20), (0.36, 0.52, 0.30))
"""Colours of a wall and a floor behind the table, RGB in [0, 1]; seen worlds have nothing but white there."""
LIGHTS: tuple[Light, ...] = (
    Light(direction=(-0.9, 0.9, 0.9)),
    Light(ambient=0.34, diffuse=0.36),
    Light(ambient=0.72, diffuse=0.66),
    Light(direction=(0.2, 1.4, 0.8), colour=(1.0, 0.80, 0.58)),
)
"""From the other side, dim, bright, warm and low."""


def table_top(name: str) -> Array:
    """The texture (H, W, 3) in [0, 255] of a table top by its name."""
    return {**TABLES, **PRACTICE_TABLES}[name]()


@dataclass(frozen=True)
class Look:
    """``table``: name of a :func:`table_top`; ``wall``: colour of the wall behind, None for none."""

    table: str = WOOD
    wall: Triple | None = None
    light: Light = field(default_factory=Light)


def look_of(kind: str, rng: np.random.Generator) -> Look:
    """The look of a kind of the variant ``visual``; of any other, the seen one."""
    if kind == "table":
        return Look(table=list(TABLES)[1 + int(rng.integers(len(TABLES) - 1))])
    if kind == "wall":
        return Look(wall=WALLS[int(rng.integers(len(WALLS)))])
    if kind == "light":
        return Look(light=LIGHTS[int(rng.integers(len(LIGHTS)))])
    return Look()


def _checked(colour: Triple, other: Triple, cells: int = 16, size: int = 256) -> Array:
    """A tablecloth."""
    rows, columns = np.mgrid[0:size, 0:size] * cells // size
    mixed = 0.5 * (rows % 2 + columns % 2)
    return np.asarray(other) + (np.asarray(colour) - np.asarray(other)) * mixed[..., None]
