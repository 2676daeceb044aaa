"""Camera frames' stamps in ROS time: from the device's own clock where it follows this machine's, else from receipt."""

from __future__ import annotations

from dataclasses import dataclass

GLOBAL, RECEIPT = "the device's global timestamps", "receipt"
MACHINE_DOMAINS = ("global_time", "system_time")
"""Timestamp domains of librealsense that count this machine's time, milliseconds since 1970."""
MOST_APART = 0.5
"""Seconds that a global timestamp may lie before its receipt: later it is no time of this exposure."""


@dataclass(frozen=True)
class Stamp:
    """``stamp`` ns of ROS time; ``source``: GLOBAL or RECEIPT."""

    stamp: int
    source: str


def frame_stamp(domain: str, timestamp: float, received: int, previous: int) -> Stamp | None:
    """The stamp of a frame of the device's ``timestamp`` (milliseconds, in ``domain``) that was ``received`` at this
    ROS time (ns), after one of the stamp ``previous`` (ns).

    Never later than the receipt: the gate refuses what is ahead of its clock. None where it would not be later than
    ``previous``: consumers tell frames apart by their stamps."""
    own = round(timestamp * 1e6)
    close = domain in MACHINE_DOMAINS and abs(received - own) <= MOST_APART * 1e9
    found = Stamp(min(own, received), GLOBAL) if close else Stamp(received, RECEIPT)
    return found if found.stamp > previous else None
