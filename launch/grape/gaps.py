"""Control ticks that were lost: gaps between the steps of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Tick:
    """One PolicyStep as it was heard; ``stamp`` in ns of the observation it answers."""

    episode_id: str
    step: int
    stamp: int
    adapter_id: str
    adapter_seq: int


@dataclass(frozen=True)
class Gaps:
    """``lost_ticks``: control periods in which no step came; ``longest``: in periods; ``steps``: heard;
    ``swaps``: changes of the adapter between two steps of one episode."""

    lost_ticks: int
    longest: float
    steps: int
    swaps: int

    def as_dict(self) -> dict[str, float | int]:
        return {"lost_ticks": self.lost_ticks, "longest_gap_periods": self.longest} | {
            "steps": self.steps,
            "swaps_within_episodes": self.swaps,
        }


def gaps(ticks: Sequence[Tick], period: float) -> Gaps:
    """Gaps within episodes, for steps due every ``period`` seconds. One above 1.5 periods has lost a tick."""
    lost, longest, swaps = 0, 0.0, 0
    for before, after in pairwise(ticks):
        if before.episode_id != after.episode_id:
            continue
        gap = (after.stamp - before.stamp) / (period * 1e9)
        longest = max(longest, gap)
        if gap > 1.5:
            lost += round(gap) - 1
        swaps += before.adapter_seq != after.adapter_seq
    return Gaps(lost, longest, len(ticks), swaps)
