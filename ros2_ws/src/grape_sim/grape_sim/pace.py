"""What the simulated world does when: its jobs, rates in its own time, the pace of a stream, the order of lock-step.
Pure; whoever shares one between threads holds a lock."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from grape_episode.geometry import Pose

JOINT_PERIOD = 1.0 / 30.0
KEEP_OUT_PERIOD = 0.05


@dataclass
class Every:
    """Due once per ``period`` seconds of the world."""

    period: float
    next: float = 0.0

    def restart(self, now: float) -> None:
        self.next = now + self.period

    def due(self, now: float) -> bool:
        if now < self.next:
            return False
        self.next = max(self.next + self.period, now)
        return True


class Rates:
    """What is published in real time beside clock and pose: camera, joints and robot state, keep-outs."""

    def __init__(self, camera_period: float) -> None:
        self._camera, self._joints, self._boxes = map(Every, (camera_period, JOINT_PERIOD, KEEP_OUT_PERIOD))

    def restart(self, now: float) -> None:
        for rate in (self._camera, self._joints, self._boxes):
            rate.restart(now)

    def due(self, now: float) -> tuple[bool, bool, bool]:
        """Whether camera, joints and keep-outs are due at ``now`` s of the world; joints come with every image."""
        camera, joints, boxes = (rate.due(now) for rate in (self._camera, self._joints, self._boxes))
        return camera, camera or joints, boxes


class Stream:
    """How long the arm takes to each target of a stream: until the next one is due, by the mean of the gaps so far.

    Within ``longest`` seconds in any case, which is also what the first target gets, and one after a longer pause;
    never in less than ``shortest``. So the arm is behind the stream by one gap, however long the stream is."""

    MEMORY = 0.3
    """Weight of the newest gap in the mean."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest, self._longest = shortest, longest
        self.restart()

    def restart(self) -> None:
        """The arm stands, and no target is known."""
        self._target: Pose | None = None
        self._last: float | None = None
        self._gap: float | None = None

    def take(self, target: Pose | None, now: float) -> float | None:
        """Seconds for a ``target`` that is seen at ``now``, seconds on one clock; None where there is nothing to
        command: no target, one that was taken before, or one that says the same again."""
        if target is None or target is self._target:
            return None
        before, self._target = self._target, target
        seconds = self._seconds(now)
        return None if before is not None and _same(before, target) else seconds

    def _seconds(self, now: float) -> float:
        gap = None if self._last is None else now - self._last
        self._last = now
        if gap is None or gap >= self._longest:
            self._gap = None
            return self._longest
        self._gap = gap if self._gap is None else self._gap + self.MEMORY * (gap - self._gap)
        return max(self._gap, self._shortest)


def _same(one: Pose, other: Pose) -> bool:
    return np.array_equal(one.position, other.position) and np.array_equal(one.quaternion, other.quaternion)


@dataclass
class Reset:
    """A reset under way: ``stamp`` ns of the first observation, or why not."""

    episode_id: str
    task: str
    variant: str
    initial_state: int
    done: threading.Event = field(default_factory=threading.Event)
    stamp: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Step:
    """One control period towards ``target``; None: hold the last one."""

    target: Pose | None


class LockStep:
    """A step of the world once its commit, and where that says accepted its target, are here; in any order, and only
    those of the observation that is awaited. Stamps are ns."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._awaited: int | None = None
        self._offered: tuple[int, Pose] | None = None
        self._commit: tuple[int, bool] | None = None
        self._until = float("inf")

    def reset(self) -> None:
        """What was heard belongs to another episode."""
        self._commit = self._offered = None
        self._until = float("inf")

    def awaits(self, stamp: int) -> None:
        """The observation of ``stamp`` goes out: its answer is awaited."""
        self._awaited = stamp

    def offer(self, stamp: int, target: Pose) -> Step | None:
        self._offered = stamp, target
        return self._advance()

    def commit(self, stamp: int, step: int, accepted: bool, now: float) -> Step | None:
        """``now``: seconds of any clock, that of ``overdue``."""
        if stamp != self._awaited:
            return None
        self._commit, self._until = (step, accepted), now + self._patience
        return self._advance()

    def overdue(self, now: float) -> int | None:
        """Number of the step whose target has not come in time; said once."""
        if self._commit is None or now <= self._until:
            return None
        self._until = float("inf")
        return self._commit[0]

    def _advance(self) -> Step | None:
        if self._awaited is None or self._commit is None:
            return None
        target = None
        if self._commit[1]:
            if self._offered is None or self._offered[0] != self._awaited:
                return None
            target = self._offered[1]
        self._awaited = self._commit = self._offered = None
        return Step(target)
