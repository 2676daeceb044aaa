"""Pictures of a report on worlds: figures with their intervals, a row a suite, task or kind, a panel a decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from grape.charts import FIRST, INK

# the first policy is what the others are set against: grey; further ones differ in colour and in mark
COLOURS = (FIRST, "#2a6fbb", "#c77d1e", "#1b7f5c", "#7a4fa3", "#b5483a", "#5b6b2f", "#0d8ba1")
MARKS = ("o", "s", "D", "^", "v", "P", "X", "p")
_LINE, _GAP, _AROUND = 0.17, 0.2, 1.25
"""Inches of height: a policy's line, the space between two rows, axis and legend."""


@dataclass(frozen=True)
class Bar:
    """A figure and its interval in the axis's unit; what is ``noise`` is drawn hollow."""

    middle: float
    low: float
    high: float
    noise: bool = False


Rows = Mapping[str, Mapping[str, Bar]]
"""row -> policy -> its bar; a policy that is missing from a row has none there"""


def forest(panels: Mapping[str, Rows], policies: Sequence[str], label: str, differences: bool = False) -> Figure:
    """Marks with their intervals as bars, side by side a panel for each decoding.

    ``policies``: all of the report, so that each looks the same in every picture; ``label``: of the x axis, with its
    unit; ``differences``: a line at zero and a span about it, else 0 to 100 per cent. Raises ValueError where there is
    nothing to draw."""
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    shown = [p for p in policies if any(p in bars for rows in panels.values() for bars in rows.values())]
    if not names or not shown:
        raise ValueError("a forest plot needs at least one row with a figure")
    pitch = len(shown) * _LINE + _GAP
    size = (max(7.2, 3.9 * len(panels)), pitch * len(names) + _AROUND)
    figure, all_axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    figure.set_layout_engine("constrained", wspace=0.05)
    most = _span(panels) if differences else 100.0
    for axes, (decoding, rows) in zip(all_axes[0], panels.items(), strict=True):
        _dress(axes, decoding, label, len(names), pitch)
        axes.set_xlim(-most if differences else 0.0, most)
        if differences:
            axes.axvline(0.0, color=INK, linewidth=1.0)
        for place, name in enumerate(names):
            for line, policy in enumerate(shown):
                if policy in rows.get(name, {}):
                    height = place * pitch + (line - 0.5 * (len(shown) - 1)) * _LINE
                    _mark(axes, rows[name][policy], height, policies.index(policy))
    all_axes[0][0].set_yticks([place * pitch for place in range(len(names))], [_label(name) for name in names])
    _legend(figure, all_axes[0][0], shown, policies, differences)
    return figure


def _dress(axes: plt.Axes, title: str, label: str, rows: int, pitch: float) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(label, fontsize=9, color=INK)
    axes.set_ylim((rows - 0.5) * pitch, -0.5 * pitch)  # the first row is the uppermost
    for place in range(1, rows, 2):
        axes.axhspan((place - 0.5) * pitch, (place + 0.5) * pitch, color="#f2f5f8", zorder=0, linewidth=0)


def _mark(axes: plt.Axes, bar: Bar, height: float, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    whiskers = [[max(0.0, bar.middle - bar.low)], [max(0.0, bar.high - bar.middle)]]
    known = math.isfinite(bar.low) and math.isfinite(bar.high)
    axes.errorbar(
        [bar.middle],
        [height],
        xerr=whiskers if known else None,
        fmt=MARKS[number % len(MARKS)],
        color=colour,
        ecolor=colour,
        markersize=5,
        markerfacecolor="white" if bar.noise else colour,
        elinewidth=1.4,
        capsize=2.5,
        clip_on=False,
        zorder=3,
    )


def _legend(figure: Figure, axes: plt.Axes, shown: Sequence[str], policies: Sequence[str], differences: bool) -> None:
    handles = []
    for policy in shown:
        number = policies.index(policy)
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}
        handles += axes.plot([], [], linewidth=1.4, markersize=5, label=policy, **look)
    if differences:
        handles += axes.plot([], [], "o", color=INK, markersize=5, markerfacecolor="white", label="noise")
    columns = min(len(handles), 4)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _span(panels: Mapping[str, Rows]) -> float:
    """How far a plot of differences reaches to both sides."""
    ends = [
        abs(value)
        for rows in panels.values()
        for bars in rows.values()
        for bar in bars.values()
        for value in (bar.middle, bar.low, bar.high)
        if math.isfinite(value)
    ]
    return 1.08 * max([5.0, *ends])


def _label(name: str) -> str:
    return name.replace("_", " ")
