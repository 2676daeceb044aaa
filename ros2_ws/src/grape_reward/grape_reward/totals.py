"""The costs of one stage while it lasts, each reduced over time as its task file says.

``last``: the latest. ``max``: the greatest. ``integral``: the sum of the costs, each times the seconds until the next
observation. ``mean``: that, divided by the seconds it is taken over.
"""

from __future__ import annotations

from collections.abc import Sequence

from grape_reward.spec import Constraint


class StageTotals:
    """Of the constraints of a stage, in the program's order. ``begun``: it has been observed at all."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self._how = tuple(constraint.over_time for constraint in constraints)
        self._last: tuple[float, ...] = ()
        self._greatest: list[float] = []
        self._integral = [0.0] * len(self._how)
        self._seconds = 0.0

    @property
    def begun(self) -> bool:
        return bool(self._last)

    def pass_time(self, seconds: float) -> None:
        """Since the latest observation, whose costs stand until the next."""
        if not self.begun:
            return
        self._seconds += seconds
        for j, cost in enumerate(self._last):
            self._integral[j] += cost * seconds

    def observe(self, costs: tuple[float, ...]) -> None:
        """The costs at an observation."""
        self._greatest = list(map(max, self._greatest, costs)) if self._last else list(costs)
        self._last = costs

    def values(self) -> list[float]:
        """Each constraint's cost over the stage so far, before threshold and weight."""
        return [self._value(j, how) for j, how in enumerate(self._how)]

    def _value(self, j: int, how: str) -> float:
        if how == "last":
            return self._last[j]
        if how == "max":
            return self._greatest[j]
        if how == "integral":
            return self._integral[j]
        return self._integral[j] / self._seconds if self._seconds > 0 else self._last[j]
