"""Pictures of a safety report: shares with whiskers, every episode's clearance and force, vetoes by check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grape.charts import INK, as_svg, canvas

COLOURS = ("#2a6fbb", "#c77d1e", "#1b7f5c", "#7a4fa3", "#8795a1")
DOT: dict[str, Any] = {"s": 14, "linewidths": 0}
CROSS: dict[str, Any] = {"s": 22, "marker": "x", "linewidths": 1.4}
BEYOND: dict[str, Any] = {"s": 20, "marker": "^", "linewidths": 0}


def shares(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Sequence[str]) -> str:
    """A group of bars for each figure in ``names``, a bar for each policy, with 95 % whiskers.

    ``figures``: as in the summary; a share that nobody knows has no bar."""
    figure, plot = canvas(7.2, 3.2)
    place, width = np.arange(len(names)), 0.8 / max(1, len(figures))
    for number, (policy, cells) in enumerate(figures.items()):
        rows = [cells[name] for name in names]
        middle, low, high = (
            np.array([np.nan if row[key] is None else 100.0 * row[key] for row in rows])
            for key in ("rate", "low", "high")
        )
        whiskers = np.clip(np.stack([middle - low, high - middle]), 0, None)
        shift = (number - 0.5 * (len(figures) - 1)) * width
        plot.bar(
            place + shift,
            middle,
            0.95 * width,
            color=_colour(number),
            label=policy,
            yerr=whiskers,
            capsize=3,
            ecolor=INK,
        )
    plot.set_xticks(place, [name.replace("_", "\n", 1) for name in names], fontsize=8)
    plot.set_ylabel("episodes, %")
    plot.set_ylim(0, 100)
    plot.legend(frameon=False)
    return as_svg(figure)


def episodes(
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    label: str,
    marked: Mapping[str, Mapping[str, Sequence[bool]]],
    most: float = np.inf,
) -> str:
    """A dot an episode: ``rows`` {item: {policy: values}}, in the unit of ``label``; a cross where ``marked``.

    Values beyond ``most`` are drawn there as triangles, so that small ones can be told apart."""
    figure, plot = canvas(7.2, 3.4)
    policies = list(dict.fromkeys(policy for sides in rows.values() for policy in sides))
    width = 0.8 / max(1, len(policies))
    for number, policy in enumerate(policies):
        shift = (number - 0.5 * (len(policies) - 1)) * width
        for place, (item, sides) in enumerate(rows.items()):
            values = np.asarray(sides.get(policy, ()), np.float64)
            spread = np.linspace(-0.3, 0.3, len(values)) * width if len(values) > 1 else np.zeros(len(values))
            bad = np.asarray(marked.get(item, {}).get(policy, [False] * len(values)), bool)
            far = values > most
            for chosen, look in ((~bad & ~far, DOT), (bad & ~far, CROSS), (far, BEYOND)):
                heights = np.minimum(values[chosen], most)
                plot.scatter(place + shift + spread[chosen], heights, color=_colour(number), **look)
        plot.scatter([], [], color=_colour(number), label=policy, **DOT)
    plot.scatter([], [], color=INK, label="collision", **CROSS)
    if any(value > most for sides in rows.values() for values in sides.values() for value in values):
        plot.scatter([], [], color=INK, label=f"more than {most:g}", **BEYOND)
    plot.set_xticks(range(len(rows)), [item.replace("_", "\n") for item in rows], fontsize=7)
    plot.set_ylabel(label)
    plot.set_ylim(bottom=0)
    plot.legend(frameon=False, fontsize=8)
    return as_svg(figure)


def vetoes(by_check: Mapping[str, Mapping[str, int]], trials: Mapping[str, int]) -> str:
    """Vetoed steps an episode by check, a bar a policy. ``by_check`` {policy: {check: steps}}; ``trials`` {policy:
    episodes}."""
    figure, plot = canvas(7.2, 3.0)
    names = sorted({check for counts in by_check.values() for check in counts})
    place, width = np.arange(len(names)), 0.8 / max(1, len(by_check))
    for number, (policy, counts) in enumerate(by_check.items()):
        shift = (number - 0.5 * (len(by_check) - 1)) * width
        heights = [counts.get(name, 0) / max(1, trials[policy]) for name in names]
        plot.bar(place + shift, heights, 0.95 * width, color=_colour(number), label=policy)
    plot.set_xticks(place, [name.replace("_", " ") for name in names], fontsize=8)
    plot.set_ylabel("vetoed steps an episode")
    plot.legend(frameon=False)
    return as_svg(figure)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
