"""What a Franka arm and its controller manager say of themselves, in words. The numbers are libfranka's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

IDLE, MOVE, GUIDING, REFLEX, USER_STOPPED, RECOVERING = 1, 2, 3, 4, 5, 6
MODES = {
    0: "other",
    IDLE: "idle",
    MOVE: "move",
    GUIDING: "guiding",
    REFLEX: "reflex",
    USER_STOPPED: "user stop",
    RECOVERING: "automatic error recovery",
}
ACTIVE = "active"


@dataclass(frozen=True)
class RobotMode:
    """One state of the arm: ``mode`` as FrankaRobotState numbers it, the names of its ``errors``, its ``stamp`` in ns
    of ROS time, and when it was ``heard``, seconds of the steady clock."""

    mode: int
    errors: tuple[str, ...]
    stamp: int
    heard: float

    @property
    def name(self) -> str:
        return MODES.get(self.mode, f"unknown mode {self.mode}")

    @property
    def stops(self) -> bool:
        """Whether nothing may be commanded: a reflex, or the user stop is pressed."""
        return self.mode in (REFLEX, USER_STOPPED)

    @property
    def healthy(self) -> bool:
        """Whether the arm is ready to move or moves, with no error."""
        return self.mode in (IDLE, MOVE) and not self.errors

    @property
    def line(self) -> str:
        """The mode, and the errors that are raised, in one line."""
        return f"{self.name}: {', '.join(self.errors)}" if self.errors else self.name


def raised(errors: Mapping[str, bool]) -> tuple[str, ...]:
    """The names of those that are true, in their order."""
    return tuple(name for name, value in errors.items() if value)


def controller_state(states: Iterable[tuple[str, str]], name: str) -> str:
    """The state of controller ``name`` among (name, state) pairs, e.g. ``active``; ``not loaded`` where it is none."""
    return next((state for found, state in states if found == name), "not loaded")
