"""What may leave a registry: adapters that never served and that nothing refers to. Of each its manifest stays."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_trainer.errors import TrainerError
from grape_trainer.files import append_line, read_json, read_lines, sync_folder
from grape_trainer.registry import DRAFT, Registry

REMOVED, GONE = "removed.jsonl", ".gone-"
"""``removed.jsonl`` keeps the manifests of what was removed: a pedigree does not end there."""


@dataclass(frozen=True)
class Kept:
    """Why an adapter stays (``reason``), or that it may go (empty). ``size``: bytes."""

    adapter_id: str
    path: Path
    reason: str
    size: int


def plan(registry: Registry, referred: Iterable[str] = ()) -> Sequence[Kept]:
    """For every adapter whether it stays. ``referred``: ids that something outside the registry refers to.

    What is damaged stays: a person must look at it."""
    entries = registry.list()
    served, referred = registry.served(), set(referred)
    stays = {entry.adapter_id for entry in entries if entry.adapter_id in served | referred or entry.problem}
    parents = {parent for name in stays for parent in registry.pedigree(name)}
    result = []
    for entry in entries:
        name = entry.adapter_id
        reason = ""
        if entry.current:
            reason = "serves"
        elif entry.problem:
            reason = f"damaged: {entry.problem}"
        elif name in served:
            reason = "has served"
        elif name in referred:
            reason = "a run refers to it"
        elif name in parents:
            reason = "a parent of one that stays"
        result.append(Kept(name, entry.path, reason, _size(entry.path)))
    return result


def collect(registry: Registry, referred: Iterable[str] = ()) -> Sequence[Kept]:
    """Remove what :func:`plan` lets go, and what a crash left half-written; returns what was removed.

    Each goes by one rename, after its manifest was noted; a crash leaves it there or gone."""
    referred = set(referred)
    with registry.locked():
        for leftover in _leftovers(registry.root):
            shutil.rmtree(leftover)
    gone = [kept for kept in plan(registry, referred) if not kept.reason]
    for kept in gone:
        with registry.locked():
            if kept.adapter_id in registry.served():
                continue  # meanwhile
            line: dict[str, Any] = {"adapter_id": kept.adapter_id, "time": time.time()}
            line["manifest"] = read_json(kept.path / "manifest.json", TrainerError)
            append_line(registry.root / REMOVED, line)
            away = registry.root / f"{GONE}{uuid.uuid4().hex}"
            os.rename(kept.path, away)
            sync_folder(registry.root)
            shutil.rmtree(away)
    return gone


def references(runs: Path) -> set[str]:
    """Ids of the adapters that runs under ``runs`` refer to: those that recorded their episodes, and those from which
    an unfinished run goes on. Raises TrainerError naming a file that cannot be read: then nothing may be removed."""
    found: set[str] = set()
    for path in _files(runs):
        if path.name == "rollouts.jsonl":
            found |= {str(line.get("adapter_id", "")) for line in read_lines(path)}
        elif path.name == "pairs.json":
            episodes = read_json(path).get("episodes", {})
            found |= {str(entry.get("adapter_id", "")) for entry in episodes.values()}
        else:
            state = read_json(path)
            if not state.get("ended"):
                found |= {str(state.get("sampled_with", "")), str(state.get("adapter_before", ""))}
    return found - {""}


def _files(runs: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(runs):
        yield from (Path(folder) / name for name in names if name in ("rollouts.jsonl", "pairs.json", "align.json"))


def _leftovers(root: Path) -> list[Path]:
    return [p for p in root.iterdir() if p.is_dir() and p.name.startswith((DRAFT, GONE))] if root.is_dir() else []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
