"""What a safety evaluation leaves behind: ``summary.json`` for machines, ``report.html`` for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grape import charts, safety_charts
from grape.report import Chart, template
from grape.safety_figures import FIGURES, LEAST_STATES, Figure, by_person, in_words, summary, values, why, worst
from grape.safety_run import Plan, TrialResult
from grape_episode.episode import EpisodeError
from grape_episode.reader import read_episode
from grape_trainer.files import write_json, write_text

SUMMARY, REPORT = "summary.json", "report.html"
SHARES = ("success", "collision", "vetoed_episode", "gate_stop", "person")
BY_ITEM = ("success", "collision", "clearance", "vetoes", "gate_stop", "collision_force", "force", "steps")
EXTREMES = (("clearance", "least of all:"), ("collision_force", "most of all:"), ("force", "most of all:"))
UNKNOWN = "unknown"
NEAR = 100.0
"""Millimetres of clearance that the chart tells apart."""


def write(folder: Path, plan: Plan, results: Sequence[TrialResult], total: int) -> tuple[dict[str, Any], Path]:
    """Write both files into ``folder``, each whole or not at all; the summary, and the report's path."""
    told = summary(plan, results, total)
    write_json(folder / SUMMARY, told)
    write_text(folder / REPORT, render(told, plan, results, total))
    return told, folder / REPORT


def render(told: Mapping[str, Any], plan: Plan, results: Sequence[TrialResult], total: int) -> str:
    """The HTML text, one file with its pictures; what people wrote is escaped."""
    names = [policy.name for policy in plan.policies]
    by_name = {figure.name: figure for figure in FIGURES}
    return template("safety.html.j2").render(
        title=f"Safety evaluation: {plan.suite}",
        subtitle=f"{len(results)} of {total} episodes, {len(plan.items)} items, "
        f"{'in simulation' if plan.robot == 'sim' else 'on the arm'}, the same initial states for every policy",
        words=in_words(plan, results),
        cautions=cautions(told, plan, results, total),
        policies=names,
        rows=[_row(figure, told, names) for figure in FIGURES],
        extremes=[
            {"title": f"{which} {by_name[name].title}", "cells": [_extreme(by_name[name], told, p) for p in names]}
            for name, which in EXTREMES
        ],
        item_titles=[by_name[name].title for name in BY_ITEM],
        tables=[
            {
                "of": of,
                "rows": [
                    {"what": what, "policy": name, "cells": [_cell(by_name[f], sides[name][f]) for f in BY_ITEM]}
                    for what, sides in told[f"by_{of}"].items()
                    for name in names
                ],
            }
            for of in ("variant", "item")
        ],
        figures=[*_charts(told, plan, results, by_name), *_strips(results)],
        facts=_facts(told, plan),
    )


def cautions(told: Mapping[str, Any], plan: Plan, results: Sequence[TrialResult], total: int) -> list[str]:
    """What the figures do not say, a sentence each."""
    said = []
    if len(results) < total:
        said.append(f"Not finished: {total - len(results)} episodes are missing; the same command goes on.")
    titles = [figure.title for figure in FIGURES if figure.name in told["unknown"]]
    if titles:
        said.append(f"Unknown, because nobody there could judge it: {', '.join(titles)}.")
    if plan.robot == "real":
        said.append("No world judges an arm: look at vetoes, the force at the hand and the gate's own clearance.")
    taken = sum(by_person(result) is True for result in results)
    if taken:
        said.append(f"In {taken} episodes a person stepped in; they enter none of the other figures.")
    said.append("A high rate of vetoes says that the gate did its work; it does not say that the policy is safe.")
    return said


def _row(figure: Figure, told: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        "title": figure.title,
        "cells": [_cell(figure, told["figures"][name][figure.name]) for name in names],
        "gaps": [_gap(figure, told["differences"][name][figure.name]) for name in names[1:]],
    }


def _cell(figure: Figure, cells: Mapping[str, Any]) -> dict[str, str]:
    if not cells["trials"]:
        return {"value": UNKNOWN, "interval": ""}
    shown = _shown(figure, cells["rate"])
    if cells["low"] is None:
        return {"value": shown, "interval": f"{'the same in all, ' * (cells['trials'] > 1)}n = {cells['trials']}"}
    low, high = _shown(figure, cells["low"], bare=True), _shown(figure, cells["high"], bare=True)
    return {"value": shown, "interval": f"{low} to {high}, n = {cells['trials']}"}


def _extreme(figure: Figure, told: Mapping[str, Any], policy: str) -> dict[str, str]:
    """The worst single episode: its value and its item."""
    found = told["extremes"][policy][figure.name]
    if found is None:
        return {"value": UNKNOWN, "interval": ""}
    return {"value": _shown(figure, found["value"]), "interval": found["item"]}


def _gap(figure: Figure, cells: Mapping[str, Any]) -> dict[str, Any]:
    if not cells["trials"]:
        return {"value": UNKNOWN, "interval": "", "beyond_noise": False}
    shown = _shown(figure, cells["difference"], sign="+")
    if cells["low"] is None:
        few = cells["trials"] < LEAST_STATES
        said = "too few states" if few else "the same in all"
        return {"value": shown, "interval": f"{said}, n = {cells['trials']}", "beyond_noise": False}
    low, high = (_shown(figure, cells[key], bare=True, sign="+") for key in ("low", "high"))
    noise = "" if cells["beyond_noise"] else ", noise"
    return {"value": shown, "interval": f"{low} to {high}{noise}", "beyond_noise": cells["beyond_noise"]}


def _shown(figure: Figure, value: float, bare: bool = False, sign: str = "") -> str:
    """A figure for people: shares in per cent, metres in millimetres."""
    scale, unit, digits = (100.0, "%", 1) if figure.rate else (1000.0, "mm", 0) if figure.unit == "m" else (1.0, "", 1)
    unit = unit or ("N" if figure.unit == "N" else "")
    return f"{scale * value:{sign}.{digits}f}" + (f" {unit}" if unit and not bare else "")


def _charts(
    told: Mapping[str, Any], plan: Plan, results: Sequence[TrialResult], by_name: Mapping[str, Figure]
) -> list[Chart]:
    known = [name for name in SHARES if name not in told["unknown"]]
    found = [
        Chart(
            "Shares of episodes",
            "Whiskers: 95 % intervals (Wilson).",
            safety_charts.shares(told["figures"], known),
        )
    ]
    if any(told["vetoes_by_check"].values()):
        counts = {policy.name: sum(r.trial.policy == policy.name for r in results) for policy in plan.policies}
        drawn = safety_charts.vetoes(told["vetoes_by_check"], counts)
        found.append(Chart("Vetoes by check", "Steps that the gate refused, an episode, by the check.", drawn))
    for name, scale, label, title, most in (
        ("clearance", 1000.0, "least clearance, mm", "Least clearance of every episode", NEAR),
        ("force", 1.0, "largest external force, N", "Largest external force of every episode", math.inf),
    ):
        rows, marked = _dots(by_name[name], plan, results, scale)
        if rows:
            caption = "A mark an episode, a column an item; a cross where the world saw a collision."
            found.append(Chart(title, caption, safety_charts.episodes(rows, label, marked, most)))
    return found


def _dots(figure: Figure, plan: Plan, results: Sequence[TrialResult], scale: float) -> tuple[dict, dict]:
    """{item: {policy: values}} of what is known, and whether each collided."""
    rows: dict[str, dict[str, list[float]]] = {}
    marked: dict[str, dict[str, list[bool]]] = {}
    for result, value in zip(results, values(figure, results), strict=True):
        if value is not None:
            item, policy = result.trial.item, result.trial.policy
            rows.setdefault(item, {}).setdefault(policy, []).append(scale * value)
            marked.setdefault(item, {}).setdefault(policy, []).append(result.ended.collision == 1)
    return rows, marked


def _strips(results: Sequence[TrialResult]) -> list[Chart]:
    """Film strips of the worst episodes, from what the policy saw."""
    found = []
    for result in worst(results):
        title = f"{result.trial.item}, initial state {result.trial.initial_state}, {result.trial.policy}"
        try:
            frames = read_episode(Path(result.ended.bag)).images if result.ended.bag else None
        except EpisodeError as error:
            found.append(Chart(title, f"{why(result)}. No frames: {error}."))
            continue
        if frames is not None and len(frames):
            strip = charts.as_data_uri(charts.film_strip(frames))
            found.append(Chart(title, f"{why(result)}. Bag: {result.ended.bag}", uri=strip))
    return found


def _facts(told: Mapping[str, Any], plan: Plan) -> dict[str, object]:
    states = next(iter(told["items"].values()))
    return {
        "suite": f"{plan.suite} ({plan.suite_hash[:12]})",
        "base model": plan.base_hash[:12],
        "gate's profile": plan.profile or UNKNOWN,
        "policies": "; ".join(f"{p.name}: {p.path or 'the base model alone'}" for p in plan.policies),
        "initial states": f"{len(states)} an item; the first item's: {states[0]} to {states[-1]}",
        "seed and temperature": f"{plan.seed}, {plan.temperature:g}",
        "how they ended": "; ".join(
            f"{name}: " + ", ".join(f"{reason} {n}" for reason, n in ends.items())
            for name, ends in told["end_reasons"].items()
        ),
    }
