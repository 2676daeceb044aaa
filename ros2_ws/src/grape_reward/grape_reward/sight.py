"""Keypoints that are lost for a while: what nobody saw is unknown, unless the task allows so short a gap."""

from __future__ import annotations


class Sight:
    """Tell it of every observation in order. ``lost_at_most``: how long a keypoint may be lost, seconds."""

    def __init__(self, lost_at_most: float) -> None:
        self._lost_at_most = lost_at_most
        self._since: int | None = None
        self._now = 0
        self._blind = ""
        self._unknown: set[int] = set()
        self._undecided: list[str] = []

    def lose(self, stamp: int, what: str) -> None:
        """An observation at which something was lost: ``what``."""
        self._since = stamp if self._since is None else self._since
        self._now, self._blind = stamp, what

    def see(self, stamp: int, stage: int) -> None:
        """An observation at which everything is known again, in 0-based ``stage``."""
        self._now = stamp
        if self._blind and self._seconds > self._lost_at_most:
            self._unknown.add(stage)
            self._undecided.append(f"stage {stage + 1}: {self._blind} for {self._seconds:.3f} s")
        self._since, self._blind = stamp, ""

    def at_the_end(self, stage: int, decided: bool) -> tuple[set[int], list[str]]:
        """The stages whose costs are unknown, and why the episode is undecided; ``stage`` is the last one, ``decided``
        whether it is known if the task was done."""
        unknown, undecided = set(self._unknown), list(self._undecided)
        if self._blind:
            undecided.append(f"the last observation: {self._blind}")
            # nobody knows whether the last stage was seen to its end until it is known whether the task was done
            if not decided or self._seconds > self._lost_at_most:
                unknown.add(stage)
        return unknown, undecided

    @property
    def _seconds(self) -> float:
        return 0.0 if self._since is None else (self._now - self._since) / 1e9
