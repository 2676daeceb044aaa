"""One adapter, or the difference of two, on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from grape.console import console, table
from grape_trainer.difference import Comparison
from grape_trainer.errors import RegistryError, TrainerError
from grape_trainer.files import read_json
from grape_trainer.pairs import PairSet, read_pairs
from grape_trainer.registry import Registry
from grape_trainer.settings import settings

EPISODES_SHOWN, LAYERS_SHOWN = 8, 5


def describe(registry: Registry, adapter_id: str, runs: Path) -> None:
    """Print what an adapter is, what it was trained on, what the gate said and when it served.

    Raises RegistryError where its manifest cannot be read."""
    path = registry.path(adapter_id)
    told = read_json(path / "manifest.json", RegistryError)
    rows = [
        ["folder", str(path)],
        ["base model", str(told.get("base_hash", ""))],
        ["trained from", " < ".join(registry.pedigree(adapter_id)) or "the base model alone"],
        ["created", str(told.get("created", ""))],
        ["objective", str(told.get("objective", ""))],
        ["cost programs", str(told.get("cost_program_hash", "")).replace(",", "\n")],
        ["pairs", str(told.get("pairs", ""))],
        ["settings", _settings(told.get("settings") or {})],
        *([f"{name}", _number(value)] for name, value in flat(told.get("metrics") or {}).items()),
    ]
    _facts(adapter_id, rows)
    episodes = [str(name) for name in told.get("episodes", ())]
    _trained_on(episodes, runs)
    verdict = told.get("verdict") or {}
    checks = verdict.get("checks") or []
    if verdict and not checks:
        checks = [{"name": "verdict", "passed": verdict.get("accepted"), "words": verdict.get("reason", "")}]
    shown = {True: "passed", False: "failed", None: "not measured"}
    _facts("gate", [[f"{c['name']}: {shown[c['passed']]}", str(c["words"])] for c in checks] or [["", "not judged"]])
    moves = [move for move in registry.history() if adapter_id in (move.get("to"), move.get("from"))]
    if moves:
        _facts("history", [[_when(move), _move(move, adapter_id)] for move in moves])


def show_difference(found: Comparison) -> None:
    """Print what two adapters differ in."""
    names = (found.first.adapter_id[:12], found.second.adapter_id[:12])
    for title, values in (("settings", found.settings), ("metrics", found.metrics)):
        if values:
            rows = [[name, _number(one), _number(two)] for name, (one, two) in values.items()]
            table(title, ["", *names], rows)
        else:
            console.print(f"{title}: the same")
    counts = f"{len(found.common)} in both, {len(found.only_first)} only in {names[0]}, "
    console.print(f"episodes: {counts}{len(found.only_second)} only in {names[1]}")
    if found.distance is None:
        console.print("weights: of different base models, no distance")
        return
    d = found.distance
    console.print(
        f"weights (Frobenius norm of B A, all layers): {names[0]} {d.first:.4g}, {names[1]} {d.second:.4g}, "
        f"apart {d.apart:.4g}, cosine {d.cosine:.4f}"
    )
    rows = [[name, f"{value:.4g}"] for name, value in list(d.layers.items())[:LAYERS_SHOWN]]
    table("layers furthest apart", ["layer", "distance"], rows)


def trained_on(episodes: list[str], runs: Path) -> tuple[Path, PairSet] | None:
    """The newest pairs file under ``runs`` that holds all these episodes, and what it says; None: there is none."""
    wanted = set(episodes)
    found = sorted(runs.rglob("pairs.json"), key=lambda p: p.stat().st_mtime, reverse=True) if runs.is_dir() else []
    for path in found:
        try:
            pairs = read_pairs(path)
        except TrainerError:
            continue  # a file of that name that is none, or was damaged: another may tell
        if wanted and wanted <= pairs.by_id.keys():
            return path, pairs
    return None


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return result


def _trained_on(episodes: list[str], runs: Path) -> None:
    told = trained_on(episodes, runs)
    if told is not None:
        path, pairs = told
        rows = [[name, *(str(value) for value in counts.values())] for name, counts in pairs.tasks().items()]
        table(f"trained on {path}", ["task", "episodes", "successes", "states", "pairs"], rows)
    shown = episodes[:EPISODES_SHOWN]
    more = f" and {len(episodes) - len(shown)} more (--json names them all)" if len(episodes) > len(shown) else ""
    console.print(f"{len(episodes)} episodes: {', '.join(shown)}{more}", markup=False)


def _settings(values: Mapping[str, Any]) -> str:
    """The preset's name and what differs from it."""
    name = str(values.get("preset", "default"))
    try:
        plain = settings(name).to_dict()
    except TrainerError:
        plain = {}
    other = [f"{key} {value}" for key, value in values.items() if plain.get(key, object()) != value]
    return "\n".join([f"preset {name}", *other])


def _facts(title: str, rows: list[list[str]]) -> None:
    from rich.table import Table

    grid = Table(title=escape(title), title_justify="left", show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    console.print(grid)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _when(move: Mapping[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(move.get("time", 0))))


def _move(move: Mapping[str, Any], adapter_id: str) -> str:
    side = "to" if move.get("to") == adapter_id else "from"
    other = str(move.get("from" if side == "to" else "to", ""))[:12] or "the base model"
    words = f"{move.get('action')}: {'serves after' if side == 'to' else 'gives way to'} {other}"
    words += ", past the gate" if move.get("forced") else ""
    words += ", without a policy" if move.get("offline") else ""
    return words + (f": {move['note']}" if move.get("note") else "")
