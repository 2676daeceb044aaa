"""When another adapter may serve: by default between episodes, by force between two inferences.

That no action comes of a mixture is the engine's promise; here is only who waits for what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grape_policy.decision import AdapterInfo
from grape_policy.errors import AdapterError, ProcessEndedError


class SwappingEngine(Protocol):
    """The part of engine.Engine, and of the process that holds one, that is used here."""

    @property
    def serving(self) -> AdapterInfo: ...
    @property
    def previous(self) -> AdapterInfo | None: ...
    def load_adapter(self, folder: Path | None) -> AdapterInfo: ...
    def flip(self) -> AdapterInfo: ...
    def rollback(self) -> AdapterInfo: ...


@dataclass(frozen=True)
class Reply:
    """Answer to a load or a rollback: ``adapter`` serves now, or, when ``pending``, from the next episode on."""

    accepted: bool
    reason: str
    adapter: AdapterInfo
    pending: bool = False


class AdapterSwitch:
    """Loads, flips and rolls back an engine's adapters around episodes.

    A refused load or rollback leaves everything as it was, what is pending included; an accepted one takes the place
    of what is pending."""

    def __init__(self, engine: SwappingEngine) -> None:
        self._engine = engine
        self._loading = threading.Lock()  # held by whoever uses the engine's spare slot
        self._state = threading.Lock()
        self._in_episode = False
        self._flip: Callable[[], AdapterInfo] | None = None  # what waits for the end of the episode
        self._next: AdapterInfo | None = None

    @property
    def serving(self) -> AdapterInfo:
        return self._engine.serving

    def known(self) -> list[AdapterInfo]:
        """What else is at hand: pending, then what a rollback returns to."""
        return [adapter for adapter in (self._next, self._engine.previous) if adapter is not None]

    def begin_episode(self) -> AdapterInfo:
        """What serves at the start; until :meth:`end_episode` only a forced flip changes it."""
        with self._state:
            self._in_episode = True
            return self._engine.serving

    def end_episode(self) -> None:
        """The episode is over: what is pending serves now. Waits for a load under way. Raises ProcessEndedError."""
        with self._state:
            self._in_episode = False
        with self._loading, self._state:
            if not self._in_episode:
                self._flip_now()

    def load(self, folder: Path | None, force: bool) -> Reply:
        """Load ``folder`` (None: the base model alone) beside what serves, and flip to it when due."""
        with self._loading:
            try:
                loaded = self._engine.load_adapter(folder)
                return self._flip_when_due(self._engine.flip, loaded, force)
            except (AdapterError, ProcessEndedError) as problem:
                return Reply(False, str(problem), self.serving)

    def rollback(self, force: bool) -> Reply:
        """Flip back, when due, to what served before the last flip."""
        with self._loading:
            previous = self._engine.previous
            if previous is None:
                return Reply(False, "what served before is no longer loaded: load it from its folder", self.serving)
            try:
                return self._flip_when_due(self._engine.rollback, previous, force)
            except (AdapterError, ProcessEndedError) as problem:
                return Reply(False, str(problem), self.serving)

    def _flip_when_due(self, flip: Callable[[], AdapterInfo], to: AdapterInfo, force: bool) -> Reply:
        with self._state:
            self._flip, self._next = flip, to
            if self._in_episode and not force:
                return Reply(True, "", to, pending=True)
            self._flip_now()
            return Reply(True, "", self.serving)

    def _flip_now(self) -> None:
        flip, self._flip, self._next = self._flip, None, None
        if flip is not None:
            flip()
