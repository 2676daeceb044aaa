"""Steps at a fixed period on any clock, without drift."""

from __future__ import annotations


class Pacer:
    """Due times ``start + k * period``, integer nanoseconds.

    A tick that was missed by a whole period or more is skipped, not caught up: the phase stays."""

    def __init__(self, period: float, start: int) -> None:
        if period <= 0:
            raise ValueError(f"period {period} s: must be above 0")
        self._period = round(period * 1e9)
        self._due = start

    @property
    def period(self) -> float:
        """Seconds."""
        return self._period / 1e9

    @property
    def due(self) -> int:
        return self._due

    def left(self, now: int) -> float:
        """Seconds to the due time; 0 or less: it is due."""
        return (self._due - now) / 1e9

    def step(self, now: int) -> None:
        """The tick was used at ``now``: go on to the first due time after it."""
        self._due += self._period
        if now >= self._due:
            self._due += (now - self._due) // self._period * self._period
