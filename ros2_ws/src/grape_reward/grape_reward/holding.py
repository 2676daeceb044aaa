"""Whether success lasts: its condition must hold for a stated time, the gripper open and the object at rest."""

from __future__ import annotations

import math

from grape_reward.spec import Success
from grape_reward.timeline import Event


class Holding:
    """Push the observations that can be judged, in order; ``seconds``: at least so long, if the task asks for less."""

    def __init__(self, success: Success, seconds: float = 0.0) -> None:
        self._success = success
        self._seconds = max(success.hold, seconds)
        self._since: int | None = None
        self._count = 0
        self._last: Event | None = None

    def interrupt(self) -> None:
        """An observation that cannot be judged: what held before it need not have held throughout."""
        self._count = 0

    def push(self, event: Event, start: Event) -> bool:
        """Whether the task is done at this observation."""
        if self._count and self._disturbed(event):
            self._count = 0
        self._last = event
        if event.gripper_width < self._success.gripper_open or not self._success.when.holds(event, start):
            self._count = 0
            return False
        if not self._count or self._since is None:
            self._since = event.stamp
        self._count += 1
        return self._count >= 2 and (event.stamp - self._since) / 1e9 >= self._seconds

    def _disturbed(self, event: Event) -> bool:
        if self._last is None:
            return True
        return any(_moved(self._last, event, index) > most for index, most in self._success.still.items())


def _moved(before: Event, after: Event, index: int) -> float:
    """Way of a keypoint between two events, metres."""
    x, y, z = (after.keypoints[index] - before.keypoints[index]).tolist()
    return math.sqrt(x * x + y * y + z * z)
