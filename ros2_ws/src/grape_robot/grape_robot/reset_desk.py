"""What a reset in the lab knows: the gate's words, the arm, the newest image, the operator's confirmation. No ROS.

Callbacks put, the reset waits; ``received`` is this machine's steady clock in seconds, stamps are ROS time in ns."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.typing import NDArray

from grape_episode.geometry import Pose
from grape_robot.state import HOMING
from grape_robot.state_library import state_name

T = TypeVar("T")
FRESH = 1.0
"""Seconds after which what was heard of the arm or the camera is old."""
ASKED_AGAIN = 20.0
"""Seconds in which a client may repeat a confirmation that was taken."""
SUPERSEDED = "another reset is asked for"
_ANSWER = re.compile(rf"{HOMING} step (\d+)[^:]*\b(accepted|refused)\b:? ?(.*)")
"""How the gate answers an operator's step."""


class ResetFailed(Exception):
    """The reset ends here; the text is the line for the operator and for who asked."""


@dataclass(frozen=True)
class GateHeard:
    """A GateStatus: ``target`` is what the next step starts from."""

    state: int
    check: str
    reason: str
    target: Pose


@dataclass(frozen=True)
class ArmHeard:
    """An ArmStatus."""

    received: float
    episode_id: str
    operator_drives: bool
    dead_man_required: bool
    dead_man: bool
    dry_run: bool


@dataclass(frozen=True)
class TcpHeard:
    received: float
    pose: Pose


@dataclass(frozen=True)
class WidthHeard:
    """Of the gripper's opening, metres."""

    received: float
    width: float


@dataclass(frozen=True)
class LiveFrame:
    """A camera image as it came from the wire: not decoded before it is looked at."""

    stamp: int
    received: float
    data: bytes


@dataclass(frozen=True)
class Answer:
    """The gate's on one step of the homing. ``refused``: why; empty: it was accepted."""

    target: Pose
    check: str
    refused: str


@dataclass(frozen=True)
class Awaited:
    """The confirmation that is waited for. ``stored``: the state's first frame, None for a new state; ``confirmed``:
    ROS time of the operator's word, ns."""

    task: str
    variant: str
    initial_state: int
    stored: NDArray | None
    confirmed: int | None = None

    @property
    def name(self) -> str:
        return state_name(self.task, self.variant, self.initial_state)


class ResetDesk:
    """Everything that a reset waits for; thread-safe. The fields may be read inside a check of ``wait``."""

    def __init__(self, steady: Callable[[], float] = time.monotonic, poll: float = 0.2) -> None:
        self._changed = threading.Condition()
        self.steady, self._poll = steady, poll
        self.gate: GateHeard | None = None
        self.arm: ArmHeard | None = None
        self.tcp: TcpHeard | None = None
        self.width: WidthHeard | None = None
        self.frame: LiveFrame | None = None
        self.awaited: Awaited | None = None
        self._answers: dict[int, Answer] = {}
        self._episode_id = ""
        self._stop = ""
        self._tickets = 0
        self._word: tuple[str, int, float] = "", 0, 0.0
        self._closed = ""

    def ask(self) -> int:
        """A reset is asked for: the one under way ends, since who asks again has given it up. The new one's ticket."""
        with self._changed:
            self._tickets += 1
            self._word = "", 0, 0.0  # what was said of the last one says nothing of this one
            self._stop = self._stop or SUPERSEDED
            self._changed.notify_all()
            return self._tickets

    def begin(self, ticket: int, episode_id: str) -> None:
        """A reset begins: what belonged to the last one is forgotten. Raises ResetFailed where it is over already."""
        with self._changed:
            if self._closed or ticket != self._tickets:
                raise ResetFailed(self._closed or SUPERSEDED)
            self._answers.clear()
            self._episode_id, self._stop, self.awaited = episode_id, "", None

    def close(self, reason: str) -> None:
        """Ends the reset that is under way, and every later one."""
        with self._changed:
            self._stop = self._closed = reason
            self._changed.notify_all()

    def put(self, **heard: object) -> None:
        """Replaces fields by name (``gate``, ``arm``, ``tcp``, ``width``, ``frame``)."""
        with self._changed:
            for name, value in heard.items():
                setattr(self, name, value)
            if isinstance(said := heard.get("gate"), GateHeard) and (match := _ANSWER.match(said.reason)):
                refused = "" if match[2] == "accepted" else match[3] or "without a reason"
                self._answers[int(match[1])] = Answer(said.target, said.check, refused)
            self._changed.notify_all()

    def ended(self, episode_id: str) -> None:
        """An episode has ended: its reset ends too."""
        with self._changed:
            if episode_id and episode_id == self._episode_id:
                self._stop = self._stop or f"episode {episode_id} has ended"
                self._changed.notify_all()

    def take_answer(self, sequence: int) -> Answer | None:
        """The gate's answer to a step, once. Inside a check of ``wait``."""
        return self._answers.pop(sequence, None)

    def confirm(self, task: str, initial_state: int, now: int) -> str:
        """The operator's word at ROS time ``now``; "" where it is taken, else why not."""
        with self._changed:
            awaited = self.awaited
            if awaited is None or awaited.confirmed is not None:
                if (task, initial_state) == self._word[:2] and self.steady() - self._word[2] < ASKED_AGAIN:
                    return ""  # the same word once more: its answer was lost
                return f"{task} {initial_state} is confirmed, and no reset waits for a confirmation"
            if (task, initial_state) != (awaited.task, awaited.initial_state):
                return f"{task} {initial_state} is confirmed, {awaited.task} {awaited.initial_state} is waited for"
            if self.frame is None or self.steady() - self.frame.received > FRESH:
                return f"the camera has sent nothing for {FRESH:g} s: nobody can have looked"
            self.awaited = replace(awaited, confirmed=now)
            self._word = task, initial_state, self.steady()
            self._changed.notify_all()
            return ""

    def await_confirmation(self, awaited: Awaited | None) -> None:
        """From now on this one is waited for; None: none."""
        with self._changed:
            self.awaited = awaited
            self._changed.notify_all()

    def wait(self, check: Callable[[], T | None], seconds: float) -> T | None:
        """The first result of ``check()`` that is not None, None after ``seconds``. What it raises comes through;
        raises ResetFailed when the reset is stopped."""
        end = self.steady() + seconds
        with self._changed:
            while True:
                if self._stop:
                    raise ResetFailed(self._stop)
                result = check()
                left = end - self.steady()
                if result is not None or left <= 0:
                    return result
                self._changed.wait(min(left, self._poll))
