"""Actions as tokens: 256 bins per dimension, and the statistics that scale a dimension to [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grape_policy.config import ACTION_SIZE, GRIPPERS, ConfigError


@dataclass(frozen=True)
class ActionCodec:
    """OpenVLA's binning: the last `bins` ids below `vocab_size` stand for values from +1 (lowest id) to -1."""

    vocab_size: int
    bins: int = 256

    def encode(self, normalised: ArrayLike) -> NDArray[np.int64]:
        """Ids of values in [-1, 1] (clipped), any shape."""
        edges = np.linspace(-1.0, 1.0, self.bins)
        return self.vocab_size - np.digitize(np.clip(np.asarray(normalised, float), -1.0, 1.0), edges)

    def decode(self, ids: ArrayLike) -> NDArray[np.float64]:
        """Bin centres of ids, any shape; ids that are no action tokens give the nearest end of the range."""
        edges = np.linspace(-1.0, 1.0, self.bins)
        centres = (edges[:-1] + edges[1:]) / 2.0
        return centres[np.clip(self.vocab_size - np.asarray(ids) - 1, 0, self.bins - 2)]


@dataclass(frozen=True)
class ActionStats:
    """Percentiles of one dataset's actions; `mask` is false where a dimension is not scaled, `constant` true where it
    never changed. Each (7,)."""

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]
    constant: NDArray[np.bool_]


def gripper_opening(actions: ArrayLike, convention: str) -> NDArray[np.float64]:
    """(..., 7) actions of a checkpoint -> the same with the gripper from 0 (closed) to 1 (open), not clipped.

    convention: a name in `config.GRIPPERS`.
    """
    result = np.array(actions, float)
    closed, opened = GRIPPERS[convention]
    result[..., -1] = (result[..., -1] - closed) / (opened - closed)
    return result


def gripper_value(actions: ArrayLike, convention: str) -> NDArray[np.float64]:
    """The inverse of `gripper_opening`: what a checkpoint of this convention was trained to say."""
    result = np.array(actions, float)
    closed, opened = GRIPPERS[convention]
    result[..., -1] = closed + (opened - closed) * result[..., -1]
    return result


class NormStats:
    """The action statistics of a checkpoint by dataset key."""

    def __init__(self, entries: dict[str, Any], where: str = "norm_stats") -> None:
        """Raises ConfigError that names the key and field of a statistic that is missing or misshapen."""
        self.by_key: dict[str, ActionStats] = {}
        for key, entry in entries.items():
            try:
                action = entry["action"]
                q01, q99 = (np.asarray(action[name], float) for name in ("q01", "q99"))
                mask = np.asarray(action.get("mask", np.ones(q01.shape)), bool)
                low, high = (np.asarray(action.get(name, q), float) for name, q in (("min", q01), ("max", q99)))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{where}: {key}: unreadable action statistics: {error}") from None
            for name, value in (("q01", q01), ("q99", q99), ("mask", mask), ("min", low), ("max", high)):
                if value.shape != (ACTION_SIZE,) or not np.all(np.isfinite(value)):
                    raise ConfigError(f"{where}: {key}: action.{name} must be {ACTION_SIZE} finite values")
            self.by_key[key] = ActionStats(q01, q99, mask, low == high)

    def keys(self) -> list[str]:
        return list(self.by_key)

    def of(self, key: str | None = None) -> ActionStats:
        """The statistics of `key`, or the only ones there are. Raises ConfigError that lists the known keys."""
        if key is None and len(self.by_key) == 1:
            return next(iter(self.by_key.values()))
        if key is None or key not in self.by_key:
            raise ConfigError(f"unnorm_key {key!r} is unknown; the checkpoint has {sorted(self.by_key)}")
        return self.by_key[key]

    def normalise(self, actions: ArrayLike, key: str | None = None) -> NDArray[np.float64]:
        """(..., 7) actions in metres, radians and the checkpoint's gripper values -> [-1, 1].

        2 (x - q01) / (q99 - q01 + 1e-8) - 1, clipped; a dimension whose minimum is its maximum becomes 0.
        """
        stats, actions = self.of(key), np.asarray(actions, float)
        scaled = np.clip(2.0 * (actions - stats.q01) / (stats.q99 - stats.q01 + 1e-8) - 1.0, -1.0, 1.0)
        return np.where(stats.mask, np.where(stats.constant, 0.0, scaled), actions)

    def unnormalise(self, normalised: ArrayLike, key: str | None = None) -> NDArray[np.float64]:
        """(..., 7) values in [-1, 1] -> actions in metres, radians and the checkpoint's gripper values."""
        stats, values = self.of(key), np.asarray(normalised, float)
        return np.where(stats.mask, 0.5 * (values + 1.0) * (stats.q99 - stats.q01) + stats.q01, values)
