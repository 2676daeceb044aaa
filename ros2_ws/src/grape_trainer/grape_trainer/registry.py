"""Adapters by the hash of their weights and configuration: append-only folders, and a pointer to the serving one.

``<root>/<id>/`` is a PEFT folder with ``manifest.json``; ``<root>/current`` holds the id that the policy loads
at its start; ``<root>/history.jsonl`` records every move of the pointer. A crash at any point leaves whole
adapters and a pointer to one of them.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_policy.adapters import CURRENT, MANIFEST, AdapterError, adapter_hash
from grape_trainer.errors import RegistryError, TrainerError
from grape_trainer.files import append_line, publish_folder, read_json, read_lines, sync_folder, write_text

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Entry:
    """One adapter of a registry. ``problem``: why it must not be served, empty when it is whole."""

    adapter_id: str
    path: Path
    manifest: dict[str, Any]
    current: bool
    problem: str = ""


class Registry:
    """The adapters under ``root``; the folder is made when the first one is added."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def add(self, folder: Path) -> str:
        """Copy a PEFT folder with its manifest in; returns its id. An adapter that is already there is kept as it
        is. Raises RegistryError naming the folder when it is not whole or its manifest names another id."""
        folder = Path(folder)
        adapter_id = self._check(folder)
        final = self.root / adapter_id
        if final.exists():
            if problem := self._problem(final):
                raise RegistryError(f"{final}: {problem}")
            return adapter_id
        self.root.mkdir(parents=True, exist_ok=True)
        beside = self.root / f".new-{uuid.uuid4().hex}"
        try:
            shutil.copytree(folder, beside)
            publish_folder(beside, final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return adapter_id

    def path(self, adapter_id: str) -> Path:
        """The folder of an adapter, by its id or an unambiguous beginning of it. Raises RegistryError."""
        found = [p for p in self._folders() if p.name.startswith(adapter_id)] if adapter_id else []
        if len(found) != 1:
            what = "no adapter" if not found else f"{len(found)} adapters"
            raise RegistryError(f"{self.root}: {what} named {adapter_id!r}")
        return found[0]

    @property
    def current(self) -> str:
        """Id of the adapter that serves; empty: the base model alone."""
        try:
            return (self.root / CURRENT).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    @property
    def current_path(self) -> Path | None:
        """Its folder, None for the base model alone. Raises RegistryError when the pointer points nowhere."""
        adapter_id = self.current
        return self.path(adapter_id) if adapter_id else None

    def promote(self, adapter_id: str) -> None:
        """Move ``current``; only to be called once the policy has acknowledged the load. Empty: the base model.

        Raises RegistryError when the adapter is not here or damaged."""
        if adapter_id:
            path = self.path(adapter_id)
            adapter_id = path.name
            if problem := self._problem(path):
                raise RegistryError(f"{path}: {problem}")
        if adapter_id != self.current:
            self._move(adapter_id, "promote")

    def previous(self) -> str | None:
        """Id of what served before the current one; empty: the base model; None: nothing did."""
        stack = self._stack()
        return stack[-2] if len(stack) > 1 else None

    def rollback(self) -> str:
        """Move ``current`` back to what served before, returns that id (empty: the base model).

        Raises RegistryError when nothing served before."""
        before = self.previous()
        if before is None:
            raise RegistryError(f"{self.root}: nothing served before {self.current or 'the base model'}")
        if before and (problem := self._problem(self.path(before))):
            raise RegistryError(f"{self.path(before)}: {problem}")
        self._move(before, "rollback")
        return before

    def list(self) -> Sequence[Entry]:
        """All adapters, oldest first by their manifest's time."""
        entries = [self._entry(folder) for folder in self._folders()]
        return sorted(entries, key=lambda e: (str(e.manifest.get("created", "")), e.adapter_id))

    def verify(self) -> Sequence[Entry]:
        """The entries that are damaged, and the current one when it is missing; empty when all is well."""
        bad = [entry for entry in self.list() if entry.problem]
        current = self.current
        if current and not (self.root / current).is_dir():
            bad.append(Entry(current, self.root / current, {}, True, f"{CURRENT} points to it, but it is not there"))
        return bad

    def _folders(self) -> Iterable[Path]:
        if not self.root.is_dir():
            return []
        return sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))

    def _entry(self, folder: Path) -> Entry:
        problem = self._problem(folder)
        try:
            manifest = read_json(folder / MANIFEST, RegistryError)
        except RegistryError:
            manifest = {}
        return Entry(folder.name, folder, manifest, folder.name == self.current, problem)

    def _problem(self, folder: Path) -> str:
        try:
            found = self._check(folder)
        except TrainerError as error:
            return str(error).removeprefix(f"{folder}: ")
        return "" if found == folder.name else f"its weights and configuration hash to {found[:12]}: it was changed"

    def _check(self, folder: Path) -> str:
        if not folder.is_dir():
            raise RegistryError(f"{folder}: no such adapter")
        manifest = read_json(folder / MANIFEST, RegistryError)
        try:
            found = adapter_hash(folder)
        except (AdapterError, OSError) as error:
            raise RegistryError(f"{folder}: {error}") from None
        if manifest.get("adapter_id") != found:
            named = manifest.get("adapter_id")
            raise RegistryError(f"{folder}: {MANIFEST} names adapter {named!r}, its files are {found}")
        return found

    def _move(self, adapter_id: str, action: str) -> None:
        # the line first: one that the pointer does not confirm is not counted
        line = {"to": adapter_id, "from": self.current, "action": action, "time": time.time()}
        append_line(self.root / HISTORY, line)
        if adapter_id:
            write_text(self.root / CURRENT, adapter_id + "\n")
        else:
            (self.root / CURRENT).unlink(missing_ok=True)
            sync_folder(self.root)

    def _stack(self) -> Sequence[str]:
        """What served, in order, without what was rolled back; the last is the current one."""
        moves = read_lines(self.root / HISTORY)
        current = self.current
        # a move happened when what came after it began where it led to
        later = [*(move["from"] for move in moves[1:]), current]
        moves = [move for move, after in zip(moves, later, strict=False) if move["to"] == after]
        stack = [""]
        for move in moves:
            if move["action"] == "rollback" and len(stack) > 1:
                stack.pop()
            else:
                stack.append(str(move["to"]))
        if stack[-1] != current:
            # a pointer that was moved by hand
            stack.append(current)
        return stack
