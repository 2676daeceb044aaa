"""A folder of bags under watch: which finished episodes of the serving policy have not been trained on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grape_episode.episode import EpisodeError
from grape_episode.reader import bag_file, check_end, find_bags, read_identity
from grape_trainer.files import append_line, read_lines

LEDGER = "watched.jsonl"
"""In the folder of the runs: one line for each run that trained, with its bags."""


@dataclass(frozen=True)
class Found:
    """``fresh``: bags to train on, sorted; ``unfinished``: bags that are still recorded, or were cut off."""

    fresh: tuple[str, ...]
    unfinished: tuple[str, ...]


class Watch:
    """Looks through ``folder``; what ``ledger`` names has been trained on. A bag is opened once, when it is whole."""

    def __init__(self, folder: Path, ledger: Path, least: int) -> None:
        self.folder, self.ledger, self.least = folder, ledger, least
        self._adapters: dict[str, str] = {}
        self._tried: set[str] = set()

    def look(self, serving: str) -> Found:
        """The bags recorded under ``serving`` (empty: the base model alone) that no run has trained on."""
        used = self.used()
        fresh, unfinished = [], []
        for folder in find_bags(self.folder):
            name = str(folder.resolve())
            if name in used:
                continue
            adapter = self._adapters.get(name)
            if adapter is None:
                try:
                    check_end(bag_file(folder))
                    adapter = self._adapters[name] = read_identity(folder).adapter_id
                except (EpisodeError, OSError):
                    unfinished.append(name)
                    continue
            if adapter == serving:
                fresh.append(name)
        return Found(tuple(sorted(fresh)), tuple(sorted(unfinished)))

    def due(self, serving: str) -> Sequence[str]:
        """The bags of a run that is to begin now: all fresh ones, where at least ``least`` of them were in no run that
        :meth:`tried` names; else empty."""
        fresh = self.look(serving).fresh
        return fresh if len(set(fresh) - self._tried) >= self.least else ()

    def tried(self, bags: Iterable[str]) -> None:
        """A run with these bags gave no adapter: they come again with ``least`` others."""
        self._tried |= set(bags)

    def trained(self, bags: Iterable[str]) -> None:
        """Never again: the policy has learned from these."""
        append_line(self.ledger, {"bags": sorted(bags), "time": time.time()})

    def used(self) -> set[str]:
        return {str(bag) for line in read_lines(self.ledger) for bag in line.get("bags", ())}
