"""The keypoints of an episode out of all that were published while it was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from grape_episode.episode import Series


class Sample(NamedTuple):
    """One message: ``stamp`` nanoseconds, K ``names``, ``points`` (K, 3) metres, ``confidence`` (K,)."""

    stamp: int
    names: tuple[str, ...]
    points: ArrayLike
    confidence: ArrayLike


def keypoint_series(samples: Sequence[Sample], begun: int) -> tuple[Series, Series, list[str]]:
    """Keypoints (N, K, 3), their confidence (N, K), without samples where none was in doubt, and problems.

    Of the names that they had from ``begun`` on, when the policy began: before that the world as it was until its reset
    may still have been seen, with other things in it. Other names later are a problem, and their samples left out."""
    at_work = [sample for sample in samples if sample.stamp >= begun] or samples
    names = at_work[0].names if at_work else ()
    problems = {
        f"the keypoints changed their names from {', '.join(names)} to {', '.join(sample.names)}": None
        for sample in at_work
        if sample.names != names
    }
    kept = [sample for sample in samples if sample.names == names]
    stamps = np.array([sample.stamp for sample in kept], np.int64)
    points = np.array([sample.points for sample in kept], np.float64).reshape(len(kept), len(names), 3)
    sure = np.array([sample.confidence for sample in kept], np.float64).reshape(len(kept), len(names))
    doubt = Series.empty(0) if np.all(sure == 1.0) else Series(stamps, sure, names)
    return Series(stamps, points, names), doubt, list(problems)
