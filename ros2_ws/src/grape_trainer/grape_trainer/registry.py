"""Adapters by the hash of their weights and configuration: append-only folders, and a pointer to the serving one.

``<root>/<id>/`` is a PEFT folder with ``manifest.json``; ``<root>/current`` holds the id that the policy loads
at its start; ``<root>/history.jsonl`` records every move of the pointer, ``served.jsonl`` every adapter that a policy
was asked to serve, ``verdicts.jsonl`` every verdict. A crash at any point leaves whole adapters and a pointer to one of
them. Of a manifest only the verdict ever changes. Several processes may use one registry: what writes holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_policy.adapters import CURRENT, MANIFEST, AdapterError, adapter_hash, read_manifest
from grape_trainer.errors import RegistryError, TrainerError
from grape_trainer.files import append_line, publish_folder, read_json, read_lines, sync_folder, write_json, write_text

HISTORY, SERVED, VERDICTS, LOCK = "history.jsonl", "served.jsonl", "verdicts.jsonl", ".lock"
DRAFT = ".new-"


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
        with self.locked():
            if final.exists():
                if problem := self._problem(final):
                    raise RegistryError(f"{final}: {problem}")
                return adapter_id
            beside = self.root / f"{DRAFT}{uuid.uuid4().hex}"
            try:
                shutil.copytree(folder, beside)
                # the copy, not the original, which somebody may be writing to
                if self._check(beside) != adapter_id:
                    raise RegistryError(f"{folder}: changed while it was copied")
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

    def checked(self, adapter_id: str, force: bool = False, note: str = "") -> str:
        """The whole id of an adapter that may be promoted; empty: the base model alone, which always may.

        Raises RegistryError when it is not here, damaged, or without a verdict that accepts it; ``force`` goes past the
        verdict and needs a ``note``."""
        if not adapter_id:
            return ""
        path = self.path(adapter_id)
        if problem := self._problem(path):
            raise RegistryError(f"{path}: {problem}")
        verdict = read_json(path / MANIFEST, RegistryError).get("verdict") or {}
        if verdict.get("accepted") is True:
            return path.name
        if not force:
            why = f"the gate refused it: {verdict.get('reason', '')}" if verdict else "no gate has judged it"
            raise RegistryError(f"{path}: {why}")
        if not note.strip():
            raise RegistryError(f"{path}: promoting past the gate needs a note that says why")
        return path.name

    def promote(self, adapter_id: str, force: bool = False, note: str = "", offline: bool = False) -> None:
        """Move ``current``; only to be called once the policy has acknowledged the load (``deploy.promote`` does both).
        Empty: the base model. ``offline``: is written down, for a move without a policy.

        Raises RegistryError as :meth:`checked` does."""
        whole = self.checked(adapter_id, force, note)
        if whole != self.current:
            self._move(whole, "promote", force, note, offline)

    def previous(self) -> str | None:
        """Id of what served before the current one; empty: the base model; None: nothing did."""
        stack = self._stack()
        return stack[-2] if len(stack) > 1 else None

    def before(self) -> str:
        """What a rollback leads to. Raises RegistryError when nothing served before, or it is damaged."""
        before = self.previous()
        if before is None:
            raise RegistryError(f"{self.root}: nothing served before {self.current or 'the base model'}")
        if before and (problem := self._problem(self.path(before))):
            raise RegistryError(f"{self.path(before)}: {problem}")
        return before

    def rollback(self, note: str = "", offline: bool = False) -> str:
        """Move ``current`` back to what served before, returns that id (empty: the base model); for after the policy's
        acknowledgement, as :meth:`promote`. Raises RegistryError as :meth:`before` does."""
        before = self.before()
        self._move(before, "rollback", False, note, offline)
        return before

    def judge(self, adapter_id: str, verdict: dict[str, Any]) -> None:
        """Write a verdict into the manifest; earlier ones stay in ``verdicts.jsonl``. Raises RegistryError."""
        path = self.path(adapter_id)
        if problem := self._problem(path):
            raise RegistryError(f"{path}: {problem}")
        with self.locked():
            line = {"adapter_id": path.name, "verdict": verdict, "time": time.time()}
            append_line(self.root / VERDICTS, line)
            manifest = read_json(path / MANIFEST, RegistryError)
            write_json(path / MANIFEST, {**manifest, "verdict": verdict})

    def serves(self, adapter_id: str, event: str) -> None:
        """Note that a policy is ``asked`` to serve an adapter, or has ``acknowledged`` it."""
        if adapter_id:
            with self.locked():
                line = {"adapter_id": adapter_id, "event": event, "time": time.time()}
                append_line(self.root / SERVED, line)

    def served(self) -> set[str]:
        """Ids of all adapters that a policy was ever asked to serve, or that ``current`` ever pointed to."""
        ids = {str(line.get("adapter_id", "")) for line in self._lines(SERVED)}
        for move in self._lines(HISTORY):
            ids |= {str(move.get("to", "")), str(move.get("from", ""))}
        return (ids | {self.current}) - {""}

    def history(self) -> Sequence[dict[str, Any]]:
        """Every move of the pointer, oldest first."""
        return self._lines(HISTORY)

    def pedigree(self, adapter_id: str) -> Sequence[str]:
        """The ids from which an adapter was trained, nearest first; the last one may be missing here."""
        chain: list[str] = []
        name, seen = adapter_id, set()
        while name and name not in seen:
            seen.add(name)
            try:
                name = str(read_json(self.path(name) / MANIFEST, RegistryError).get("parent", ""))
            except RegistryError:
                break
            if name:
                chain.append(name)
        return chain

    def list(self) -> Sequence[Entry]:
        """All adapters, oldest first by their manifest's time."""
        entries = [self._entry(folder) for folder in self._folders()]
        return sorted(entries, key=lambda e: (str(e.manifest.get("created", "")), e.adapter_id))

    def verify(self) -> Sequence[Entry]:
        """The entries that are damaged, and the current one when it is missing; empty when all is well."""
        bad = [entry for entry in self.list() if entry.problem]
        for name in (HISTORY, SERVED, VERDICTS):
            try:
                self._lines(name)
            except TrainerError as error:
                problem = str(error).removeprefix(f"{self.root / name}: ")
                bad.append(Entry(name, self.root / name, {}, False, problem))
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
            if manifest.get("adapter_id") == found:
                read_manifest(folder)
        except (AdapterError, OSError) as error:
            raise RegistryError(f"{folder}: {error}") from None
        if manifest.get("adapter_id") != found:
            named = manifest.get("adapter_id")
            raise RegistryError(f"{folder}: {MANIFEST} names adapter {named!r}, its files are {found}")
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the registry against other processes; made where it is not there."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lines(self, name: str) -> Sequence[dict[str, Any]]:
        return read_lines(self.root / name)

    def _move(self, adapter_id: str, action: str, forced: bool, note: str, offline: bool) -> None:
        line = {"to": adapter_id, "from": self.current, "action": action, "time": time.time()}
        line |= {name: value for name, value in (("forced", forced), ("note", note), ("offline", offline)) if value}
        with self.locked():
            # the line first: one that the pointer does not confirm is not counted
            append_line(self.root / HISTORY, line)
            if adapter_id:
                write_text(self.root / CURRENT, adapter_id + "\n")
            else:
                (self.root / CURRENT).unlink(missing_ok=True)
                sync_folder(self.root)

    def _stack(self) -> Sequence[str]:
        """What served, in order, without what was rolled back; the last is the current one."""
        moves = self._lines(HISTORY)
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
