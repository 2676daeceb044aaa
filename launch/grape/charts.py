"""Pictures of a report: charts as inline SVG, film strips as inline PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

INK = "#22313f"
CHOSEN = "#1b7f5c"
REJECTED = "#b5483a"
FIRST = "#8795a1"
SECOND = "#2a6fbb"


def canvas(width: float, height: float) -> tuple[Figure, plt.Axes]:
    """A figure of this size, inches, and its axes in the house's style."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def as_svg(figure: Figure) -> str:
    """The figure as inline SVG; it is closed."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def implicit_rewards(rows: Sequence[Mapping[str, float]]) -> str:
    """The implicit rewards beta * log-ratio of both sides over the updates (Eq. 3, without log Z).

    ``rows``: metrics of the trainer, each with ``update``, ``reward_chosen`` and ``reward_rejected``."""
    figure, axes = canvas(7.2, 3.0)
    updates = [row["update"] for row in rows]
    for key, colour, name in (("reward_chosen", CHOSEN, "chosen"), ("reward_rejected", REJECTED, "rejected")):
        axes.plot(updates, [row[key] for row in rows], color=colour, label=name, marker="o", markersize=2.5)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_xlabel("update")
    axes.set_ylabel("implicit reward")
    axes.legend(frameon=False)
    return as_svg(figure)


def stage_costs(stages: Sequence[str], chosen: Sequence[Sequence[float]], rejected: Sequence[Sequence[float]]) -> str:
    """Mean stage cost C_S (Eq. 8) of the chosen and the rejected rollouts, a pair of bars a stage.

    ``chosen`` and ``rejected``: one row of S costs a rollout."""
    figure, axes = canvas(7.2, 3.0)
    place = np.arange(len(stages))
    for rows, colour, name, shift in ((chosen, CHOSEN, "chosen", -0.2), (rejected, REJECTED, "rejected", 0.2)):
        axes.bar(place + shift, np.mean(np.asarray(rows), axis=0), 0.38, color=colour, label=name)
    axes.set_xticks(place, stages)
    axes.set_ylabel("stage cost")
    axes.legend(frameon=False)
    return as_svg(figure)


def margins(edges: Sequence[float], by_success: Sequence[int], equal: Sequence[int]) -> str:
    """Histogram of the pairs' margins: ``edges`` of N bins (N + 1) and the counts in each, of pairs of a success over a
    failure and of pairs of equal success."""
    figure, axes = canvas(7.2, 3.0)
    width = np.diff(np.asarray(edges, dtype=np.float64))
    left = np.asarray(edges[:-1], dtype=np.float64)
    axes.bar(left, by_success, width, align="edge", color=CHOSEN, label="a success over a failure", edgecolor="white")
    axes.bar(left, equal, width, bottom=by_success, align="edge", color=FIRST, label="equal success", edgecolor="white")
    axes.set_xlabel("margin of the rank score")
    axes.set_ylabel("pairs")
    axes.legend(frameon=False)
    return as_svg(figure)


def rates(groups: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]], names: tuple[str, str]) -> str:
    """Two bars with 95 % whiskers a group; values are ``Estimate.as_dict()``."""
    figure, axes = canvas(7.2, 3.0)
    place = np.arange(len(groups))
    for side, (colour, shift) in enumerate(((FIRST, -0.2), (SECOND, 0.2))):
        cells = [pair[side] for pair in groups.values()]
        middle = np.array([100 * cell["rate"] for cell in cells])
        low = np.array([100 * cell["low"] for cell in cells])
        high = np.array([100 * cell["high"] for cell in cells])
        whiskers = np.clip(np.stack([middle - low, high - middle]), 0, None)
        axes.bar(place + shift, middle, 0.38, color=colour, label=names[side], yerr=whiskers, capsize=3, ecolor=INK)
    axes.set_xticks(place, [name.replace("_", " ") for name in groups], fontsize=8)
    axes.set_ylabel("success, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    return as_svg(figure)


def film_strip(frames: NDArray[np.uint8], count: int = 8, height: int = 150) -> Image.Image:
    """``count`` frames of (T, H, W, 3) uint8 RGB, evenly spaced, first and last among them, side by side."""
    picks = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    tiles = []
    for index in picks:
        tile = Image.fromarray(frames[index])
        tile = tile.resize((round(height * tile.width / tile.height), height), Image.Resampling.LANCZOS)
        ImageDraw.Draw(tile).text((5, 3), f"step {index}", fill="white", stroke_width=2, stroke_fill="black")
        tiles.append(tile)
    gap = 4
    strip = Image.new("RGB", (sum(t.width for t in tiles) + gap * (len(tiles) - 1), height), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    return strip


def stack(strips: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Pictures below each other on white."""
    height = sum(strip.height for strip in strips) + gap * (len(strips) - 1)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), height), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + gap
    return sheet


def as_data_uri(image: Image.Image) -> str:
    """A PNG as a data URI, so that a report is one file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
