"""Statistics of features as LeRobot names them: min, max, mean, std, count and five quantiles, over every frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, NDArray[Any]]


def vector_stats(values: NDArray[Any]) -> Stats:
    """Of ``values`` (N,) or (N, D), N > 0: each (D,), float64; ``count`` (1,) is N. Quantiles are NumPy's."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def levels(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each level occurs, (3, 256), in ``images`` (N, H, W, 3)."""
    return np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)]).astype(np.int64)


def image_stats(counts: NDArray[np.int64], frames: int) -> Stats:
    """Of pixels counted by ``levels``, on a scale of 0 to 1: each (3, 1, 1); ``count`` (1,) is ``frames``.

    Levels are 256, so these are exact, the quantiles too (NumPy's, linear between neighbours)."""
    scale = np.arange(256) / 255.0
    total = counts.sum(axis=1)
    mean = counts @ scale / total
    std = np.sqrt((counts * (scale - mean[:, None]) ** 2).sum(axis=1) / total)
    seen = [np.flatnonzero(row) for row in counts]
    found = {
        "min": scale[[row[0] for row in seen]],
        "max": scale[[row[-1] for row in seen]],
        "mean": mean,
        "std": std,
        **{name: np.array([_quantile(row, q) for row in counts]) for name, q in QUANTILES.items()},
    }
    told = {name: values.reshape(3, 1, 1) for name, values in found.items()}
    return {**told, "count": np.array([frames])}


def _quantile(counts: NDArray[np.int64], q: float) -> float:
    where = q * (int(counts.sum()) - 1)
    low, high = np.searchsorted(np.cumsum(counts), [np.floor(where), np.ceil(where)], side="right")
    return float(low + (high - low) * (where - np.floor(where))) / 255.0


class Gathered:
    """What has been seen of every feature of a dataset, episode by episode."""

    def __init__(self) -> None:
        self._values: dict[str, list[NDArray[Any]]] = {}
        self._levels: dict[str, NDArray[np.int64]] = {}
        self._frames: dict[str, int] = {}

    def add(self, values: Mapping[str, NDArray[Any]], images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Stats]:
        """Take in an episode; returns its own statistics."""
        told: dict[str, Stats] = {}
        for name, pixels in images.items():
            counts = levels(pixels)
            self._levels[name] = self._levels.get(name, 0) + counts
            self._frames[name] = self._frames.get(name, 0) + len(pixels)
            told[name] = image_stats(counts, len(pixels))
        for name, rows in values.items():
            self._values.setdefault(name, []).append(rows)
            told[name] = vector_stats(rows)
        return told

    def stats(self) -> dict[str, Stats]:
        """Over all episodes: not the mean of theirs, the quantiles neither."""
        told = {name: image_stats(counts, self._frames[name]) for name, counts in self._levels.items()}
        return told | {name: vector_stats(np.concatenate(rows)) for name, rows in self._values.items()}


def plain(stats: Mapping[str, Stats], order: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """As JSON values, features in ``order``."""
    return {name: {key: value.tolist() for key, value in stats[name].items()} for name in order if name in stats}
