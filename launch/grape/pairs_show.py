"""Pairs on the terminal: a line a task, a line for everything left out, a histogram of the margins."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grape.console import console, table
from grape_trainer.pairs import Pair, PairSet

BINS, WIDTH, PAIRS_SHOWN = 10, 40, 12


@dataclass(frozen=True)
class Bin:
    """Pairs with ``low <= margin < high`` (the last bin holds its upper end): a success over a failure, and others."""

    low: float
    high: float
    by_success: int
    equal: int


def margins(pairs: PairSet, bins: int = BINS) -> list[Bin]:
    """The histogram of the margins; empty where there is no pair."""
    values = np.array([pair.margin for pair in pairs.pairs])
    if not len(values):
        return []
    differs = np.array([_differs(pair, pairs) for pair in pairs.pairs])
    # equal margins would make bins of no width
    wider = 0.5 if np.ptp(values) == 0 else 0.0
    edges = np.linspace(float(values.min()) - wider, float(values.max()) + wider, bins + 1)
    counts = [np.histogram(values[mask], edges)[0] for mask in (differs, ~differs)]
    return [Bin(float(edges[i]), float(edges[i + 1]), int(counts[0][i]), int(counts[1][i])) for i in range(bins)]


def left_out(pairs: PairSet) -> None:
    """A line on stderr for every episode that enters no pair for what it is."""
    for one in pairs.excluded:
        where = one.path or one.episode_id
        reason = one.reason if where in one.reason else f"{where}: {one.reason}"
        print(f"left out: {' '.join(reason.split())}", file=sys.stderr)


def summary(title: str, pairs: PairSet) -> None:
    """A line a task, the terms of the ranking, warnings, the histogram."""
    rows = [[name, *(str(value) for value in counts.values())] for name, counts in pairs.tasks().items()]
    total = [str(sum(counts[key] for counts in pairs.tasks().values())) for key in _columns()]
    table(title, ["task", *_columns()], [*rows, ["all", *total]] if len(rows) != 1 else rows)
    reasons = Counter(" ".join(one.reason.split()).split(": ")[0] for one in pairs.excluded)
    if reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        console.print(f"{len(pairs.excluded)} episodes left out: {told}", markup=False, soft_wrap=True)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in pairs.shares.items())
    console.print(
        f"ranking {pairs.ranking}, m {pairs.m}, objective {pairs.objective or 'none'}; {shares or 'no ranks'}"
    )
    adapters = {one.adapter_id[:12] or "the base model" for one in pairs.candidates}
    if len(adapters) > 1:
        console.print(f"recorded under {len(adapters)} policies: {', '.join(sorted(adapters))}")
    for line in pairs.warnings:
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    histogram(margins(pairs))


def histogram(bins: Sequence[Bin]) -> None:
    """Bars: ``█`` a success over a failure, ``░`` equal success."""
    if not bins:
        return
    most = max(one.by_success + one.equal for one in bins)
    console.print("margins (█ a success over a failure, ░ equal success)")
    for one in bins:
        total = one.by_success + one.equal
        width = round(WIDTH * total / most)
        solid = round(width * one.by_success / total) if total else 0
        bar = "█" * solid + "░" * (width - solid)
        console.print(f"{one.low:8.3f} to {one.high:8.3f}  {total:5d}  {bar}")


def list_pairs(pairs: PairSet, every: bool) -> None:
    """The pairs, widest margin first."""
    ordered = sorted(pairs.pairs, key=lambda pair: -pair.margin)
    shown = ordered if every else ordered[:PAIRS_SHOWN]
    for pair in shown:
        where = f"{pair.task} {pair.variant} {pair.initial_state}".replace("  ", " ")
        console.print(f"{pair.margin:8.3f}  {where}: {pair.name}", markup=False, soft_wrap=True)
    if len(shown) < len(ordered):
        console.print(f"and {len(ordered) - len(shown)} more (--all)")


def _columns() -> list[str]:
    return ["episodes", "successes", "states", "pairs"]


def _differs(pair: Pair, pairs: PairSet) -> bool:
    sides = [pairs.by_id[name].success for name in (pair.chosen, pair.rejected)]
    return sides[0] != sides[1]
