"""One recording in progress: what is written, what is still awaited, and when it is over. No ROS: CDR bytes in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grape_episode import messages, topics
from grape_episode.bag import COMPRESSIONS
from grape_episode.episode import GATE_NONE, Identity, Outcome, Step, step_problems
from grape_episode.reader import header_stamp
from grape_episode.typestore import typestore
from grape_episode.writer import MEGABYTE, BagWriter

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


_STATE = (topics.CURRENT_POSE, topics.JOINT_STATES, topics.WRENCH, topics.KEYPOINTS, topics.WORLD_STATUS)
"""Topics order only their own messages: the last observation is complete when each of these that speaks at all has
reached the outcome's stamp."""


class RecordingError(ValueError):
    """An episode that cannot be recorded: the text names the field or the folder."""


@dataclass(frozen=True)
class RecordingSettings:
    """``root``: folder of the bags; ``disk_floor`` and ``queue_bytes`` in bytes; ``flush_seconds``: at most so much is
    lost in a crash; ``drain_seconds``: how long steps and images may come after the outcome. Raises RecordingError."""

    root: Path
    disk_floor: int = 1000 * MEGABYTE
    flush_seconds: float = 1.0
    drain_seconds: float = 2.0
    queue_bytes: int = 256 * MEGABYTE
    compression: str = "zstd"

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise RecordingError(f"compression is {self.compression!r}, expected one of {', '.join(COMPRESSIONS)}")


@dataclass(frozen=True)
class Summary:
    """What EpisodeRecord.msg says of a closed bag; ``size`` in bytes."""

    episode_id: str
    path: Path
    complete: bool
    problems: tuple[str, ...]
    messages: int
    size: int


class Recording:
    """The bag of one episode, from its identity to its outcome.

    ``identity``: CDR bytes of an EpisodeIdentity, written first. ``previous``: id of the episode before, whose
    steps may still be under way; those of any other are a problem. Raises RecordingError for an unusable id or a bag
    that exists, and DiskFullError."""

    def __init__(
        self,
        settings: RecordingSettings,
        identity: bytes,
        now: int,
        clock: Callable[[], float] = time.monotonic,
        previous: str = "",
    ) -> None:
        self.identity: Identity = messages.identity_of(_decode(topics.EPISODE, identity))
        episode_id = self.identity.episode_id
        if not _ID.fullmatch(episode_id):
            raise RecordingError(f"episode_id {episode_id!r}: letters, digits, '_', '.' and '-' only, and not empty")
        folder = Path(settings.root).absolute() / episode_id
        try:
            self._writer = BagWriter(
                folder,
                flush_seconds=settings.flush_seconds,
                disk_floor=settings.disk_floor,
                queue_bytes=settings.queue_bytes,
                compression=settings.compression,
            )
        except FileExistsError:
            raise RecordingError(f"{folder}: there is a bag of that name already") from None
        except OSError as error:
            raise RecordingError(f"{folder}: {error.strerror}") from error
        self._drain, self._clock, self._previous = settings.drain_seconds, clock, previous
        self._steps: list[Step] = []
        self._seen: set[int] = set()
        self._outcome: tuple[Outcome, bytes] | None = None
        self._deadline = float("inf")
        self._reached: dict[str, int] = {}
        self._judged: set[int] | None = None
        self._notes: list[str] = []
        self._put(topics.EPISODE, identity, now)

    @property
    def folder(self) -> Path:
        return self._writer.path

    def take(self, topic: str, data: bytes, now: int) -> None:
        """One CDR message received at ``now`` (nanoseconds). The outcome is held back until ``finish``."""
        if topic == topics.EPISODE:
            self._compare(messages.identity_of(_decode(topic, data)))
            return
        if topic == topics.OUTCOME:
            message = _decode(topic, data)
            if message.episode_id == self.identity.episode_id and self._outcome is None:
                self._outcome = (messages.outcome_of(message), data)
                self._deadline = self._clock() + self._drain
            return
        if topic in _STATE:
            self._reached[topic] = max(header_stamp(data), self._reached.get(topic, 0))
        elif topic == topics.GATE_STATUS:
            self._verdict(_decode(topic, data))
        elif topic == topics.MODEL_INPUT:
            self._seen.add(header_stamp(data))
        elif topic == topics.POLICY_STEP:
            message = _decode(topic, data)
            if message.episode_id == self._previous:
                return
            if message.episode_id == self.identity.episode_id:
                try:
                    self._steps.append(messages.step_of(message))
                except ValueError as error:
                    self._note(f"{topic}: {error}")
            else:
                self._note(f"step {message.step} of another episode: {message.episode_id}")
        self._put(topic, data, now)

    def done(self) -> bool:
        """Everything that the outcome counts is here, or its deadline has passed, or the disk failed."""
        if self._writer.failed:
            return True
        if self._outcome is None:
            return False
        if self._clock() > self._deadline:
            return True
        outcome = self._outcome[0]
        here = {step.index for step in self._steps if step.stamp in self._seen}
        if self._judged is not None:
            here &= self._judged
        observed = all(stamp >= outcome.stamp for stamp in self._reached.values())
        return observed and here.issuperset(range(outcome.steps))

    def finish(self, now: int, note: str = "") -> Summary:
        """Writes the outcome, if there is one, closes the bag and judges it; ``note`` says why it was cut short."""
        if note:
            self._note(note)
        outcome = None
        if self._outcome is not None:
            outcome = self._outcome[0]
            self._put(topics.OUTCOME, self._outcome[1], now)
        self._writer.close(self._notes)
        problems = [
            *self._notes,
            *step_problems(self.identity, tuple(self._steps), outcome, self._seen),
            *self._writer.problems,
        ]
        return Summary(
            episode_id=self.identity.episode_id,
            path=self.folder,
            complete=not problems,
            problems=tuple(dict.fromkeys(problems)),
            messages=self._writer.messages,
            size=sum(file.stat().st_size for file in self.folder.iterdir()),
        )

    def _verdict(self, message: Any) -> None:
        if message.episode_id == self.identity.episode_id and message.verdict != GATE_NONE:
            self._judged = (self._judged or set()) | {message.step}

    def _put(self, topic: str, data: bytes, now: int) -> None:
        self._writer.put(topic, topics.DATA_TYPES[topic], data, now)

    def _note(self, line: str) -> None:
        if line not in self._notes:
            self._notes.append(line)

    def _compare(self, announced: Identity) -> None:
        if announced.episode_id != self.identity.episode_id:
            self._note(f"another episode was announced within: {announced.episode_id}")
        elif replace(announced, stamp=0) != replace(self.identity, stamp=0):
            self._note(f"{topics.EPISODE}: the identity announced differs from the one that the recording began with")


def _decode(topic: str, data: bytes) -> Any:
    return typestore().deserialize_cdr(data, topics.DATA_TYPES[topic])
