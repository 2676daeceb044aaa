"""Textures from formulas: images (H, W, 3), each from its own fixed seed, so that they are the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grape_episode.geometry import Array
from grape_sim.meshes import Texture

Colour = Sequence[float]


def plain(colour: Colour, height: int = 32, width: int = 32) -> Array:
    """One colour as a float image (H, W, 3) in [0, 255]."""
    return np.broadcast_to(np.asarray(colour, dtype=np.float64), (height, width, 3)).copy()


def speckled(colour: Colour, strength: float, seed: int, height: int = 32, width: int = 32) -> Array:
    """A colour with brightness noise of a relative ``strength``."""
    noise = np.random.Generator(np.random.Philox(seed)).normal(size=(height, width, 1))
    return plain(colour, height, width) * (1.0 + strength * noise)


def rings(colour: Colour, dark: Colour, count: int, width_share: float, seed: int) -> Array:
    """Horizontal, slightly irregular dark rings on a colour: the skin of a carrot."""
    image = speckled(colour, 0.03, seed, 64, 64)
    rng = np.random.Generator(np.random.Philox(seed + 1))
    for centre in (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count:
        start = rng.integers(64)
        columns = (start + np.arange(rng.integers(18, 48))) % 64
        rows = np.arange(int(centre * 64), min(64, int(centre * 64 + max(1, width_share * 64))))
        image[rows[:, None], columns[None, :]] = dark
    return image


def stripes(colours: Sequence[Colour], shares: Sequence[float], height: int = 128, width: int = 64) -> Array:
    """Horizontal stripes from bottom (v = 0) to top with relative heights, and a fine weave over them."""
    edges = np.round(np.cumsum([0.0, *shares]) / sum(shares) * height).astype(int)
    image = plain((0, 0, 0), height, width)
    for colour, low, high in zip(colours, edges[:-1], edges[1:], strict=True):
        image[height - high : height - low] = colour
    rows, columns = np.mgrid[0:height, 0:width]
    return image * (1.0 - 0.06 * ((rows + columns) % 2))[..., None]


def woven(light: Colour, dark: Colour, cells: int = 8, size: int = 128) -> Array:
    """Wickerwork: alternating horizontal and vertical withes with dark gaps."""
    cell = size // cells
    rows, columns = np.mgrid[0:size, 0:size]
    across = ((rows // cell) + (columns // cell)) % 2 == 0
    inside = np.where(across, rows % cell, columns % cell) / cell
    shade = np.sin(np.pi * (inside + 0.5 / cell)) ** 0.7
    return np.asarray(dark) + (np.asarray(light) - np.asarray(dark)) * shade[..., None]


def framed(colour: Colour, edge: Colour, share: float = 0.1, size: int = 32) -> Array:
    """A face with a lighter or darker border, which makes a cube's edges visible."""
    image = plain(colour, size, size)
    border = max(1, round(share * size))
    image[:border] = image[-border:] = edge
    image[:, :border] = image[:, -border:] = edge
    return image


def wood(size: int = 256) -> Array:
    """A pale table top: planks along u with soft grain."""
    rng = np.random.Generator(np.random.Philox(71))
    image = plain((203, 190, 172), size, size)
    planks = 8
    height = size // planks
    for plank in range(planks):
        tone = rng.uniform(0.95, 1.03)
        grain = np.repeat(np.cumsum(rng.normal(size=height))[:, None], size, axis=1)
        wave = 2.0 * np.sin(np.linspace(0, 2 * np.pi * rng.uniform(0.5, 1.5), size) + rng.uniform(0, 6))
        lines = np.sin(0.9 * grain + wave[None, :])
        block = slice(plank * height, (plank + 1) * height)
        image[block] *= tone * (1.0 + 0.025 * lines[..., None])
        image[plank * height] *= 0.93
    return image


def atlas(*rows: Array, size: int = 128) -> Texture:
    """Images stacked upwards from v = 0 into one square texture; image i fills ``band(i, n)``."""
    height = size // len(rows)
    out = np.empty((size, size, 3))
    for index, image in enumerate(rows):
        line = (np.arange(height) * image.shape[0]) // height
        column = (np.arange(size) * image.shape[1]) // size
        out[size - (index + 1) * height : size - index * height] = image[line[:, None], column[None, :]]
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def band(index: int, count: int) -> tuple[float, float, float, float]:
    """Atlas region of image ``index`` of ``count``, kept off the borders of its neighbours."""
    margin = 0.08 / count
    return 0.02, index / count + margin, 0.98, (index + 1) / count - margin
