"""Recorded Joy input for tests: what a driver said, from a list of changes. No ROS."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import yaml

from grape_robot.teleop import Joy

DRIVER_RATE = 50.0
"""Messages a second, as a driver repeats what does not change (joy's autorepeat_rate)."""


class RecordedJoy:
    """A YAML list of ``{t, axes, down}``: from second ``t`` on the axes have these values and these buttons are down,
    until the next entry; the last one is the end."""

    def __init__(self, path: Path, buttons: int = 15) -> None:
        entries = yaml.safe_load(Path(path).read_text())
        self._times = [float(entry["t"]) for entry in entries]
        if self._times != sorted(self._times):
            raise ValueError(f"{path}: t goes backwards")
        self._values = [
            Joy(tuple(map(float, entry["axes"])), tuple(int(number in entry["down"]) for number in range(buttons)))
            for entry in entries
        ]

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self._times[-1]

    def at(self, seconds: float) -> Joy:
        """What the device says that long after the beginning; before it, the first entry."""
        return self._values[max(0, bisect_right(self._times, seconds) - 1)]
