"""Playing a bag: what goes onto which topic, and when. No ROS.

Time is that of the recorded header stamps, so that a rollout recorded in lock-step replays at the pace of its world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grape_episode import topics
from grape_episode.bag import BagScan, Record
from grape_episode.reader import bag_file, check_end, check_type, checked_records, header_stamp, read_identity

REMAP, SKIP = "remap", "skip"


@dataclass(frozen=True)
class ReplaySettings:
    """``rate``: 1 is the recorded pace, 0 as fast as it goes; ``commands``: "remap" plays steps and commands under
    /grape/replay, "skip" leaves them out; ``skip``: further topics to leave out. Raises ValueError naming the field."""

    rate: float = 1.0
    commands: str = REMAP
    skip: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.commands not in (REMAP, SKIP):
            raise ValueError(f"commands is {self.commands!r}, expected {REMAP!r} or {SKIP!r}")
        if not 0 <= self.rate < float("inf"):
            raise ValueError(f"rate is {self.rate}, expected 0 or more")
        if unknown := self.skip - set(topics.DATA_TYPES):
            raise ValueError(f"skip: {', '.join(sorted(unknown))}: no topic of a bag")

    def destination(self, topic: str) -> str | None:
        """The topic onto which messages recorded on ``topic`` are played; None: they are not."""
        if topic not in topics.DATA_TYPES or topic in self.skip:
            return None
        if topic not in topics.COMMANDS:
            return topic
        return replayed(topic) if self.commands == REMAP else None


@dataclass(frozen=True)
class Item:
    """``data`` (CDR) is due on ``topic`` at ROS time ``at``, nanoseconds, never before the item in front of it."""

    at: int
    topic: str
    type_name: str
    data: bytes


def replayed(topic: str) -> str:
    """The name under /grape/replay of a topic that is not played onto itself."""
    return f"{topics.REPLAY}/{topic.removeprefix('/grape').lstrip('/')}"


def items(path: Path, settings: ReplaySettings) -> Iterator[Item]:
    """What there is to play, in order. Raises EpisodeError, before the first item where the bag is cut off or is no
    bag of an episode."""
    file = bag_file(path)
    read_identity(file)
    check_end(file)
    return _items(file, settings)


def _items(file: Path, settings: ReplaySettings) -> Iterator[Item]:
    # the identity may have been announced long before the first observation: it is played together with that
    held: list[Record] = []
    at = 0
    for record in checked_records(BagScan(file)):
        if record.topic not in topics.DATA_TYPES:
            continue
        check_type(file, record)
        if record.topic == topics.EPISODE and not at:
            held.append(record)
            continue
        at = max(at, header_stamp(record.data))
        for due in (*held, record):
            if topic := settings.destination(due.topic):
                yield Item(at, topic, due.type_name, due.data)
        held.clear()


@dataclass(frozen=True)
class Pace:
    """ROS time at a wall time: ``start`` nanoseconds at ``begun`` seconds (monotonic), ``rate`` times as fast."""

    start: int
    begun: float
    rate: float

    def at(self, now: float) -> int:
        """ROS time, nanoseconds, at monotonic time ``now``."""
        return self.start + round((now - self.begun) * self.rate * 1e9)
