"""Differences between policies that were trained several times and tried on the same states: both are a sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from grape_episode.statistics import CONFIDENCE, RESAMPLES, Difference, unvaried


def clustered(first: ArrayLike, second: ArrayLike, seed: int = 0, span: float = 1.0) -> Difference:
    """Mean of ``second - first`` with the percentile bootstrap over training seeds and over states.

    ``first``, ``second``: (S, N), a row a training seed and a column a state; (1, N) where a policy has no training
    seeds. NaN leaves a trial out. Rows and columns are drawn with replacement, independently of each other (the
    pigeonhole bootstrap, Owen 2007), so that neither many states can stand for few seeds nor many seeds for few states;
    with one seed the interval speaks of the states alone. ``span``: the largest difference that a state can show.
    ``trials`` of the result: the trials that entered on each side, seeds times states at most.
    Raises ValueError where the two do not fit."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1] or not _rows_fit(len(one), len(two)):
        raise ValueError(f"a clustered difference needs (seeds, states) of both sides, not {one.shape} and {two.shape}")
    delta = two - one
    known = np.isfinite(delta)
    trials = int(known.sum())
    if trials == 0:
        return Difference(float("nan"), float("nan"), float("nan"), 0)
    values = delta[known]
    centre = float(values.mean())
    if np.all(values == values[0]):
        return unvaried(centre, int(known.any(axis=0).sum()), trials, span)
    seeds, states = delta.shape
    random = np.random.default_rng(seed)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).astype(np.float64)
    columns = random.multinomial(states, np.full(states, 1 / states), RESAMPLES).astype(np.float64)
    weights = ((rows @ known) * columns).sum(axis=1)
    sums = ((rows @ np.where(known, delta, 0.0)) * columns).sum(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(sums[weights > 0] / weights[weights > 0], [tail, 100 - tail])
    return Difference(centre, float(low), float(high), trials)


def _rows_fit(one: int, two: int) -> bool:
    return one == two or 1 in (one, two)
