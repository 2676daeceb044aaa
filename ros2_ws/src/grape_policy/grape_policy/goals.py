"""One goal at a time."""

from __future__ import annotations

import threading
import time

RESERVATION = 10.0
"""Seconds after which an accepted goal that never began is given up: its client went away before it was told."""


class OneGoal:
    """A place for one goal: reserved when it is accepted, taken when it begins, free when it has ended."""

    def __init__(self, reservation: float = RESERVATION) -> None:
        self._reservation = reservation
        self._changed = threading.Condition()
        self._reserved: float | None = None
        self._taken = False

    def reserve(self) -> bool:
        """False: another goal holds the place."""
        with self._changed:
            now = time.monotonic()
            held = self._reserved is not None and now - self._reserved < self._reservation
            if self._taken or held:
                return False
            self._reserved = now
            return True

    def begin(self) -> None:
        with self._changed:
            self._taken, self._reserved = True, None

    def end(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def wait_free(self, seconds: float) -> bool:
        """Whether no goal is running, at the latest after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._taken, seconds)
