"""The headline table of a report on worlds: what every cell says, and what is bold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grape.worlds import TOGETHER, UNSEEN_SUITES, Plan, decoding

UNKNOWN = "–"
TUNING = "tuning_"
GROUNDING = "grounding"


def columns(plan: Plan) -> list[str]:
    """Heads of the table's cells, in the order of :func:`groups`."""
    found = ["success", "grasp", "collision", "steps of successes"]
    if mistakes(plan):
        found.insert(3, "wrong candidate")
    if len(plan.policies) > 1:
        found += [f"{figure}, minus {plan.policies[0].name}" for figure in ("success", "collision", "steps")]
    return found


def groups(told: Mapping[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """The headline table: a group a suite and decoding, a row a policy; last the unseen suites together."""
    gaps = {(gap["policy"], gap["suite"], gap["decoding"]): gap for gap in told["differences"]}
    wrong = mistakes(plan)
    several = len(plan.policies) > 1
    found = []
    for suite in told["suites"]:
        for temperature in plan.temperatures:
            name = decoding(temperature)
            rows = []
            for row in told["rows"]:
                if (row["suite"], row["decoding"]) == (suite, name):
                    cells = [_rate(row["success"], _by_seed(row)), _rate(row["grasp"]), _rate(row["collision"])]
                    if wrong:
                        cells.append(_rate(row["mistaken"]))
                    cells.append(_mean(row["success_steps"]))
                    if several:
                        cells += _gaps(gaps.get((row["policy"], suite, name)))
                    rows.append({"policy": row["policy"], "cells": cells})
            found.append({"suite": suite_name(suite), "decoding": name, "rows": rows})
    return found + _together(told, plan, gaps, wrong)


def _together(
    told: Mapping[str, Any], plan: Plan, gaps: Mapping[tuple[str, str, str], Any], wrong: bool
) -> list[dict[str, Any]]:
    found = []
    for temperature in plan.temperatures:
        name = decoding(temperature)
        if not any(suite == TOGETHER and own == name for _, suite, own in gaps):
            continue
        rows = []
        for policy in plan.policies:
            own = [
                row["success"]["rate"]
                for row in told["rows"]
                if (row["policy"], row["decoding"]) == (policy.name, name) and _unseen(row["suite"])
            ]
            success = _cell(f"{100 * sum(own) / len(own):.1f} %", f"mean of {len(own)} suites")
            rest = [_cell("")] * (4 if wrong else 3)
            cells = [success, *rest, *_gaps(gaps.get((policy.name, TOGETHER, name)))]
            rows.append({"policy": policy.name, "cells": cells})
        found.append({"suite": TOGETHER, "decoding": name, "rows": rows})
    return found


def _cell(value: str, *lines: str, real: bool = False) -> dict[str, Any]:
    return {"value": value, "lines": [line for line in lines if line], "real": real}


def _rate(cell: Mapping[str, Any], more: str = "") -> dict[str, Any]:
    if not cell["trials"]:
        return _cell(UNKNOWN)
    interval = f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}, n = {cell['trials']}"
    return _cell(f"{100 * cell['rate']:.1f} %", interval, more)


def _mean(cell: Mapping[str, Any]) -> dict[str, Any]:
    if not cell["trials"]:
        return _cell(UNKNOWN)
    if cell["low"] is None:
        return _cell(f"{cell['rate']:.1f}", f"n = {cell['trials']}")
    return _cell(f"{cell['rate']:.1f}", f"{cell['low']:.1f} to {cell['high']:.1f}, n = {cell['trials']}")


def _gaps(gap: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Cells of the differences in success, collision and steps; empty for the first policy."""
    if gap is None:
        return [_cell("")] * 3
    found = [_gap(gap, "points")]
    for figure, unit in (("collision", "points"), ("success_steps", "steps")):
        found.append(_gap(gap[figure], unit) if figure in gap else _cell(""))
    return found


def _gap(cells: Mapping[str, Any], unit: str) -> dict[str, Any]:
    if cells[unit] is None:
        return _cell(UNKNOWN)
    interval = f"{cells['low']:+.1f} to {cells['high']:+.1f}{', noise' if cells['noise'] else ''}"
    return _cell(f"{cells[unit]:+.1f} {unit}", interval, real=not cells["noise"])


def _by_seed(row: Mapping[str, Any]) -> str:
    if len(row["seeds"]) < 2:
        return ""
    return "by training seed " + ", ".join(f"{100 * seed['rate']:.1f}" for seed in row["seeds"])


def mistakes(plan: Plan) -> bool:
    """Whether there are worlds with a wrong candidate to take: else the table has no column for it."""
    return any(item.variant == GROUNDING for suite in plan.suites for item in suite.items)


def _unseen(suite: str) -> bool:
    return suite.removeprefix(TUNING) in UNSEEN_SUITES


def suite_name(suite: str) -> str:
    """A suite as people read it."""
    return suite.replace("_", " ")
