"""When to try a lost device again, and what to say of it: once per outage. Pure; seconds of one steady clock."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Backoff:
    """Waiting times between attempts: ``first`` seconds, then ``factor`` times more, at most ``longest``."""

    first: float = 0.5
    factor: float = 2.0
    longest: float = 5.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1, 2, ...)."""
        wait = self.first
        for _ in range(failures - 1):
            wait = min(wait * self.factor, self.longest)
            if wait == self.longest:
                break
        return min(wait, self.longest)


@dataclass(frozen=True)
class Link:
    """What is known of the way to a device. ``failures``: in a row, without a frame between them."""

    streaming: bool = False
    failures: int = 0
    due: float = 0.0
    """When the next attempt may be made."""
    since: float | None = None
    """When the outage began; None: none."""
    said: str = ""
    """Reason that was told last in this outage."""

    def ready(self, now: float) -> bool:
        """Whether an attempt is due."""
        return not self.streaming and now >= self.due


def failed(link: Link, backoff: Backoff, now: float, reason: str) -> tuple[Link, str]:
    """An attempt, or a stream, failed. Returns the line to log: once per outage and reason, else empty."""
    failures = link.failures + 1
    line = reason if reason != link.said else ""
    since = now if link.since is None else link.since
    return Link(False, failures, now + backoff.delay(failures), since, reason), line


def delivered(link: Link, now: float) -> tuple[Link, str]:
    """A frame came: the outage, if there was one, is over, and the next begins with the shortest wait.

    A device that opens and sends nothing is no end of an outage: only frames are. Returns the line to log."""
    if link.streaming and not link.failures:
        return link, ""
    line = ""
    if link.since is not None:
        line = f"frames again after {now - link.since:.1f} s and {link.failures} failed attempts"
    return replace(Link(), streaming=True), line
