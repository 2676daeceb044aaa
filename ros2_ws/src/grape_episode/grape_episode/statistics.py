"""Rates with intervals, and paired differences: what every table of the project is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval. ``rate`` is NaN and ``trials`` 0 where nothing was measured."""

    rate: float
    low: float
    high: float
    trials: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A paired difference (second minus first) with its 95 % interval, in the figure's own unit."""

    difference: float
    low: float
    high: float
    trials: int

    @property
    def beyond_noise(self) -> bool:
        """True where the interval excludes zero."""
        return bool(self.trials) and (self.low > 0 or self.high < 0)

    def as_dict(self) -> dict[str, float | int | bool]:
        return {**asdict(self), "beyond_noise": self.beyond_noise}


def proportion(outcomes: Sequence[bool]) -> Estimate:
    """Share of true outcomes with the Wilson score interval (Wilson 1927), by SciPy."""
    n = len(outcomes)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    k = int(sum(bool(o) for o in outcomes))
    interval = stats.binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(k / n, float(interval.low), float(interval.high), n)


def mean(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval; a single value has an interval of no width known, hence NaN."""
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    centre = float(np.mean(values))
    if n == 1:
        return Estimate(centre, float("nan"), float("nan"), 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(centre, centre - half, centre + half, n)


def paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Mean of ``second - first`` over the same states, with the percentile bootstrap over states.

    The resampling unit is the pair, so what both sides owe to an easy or hard state cancels.
    ``first`` and ``second``: equally long, one value a state. Raises ValueError otherwise."""
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs equal lengths, not {len(first)} and {len(second)}")
    delta = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n = len(delta)
    if n == 0:
        return Difference(float("nan"), float("nan"), float("nan"), 0)
    if np.all(delta == delta[0]):
        return unvaried(float(delta[0]), n)
    draws = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    means = delta[draws].mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Difference(float(delta.mean()), float(low), float(high), n)


def unvaried(difference: float, states: int, trials: int = 0, span: float = 1.0) -> Difference:
    """All of so many states show the same ``difference``: a bootstrap would claim certainty.

    Bounded instead is the share of states that are otherwise and were not seen, which may show anything from -``span``
    to ``span``. ``trials``: of the result, as many as states where it is 0."""
    unseen = 1.0 - (1.0 - CONFIDENCE) ** (1.0 / states)
    seen = (1.0 - unseen) * difference
    return Difference(difference, seen - unseen * span, seen + unseen * span, trials or states)


def in_words(difference: Difference, what: str, points: bool = True) -> str:
    """One sentence that says whether a difference is more than noise."""
    if difference.trials == 0:
        return f"{what}: nothing was measured."
    scale, unit = (100.0, " points") if points else (1.0, "")
    centre, low, high = (scale * x for x in (difference.difference, difference.low, difference.high))
    interval = f"{centre:+.1f}{unit}, 95 % interval {low:+.1f} to {high:+.1f}, {difference.trials} paired states"
    if difference.beyond_noise:
        return f"{what}: {'up' if centre > 0 else 'down'} by more than noise ({interval})."
    return f"{what}: no difference beyond noise ({interval})."
