"""What the policy node has received, by stamp: one thread-safe inbox between the callbacks and the worker.

The camera has a slot of one: a frame that was not answered before the next came is gone (newest wins). Poses and
gripper widths are kept as short histories, so that a frame finds the state measured when it was taken. Stamps are
ROS time in integer nanoseconds; ``received`` is this machine's steady clock in seconds.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from grape_episode.geometry import Pose

T = TypeVar("T")

YES, NO, UNKNOWN = 1, 0, -1
STOPPED = 3
LEAVING_SECONDS = 3.0
"""How long a node that is going away still waits for the recorder."""


@dataclass(frozen=True)
class Frame:
    """A camera frame as it came from the wire: not decoded before it is used."""

    stamp: int
    received: float
    data: bytes


@dataclass(frozen=True)
class TaskSample:
    """The reward node's judgement of the observation at ``stamp``; ``success`` 1, 0 or -1 unknown."""

    stamp: int
    episode_id: str
    stage: int
    success: int


@dataclass(frozen=True)
class GateSample:
    """What the gate said: its state, and the verdict on ``step`` (0: none judged)."""

    received: float
    episode_id: str
    state: int
    step: int
    verdict: int
    check: str
    reason: str


@dataclass(frozen=True)
class WorldSample:
    """What the simulated world says of itself at ``stamp``."""

    stamp: int
    episode_id: str
    success: bool
    grasped: bool
    collision: bool


@dataclass(frozen=True)
class ArmSample:
    """Whose steps move the arm at ``stamp``: those of a person or of homing where ``operator``, else the policy's."""

    stamp: int
    operator: bool


@dataclass(frozen=True)
class RecordSample:
    """The recorder has closed the bag of ``episode_id``."""

    episode_id: str
    path: str
    complete: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """A frame with the TCP pose (base frame, metres) and the gripper width (metres) of the same time."""

    frame: Frame
    tcp: Pose
    gripper_width: float

    @property
    def stamp(self) -> int:
        return self.frame.stamp


CLOCK_JUMP = 1.0
"""Seconds behind the newest sample from which on a sample tells of a clock that was set back, not of a late message."""


class History(Generic[T]):
    """The last ``size`` samples in order of stamp; a sample older than the newest is put in its place.

    After a clock was set back everything of the time before it is forgotten: it would stay the newest for ever."""

    def __init__(self, size: int) -> None:
        self._stamps: deque[int] = deque(maxlen=size)
        self._values: deque[T] = deque(maxlen=size)

    def put(self, stamp: int, value: T) -> None:
        if self._stamps and self._stamps[-1] - stamp > CLOCK_JUMP * 1e9:
            self._stamps.clear()
            self._values.clear()
        if not self._stamps or stamp > self._stamps[-1]:
            self._stamps.append(stamp)
            self._values.append(value)
            return
        place = bisect.bisect_left(self._stamps, stamp)
        if self._stamps[place] == stamp:
            self._values[place] = value
        elif len(self._stamps) < (self._stamps.maxlen or 0):
            self._stamps.insert(place, stamp)
            self._values.insert(place, value)

    def at(self, stamp: int) -> T | None:
        """The sample with exactly this stamp."""
        place = bisect.bisect_left(self._stamps, stamp)
        found = place < len(self._stamps) and self._stamps[place] == stamp
        return self._values[place] if found else None

    def before(self, stamp: int, within: float) -> T | None:
        """The latest sample at or before ``stamp``, not more than ``within`` seconds older."""
        place = bisect.bisect_right(self._stamps, stamp) - 1
        if place < 0 or stamp - self._stamps[place] > within * 1e9:
            return None
        return self._values[place]


class Inbox:
    """Everything received that an episode may wait for.

    Callbacks put; the worker waits with :meth:`wait`, whose check runs under the lock. The fields may be read
    inside such a check."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.frame: Frame | None = None
        self.tcp: History[Pose] = History(500)
        self.width: History[float] = History(200)
        self.tasks: History[TaskSample] = History(50)
        self.task: TaskSample | None = None
        self.gate: GateSample | None = None
        self.verdicts: deque[GateSample] = deque()
        self.world: WorldSample | None = None
        self.record: RecordSample | None = None
        self.driven = False
        """Somebody else's steps move the arm."""
        self.handed_back = -1
        """Stamp at which that ended last."""
        self.drove = False
        """A person has moved the arm in this episode."""
        self.stop_reason: str | None = None
        self.failed = False
        self.leaving = False
        self._episode_id = ""

    def begin(self, episode_id: str) -> None:
        """Forget what belongs to earlier episodes; keep only what belongs to this one from now on."""
        with self._changed:
            self._episode_id = episode_id
            self.tasks = History(50)
            self.task = self.gate = self.world = self.record = None
            self.drove = False
            self.verdicts.clear()

    def put_frame(self, frame: Frame) -> None:
        with self._changed:
            self.frame = frame
            self._changed.notify_all()

    def put_tcp(self, stamp: int, tcp: Pose) -> None:
        with self._changed:
            self.tcp.put(stamp, tcp)
            self._changed.notify_all()

    def put_width(self, stamp: int, width: float) -> None:
        with self._changed:
            self.width.put(stamp, width)
            self._changed.notify_all()

    def put_task(self, sample: TaskSample) -> None:
        with self._changed:
            if sample.episode_id == self._episode_id:
                self.tasks.put(sample.stamp, sample)
                if self.task is None or sample.stamp >= self.task.stamp:
                    self.task = sample
                self._changed.notify_all()

    def put_gate(self, sample: GateSample) -> None:
        with self._changed:
            self.gate = sample
            if sample.verdict and sample.episode_id == self._episode_id:
                self.verdicts.append(sample)
            self._changed.notify_all()

    def put_arm(self, sample: ArmSample) -> None:
        with self._changed:
            if self.driven and not sample.operator:
                self.handed_back = sample.stamp
            self.driven = sample.operator
            self._changed.notify_all()

    def put_drive(self) -> None:
        """A person has moved a stick."""
        with self._changed:
            self.drove = True
            self._changed.notify_all()

    def put_world(self, sample: WorldSample) -> None:
        with self._changed:
            if sample.episode_id == self._episode_id:
                self.world = sample
                self._changed.notify_all()

    def put_record(self, sample: RecordSample) -> None:
        with self._changed:
            if sample.episode_id == self._episode_id:
                self.record = sample
                self._changed.notify_all()

    def stop(self, reason: str, leaving: bool = False, failed: bool = False) -> None:
        """Ask the running episode to end as cancelled, or as an error where something has ``failed``, which nothing
        that comes after covers; ``reason`` becomes its detail.

        ``leaving``: the node goes away, and others perhaps with it, so nobody is waited for long."""
        with self._changed:
            if not self.failed:
                self.stop_reason, self.failed = reason, failed
            self.leaving = leaving
            self._changed.notify_all()

    def clear_stop(self) -> None:
        """A new goal: what stopped the last one is over."""
        with self._changed:
            self.stop_reason, self.leaving, self.failed = None, False, False

    def wake(self) -> None:
        """Have those who wait look again: what they wait for has come by another way."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, check: Callable[[], T | None], seconds: float, poll: float = 0.5) -> T | None:
        """The first result of ``check()`` that is not None, or None after ``seconds`` of the steady clock.

        The check runs on every arrival, and every ``poll`` seconds for what does not arrive here (the ROS clock).
        What it raises comes through."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                result = check()
                left = end - time.monotonic()
                if result is not None or left <= 0:
                    return result
                self._changed.wait(min(left, poll))
