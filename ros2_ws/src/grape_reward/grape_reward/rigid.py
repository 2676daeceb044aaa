"""Rigid motions from pairs of points: weighted Kabsch, and RANSAC around it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array, Pose


@dataclass(frozen=True, eq=False)
class Rigid:
    """x -> rotation x + translation. ``rotation`` (3, 3), proper; ``translation`` (3,) metres."""

    rotation: Array = field(default_factory=lambda: np.eye(3))
    translation: Array = field(default_factory=lambda: np.zeros(3))

    @classmethod
    def between(cls, before: Pose, after: Pose) -> Rigid:
        """The motion, in the frame both poses are given in, that carries ``before`` to ``after``."""
        rotation = (after.rotation * before.rotation.inv()).as_matrix()
        return cls(rotation, after.position - rotation @ before.position)

    def apply(self, points: Array) -> Array:
        """Points (..., 3) moved."""
        return np.asarray(points @ self.rotation.T + self.translation)

    def after(self, first: Rigid) -> Rigid:
        """``first`` and then this motion."""
        return Rigid(self.rotation @ first.rotation, self.rotation @ first.translation + self.translation)

    def inverse(self) -> Rigid:
        """The motion back."""
        return Rigid(self.rotation.T, -self.rotation.T @ self.translation)

    def angle(self) -> float:
        """Angle of the rotation, radians in [0, pi]."""
        return float(np.arccos(np.clip(0.5 * (np.trace(self.rotation) - 1.0), -1.0, 1.0)))


def kabsch(source: Array, target: Array, weights: Array | None = None) -> Rigid:
    """The motion that carries ``source`` to ``target``, both (N, 3), least in the weighted sum of squared distances.

    Kabsch (1976), with Umeyama's (1991) sign so that it is never a reflection. ``weights`` (N,) not negative. Where
    the points leave a rotation open (fewer than three, or on a line) some best one is returned. Raises ValueError for
    arrays that do not fit, are empty, or weigh nothing.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    weights = np.ones(len(source)) if weights is None else np.asarray(weights, dtype=np.float64)
    if source.shape != target.shape or source.shape[1:] != (3,) or weights.shape != source.shape[:1]:
        raise ValueError(f"points {source.shape} and {target.shape} and weights {weights.shape} do not fit")
    total = weights.sum()
    if not total > 0:
        raise ValueError("no point has any weight")
    rotation, translation = _kabsch(source[None], target[None], (weights / total)[None])
    return Rigid(rotation[0], translation[0])


def _kabsch(source: Array, target: Array, weights: Array) -> tuple[Array, Array]:
    """Of B problems at once: points (B, N, 3), weights (B, N) that sum to one."""
    mean_s = np.einsum("bn,bnk->bk", weights, source)
    mean_t = np.einsum("bn,bnk->bk", weights, target)
    spread = np.einsum("bn,bni,bnj->bij", weights, target - mean_t[:, None], source - mean_s[:, None])
    u, _, vt = np.linalg.svd(spread)
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[:, :, 2] *= np.where(sign == 0, 1.0, sign)[:, None]
    rotation = u @ vt
    return rotation, mean_t - np.einsum("bij,bj->bi", rotation, mean_s)


@dataclass(frozen=True, eq=False)
class Consensus:
    """``motion``, which of the N pairs agree with it (``inliers``, bool), and their root mean square residual, m."""

    motion: Rigid
    inliers: NDArray[np.bool_]
    residual: float


Ties = tuple[Array, Array]
"""Source and target points (A, 3) that say where to stay in what the pairs leave open."""

_TIE_WEIGHT = 0.03


def refine(source: Array, target: Array, start: Rigid, threshold: float, ties: Ties | None = None) -> Consensus:
    """Least squares on the pairs (N, 3) within ``threshold`` metres, from ``start``, twice.

    ``ties`` have 3 % of the pairs' weight: enough to settle the rotation about a line that all pairs lie on, too
    little to pull at what the pairs determine.
    """
    motion = start
    for _ in range(2):
        inside = np.linalg.norm(motion.apply(source) - target, axis=1) < threshold
        if not inside.any():
            return Consensus(motion, inside, np.inf)
        motion = _fit(source[inside], target[inside], ties)
    distance = np.linalg.norm(motion.apply(source) - target, axis=1)
    inside = distance < threshold
    residual = float(np.sqrt(np.mean(distance[inside] ** 2))) if inside.any() else np.inf
    return Consensus(motion, inside, residual)


def _fit(source: Array, target: Array, ties: Ties | None) -> Rigid:
    if ties is None:
        return kabsch(source, target)
    weights = np.full(len(source) + len(ties[0]), 1.0 / len(source))
    weights[len(source) :] = _TIE_WEIGHT / len(ties[0])
    return kabsch(np.concatenate([source, ties[0]]), np.concatenate([target, ties[1]]), weights)


def ransac(
    source: Array,
    target: Array,
    threshold: float,
    rng: np.random.Generator,
    ties: Ties | None = None,
    samples: int = 48,
) -> Consensus | None:
    """The motion most pairs (N, 3) agree with to ``threshold`` metres (Fischler and Bolles, 1981); None where three
    cannot be found that do.

    ``samples`` triples are tried at once; the best is refined on all its inliers, with ``ties`` as in ``refine``.
    """
    count = len(source)
    if count < 3:
        return None
    # The three least of random keys: triples without repetition, in one call.
    triples = np.argpartition(rng.random((samples, count)), 2, axis=1)[:, :3]
    rotation, translation = _kabsch(source[triples], target[triples], np.full(triples.shape, 1.0 / 3.0))
    moved = np.einsum("bij,nj->bni", rotation, source) + translation[:, None]
    votes = (np.square(moved - target).sum(axis=2) < threshold**2).sum(axis=1)
    best = int(np.argmax(votes))
    if votes[best] < 3:
        return None
    found = refine(source, target, Rigid(rotation[best], translation[best]), threshold, ties)
    return found if found.inliers.sum() >= 3 else None
