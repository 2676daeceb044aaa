"""The one run that is under way: worked off in a thread of its own, asked for and followed by any number of goals."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from grape_trainer.errors import TrainerError
from grape_trainer.goal import AlignGoal, close_note, one_line, open_note
from grape_trainer.plan import AlignConfig, AlignResult, Progress

Follow = Callable[[Progress], None]
Work = Callable[[AlignConfig, Callable[[], bool], Follow], AlignResult]
"""Does a run: its configuration, whether it is to stop, who hears of its progress."""


class Underway:
    """A run from its start to its end. ``result`` or ``problem`` (one line) is there once ``done`` is set; ``trace`` of
    what nobody foresaw."""

    def __init__(self, goal: AlignGoal, config: AlignConfig) -> None:
        self.goal, self.config = goal, config
        self.done, self.stop = threading.Event(), threading.Event()
        self.result: AlignResult | None = None
        self.problem = ""
        self.trace = ""
        self._followers: list[Follow] = []
        self._lock = threading.Lock()

    def start(self, work: Work, ended: Callable[[Underway], None] = lambda run: None) -> None:
        """Begin; ``ended`` is called in the run's thread, before ``done`` is set."""
        threading.Thread(target=self._run, args=(work, ended), name="align", daemon=True).start()

    def follow(self, follower: Follow) -> None:
        with self._lock:
            self._followers.append(follower)

    def leave(self, follower: Follow) -> None:
        with self._lock:
            self._followers.remove(follower)

    def _run(self, work: Work, ended: Callable[[Underway], None]) -> None:
        try:
            open_note(self.config.folder, self.goal)
            self.result = work(self.config, self.stop.is_set, self._tell)
        except Exception as error:
            self.problem = one_line(error)
            self.trace = "" if isinstance(error, TrainerError) else traceback.format_exc()
        finally:
            try:
                close_note(self.config.folder, self.goal)
                ended(self)
            finally:
                self.done.set()

    def _tell(self, progress: Progress) -> None:
        with self._lock:
            followers = list(self._followers)
        for follower in followers:
            follower(progress)
