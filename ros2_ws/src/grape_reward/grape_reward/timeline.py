"""From topics to events: one event per PolicyStep, and one for the last observation of the episode.

The same object is fed by the live node, sample by sample, and by ``events_from_episode`` from a bag: an event holds
each topic's latest sample at or before its stamp, and is closed by a watermark, so neither the order in which topics
arrive nor where the scoring runs can change it. Stamps are integer nanoseconds of ROS time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode.episode import Episode
from grape_episode.geometry import Array

TOPICS = ("tcp", "gripper", "keypoints")
"""What every event needs: TCP pose, gripper width, keypoints."""
WRENCH = "wrench"
"""What an event needs besides, where a condition of the task reads the force."""


@dataclass(frozen=True, eq=False)
class Event:
    """What was known at one stamp. ``tcp`` (7,) xyz and quaternion in the base frame; ``gripper_width`` metres;
    ``keypoints`` (K, 3) metres; ``logprobs`` (7,) nats or None; ``wrench`` (6,) N and Nm, or None where no condition of
    the task reads it.

    ``step``: the index of the PolicyStep, None for the last observation. NaN stands for what is not known, and
    ``missing`` says what and why, one line each."""

    stamp: int
    tcp: Array
    gripper_width: float
    keypoints: Array
    logprobs: NDArray[np.float32] | None = None
    wrench: Array | None = None
    step: int | None = None
    missing: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """What should have been measured and was not; empty where nothing is missing."""
        if not np.isfinite(self.tcp).all():
            return "the TCP pose is not known"
        if not math.isfinite(self.gripper_width):
            return "the gripper's width is not known"
        if self.wrench is not None and not np.isfinite(self.wrench).all():
            return "the wrench is not known"
        return ""

    @property
    def lost(self) -> tuple[int, ...]:
        """Indices of the keypoints that were not seen, or not with enough confidence."""
        known = np.isfinite(self.keypoints)
        return () if known.all() else tuple(np.flatnonzero(~known.all(axis=1)).tolist())


def known_points(points: Array, confidence: Array, least: float) -> Array:
    """Keypoints (K, 3), or (N, K, 3), with NaN for those of a confidence (K,), or (N, K), below ``least``: what is not
    known is not guessed. Without any confidence, of size 0, all are believed."""
    if not np.size(confidence):
        return points
    return np.where((np.asarray(confidence, np.float64) >= least)[..., None], points, np.nan)


@dataclass
class _Track:
    """Samples of one topic in stamp order, and which of them the events already closed have taken."""

    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)

    def add(self, stamp: int, value: Any) -> str:
        """Insert a sample; returns what is wrong with it, or nothing."""
        at = bisect_left(self.stamps, stamp)
        if at < len(self.stamps) and self.stamps[at] == stamp:
            return "" if _same(self.values[at], value) else f"two different samples at {stamp}"
        self.stamps.insert(at, stamp)
        self.values.insert(at, value)
        first = bisect_left(self.taken, (stamp, -1))
        if first < len(self.taken) and self.taken[first][1] < stamp:
            return f"the sample of {stamp} came after the event of {self.taken[first][0]} had been closed"
        return ""

    def reached(self, stamp: int) -> bool:
        return bool(self.stamps) and self.stamps[-1] >= stamp

    def latest(self, stamp: int, peek: bool) -> tuple[int, Any] | None:
        """The latest sample at or before ``stamp``; unless ``peek``, an event has taken it for good."""
        at = bisect_right(self.stamps, stamp) - 1
        if not peek:
            self.taken.append((stamp, self.stamps[at] if at >= 0 else -1))
        return (self.stamps[at], self.values[at]) if at >= 0 else None


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))


class Timeline:
    """Collects samples and steps in whatever order they arrive, and hands out the events that are closed.

    ``lock_step``: a sample must carry the event's very stamp; else it may be ``max_age`` seconds old at most. What
    breaks the rule is still used, and noted in ``Event.missing``. Samples up to ``since`` (the announcement of the
    episode) belong to the world before it and are left out. ``wrench``: events need it too."""

    def __init__(self, lock_step: bool, max_age: float, since: int = 0, wrench: bool = False) -> None:
        self._max_age = 0 if lock_step else round(max_age * 1e9)
        self._since = since
        self._tracks = {topic: _Track() for topic in (*TOPICS, WRENCH)[: 4 if wrench else 3]}
        self._steps: dict[int, tuple[int, NDArray[np.float32] | None]] = {}
        self._next = 0
        self._last_stamp = -1
        self._end: tuple[int, int] | None = None
        self._done = False
        self.problems: list[str] = []

    def add(self, topic: str, stamp: int, value: Any) -> None:
        """A sample of one of ``TOPICS``: tcp (7,), gripper width in metres, keypoints (K, 3); or of the wrench (6,),
        which is left out where no event needs it."""
        if stamp <= self._since or topic not in self._tracks:
            return
        if problem := self._tracks[topic].add(stamp, value):
            self._note(f"{topic}: {problem}")

    def fill(self, topic: str, stamps: NDArray[np.int64], values: Any) -> None:
        """Many samples at once; as ``add`` of each in turn."""
        track = self._tracks.get(topic)
        if track is None:
            return
        later = stamps > self._since
        if not track.stamps and not track.taken and np.all(np.diff(stamps) > 0):
            track.stamps = stamps[later].tolist()
            track.values = list(np.asarray(values)[later])
            return
        for stamp, value in zip(stamps.tolist(), values, strict=True):
            self.add(topic, stamp, value)

    def add_step(self, index: int, stamp: int, logprobs: NDArray[np.float32] | None) -> None:
        """A PolicyStep: its index, the stamp of the observation it answers, its log-probs (7,) where it has them."""
        if index in self._steps:
            if self._steps[index][0] != stamp:
                self._note(f"step {index} came twice")
            return
        if index < self._next:
            self._note(f"step {index} came after the event of a later one had been closed")
        self._steps[index] = (stamp, logprobs if logprobs is not None and len(logprobs) else None)

    def close(self, stamp: int, steps: int) -> None:
        """The outcome: the stamp of the last observation and the number of steps sent."""
        self._end = (stamp, steps)

    @property
    def done(self) -> bool:
        """Every event has been handed out."""
        return self._done

    def pop(self) -> list[Event]:
        """The events closed since the last call, in order: all topics have samples at or after their stamp."""
        return self._emit(force=False)

    def flush(self) -> list[Event]:
        """What is left, as far as it is known: for an episode that ended and whose topics have nothing more to say."""
        return self._emit(force=True)

    def observation(self, stamp: int) -> Event | None:
        """What is known at the stamp of an observation; None until every topic has reached it."""
        return self._event(stamp, None, None, peek=True) if self._reached(stamp) else None

    def _emit(self, force: bool) -> list[Event]:
        events: list[Event] = []
        for index in self._pending(force):
            stamp, logprobs = self._steps[index]
            if not force and not self._reached(stamp):
                return events
            events.append(self._event(stamp, index, logprobs))
            self._last_stamp = max(self._last_stamp, stamp)
            self._next = index + 1
        if self._end is None or self._done:
            return events
        stamp, steps = self._end
        if force or (self._next >= steps and self._reached(stamp)):
            # An episode that ends on the observation of its last step has no further one.
            if stamp > self._last_stamp:
                events.append(self._event(stamp, None, None))
            self._done = True
        return events

    def _pending(self, force: bool) -> list[int]:
        """Indices of the steps to hand out next: without a gap, unless nothing more can come."""
        if force:
            return sorted(index for index in self._steps if index >= self._next)
        end = self._next
        while end in self._steps:
            end += 1
        return list(range(self._next, end))

    def _reached(self, stamp: int) -> bool:
        return all(track.reached(stamp) for track in self._tracks.values())

    def _event(self, stamp: int, step: int | None, logprobs: NDArray[np.float32] | None, peek: bool = False) -> Event:
        where = "the last observation" if step is None else f"step {step}"
        found: dict[str, Any] = {"tcp": np.full(7, np.nan), "gripper": np.nan, "keypoints": np.zeros((0, 3))}
        found[WRENCH] = np.full(6, np.nan) if WRENCH in self._tracks else None
        missing = []
        for topic, track in self._tracks.items():
            sample = track.latest(stamp, peek)
            if sample is None:
                missing.append(f"{topic}: no sample at or before {where}")
                continue
            found[topic] = sample[1]
            age = stamp - sample[0]
            if age > self._max_age:
                missing.append(f"{topic}: the latest sample at {where} is {age / 1e9:.3f} s old")
            elif not track.reached(stamp):
                missing.append(f"{topic}: ends before {where}")
        return Event(
            stamp,
            np.asarray(found["tcp"], np.float64),
            float(found["gripper"]),
            np.asarray(found["keypoints"], np.float64).reshape(-1, 3),
            logprobs,
            None if found[WRENCH] is None else np.asarray(found[WRENCH], np.float64),
            step=step,
            missing=tuple(missing),
        )

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def timeline_of(lock_step: bool, control_period: float, since: int, wrench: bool = False) -> Timeline:
    """The timeline for an episode's identity: live node and reader must agree on its settings.

    Outside lock-step a sample may be one control period old, or a fifth of a second where none is stated."""
    return Timeline(lock_step, control_period if control_period > 0 else 0.2, since, wrench)


def events_from_episode(episode: Episode) -> list[Event]:
    """One event per PolicyStep and one at the outcome's stamp, from a recorded episode; an episode without an outcome
    ends with its last step."""
    return read_timeline(episode)[0]


def read_timeline(episode: Episode, confidence: float = 0.0, wrench: bool = False) -> tuple[list[Event], list[str]]:
    """The events of a recorded episode and the timeline's problems. ``confidence``: below it a keypoint is lost;
    ``wrench``: events need the wrench."""
    identity = episode.identity
    timeline = timeline_of(identity.lock_step, identity.control_period, identity.stamp, wrench)
    points = known_points(episode.keypoints.values, episode.confidence.values, confidence)
    timeline.fill("tcp", episode.tcp.stamps, episode.tcp.values)
    timeline.fill("gripper", episode.gripper.stamps, episode.gripper.values[:, 0])
    timeline.fill("keypoints", episode.keypoints.stamps, points)
    timeline.fill(WRENCH, episode.wrench.stamps, episode.wrench.values)
    for step in episode.steps:
        timeline.add_step(step.index, step.stamp, step.logprobs)
    if episode.outcome is not None:
        timeline.close(episode.outcome.stamp, episode.outcome.steps)
    events = timeline.pop()
    return events + timeline.flush(), timeline.problems
