"""Candidates for keypoints: of each mask its middle and its parts, and of all of them those that stand apart.

As ReKep does it (Huang et al. 2024): per mask the principal components of the features joined with normalised
positions, k-means, of each cluster the member nearest to its middle; then a mean shift over all candidates, of which
those near each other become one. Different here: every mask also has its *centre*, the centroid of its visible surface,
which no merge removes: what a cost function speaks of most is a whole thing, and 6 cm is wider than many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MeanShift
from threadpoolctl import threadpool_limits

from grape_episode.geometry import Array
from grape_reward.camera import Calibration
from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.features import FeatureMap
from grape_reward.keypoints.masks import Mask, Region
from grape_reward.keypoints.surface import Surface, solid

Kind = Literal["centre", "surface"]
Point = tuple[float, float, float]
_WINDOW = 5
_LEAST_SPAN = 0.01


@dataclass(frozen=True)
class CandidateSettings:
    """ReKep's parameters. ``per_mask``: k of k-means. ``components`` of the features. ``bandwidth`` of the mean shift,
    metres. Masks over the share ``largest`` of the image or under ``smallest`` pixels of known depth are skipped.
    ``workspace``: lowest and highest corner, base frame, metres; what lies outside is no keypoint. ``limit``: so many
    keypoints at most. ``sample``: so many pixels of a mask enter k-means at most. ``same``: two overlapping masks whose
    centres are nearer, metres, have one centre. ``flying``: a pixel farther from the mean of its neighbours, metres, is
    a depth camera's invention. Raises KeypointsError naming the setting."""

    per_mask: int = 5
    components: int = 3
    bandwidth: float = 0.06
    largest: float = 0.5
    smallest: int = 50
    workspace: tuple[Point, Point] | None = None
    limit: int = 32
    sample: int = 4096
    same: float = 0.01
    flying: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("per_mask", "components", "smallest", "limit", "sample"):
            if getattr(self, name) < 1:
                raise KeypointsError(f"{name}: {getattr(self, name)} is below 1")
        for name in ("bandwidth", "largest", "flying"):
            if not 0 < getattr(self, name) < np.inf:
                raise KeypointsError(f"{name}: {getattr(self, name)} is not positive and finite")
        if not 0 <= self.seed < 2**32:
            raise KeypointsError(f"seed: {self.seed} is not in [0, 2^32)")
        if self.workspace is not None and not np.all(np.array(self.workspace[0]) < np.array(self.workspace[1])):
            raise KeypointsError(f"workspace: {self.workspace[0]} is not below {self.workspace[1]}")

    def inside(self, point: Array) -> bool:
        """Whether a point (3,) is in the workspace."""
        if self.workspace is None:
            return True
        low, high = np.array(self.workspace)
        return bool(np.all(point >= low) and np.all(point <= high))


@dataclass(frozen=True, eq=False)
class Candidate:
    """``pixel`` (u, v) inside the mask with index ``mask``; ``point`` (3,) metres, base frame. A ``surface`` candidate
    is the surface at its pixel; a ``centre`` is the surface's centroid, which for a thing that is not flat lies behind
    the pixel. ``size``: pixels it stands for. ``confidence`` in [0, 1]: the mask's score times the share of the pixels
    around it (of the whole mask, for a centre) whose depth is known."""

    pixel: tuple[int, int]
    point: Array
    mask: int
    kind: Kind
    size: int
    confidence: float


def of_mask(
    index: int,
    mask: Mask,
    surface: Surface,
    features: FeatureMap,
    calibration: Calibration,
    settings: CandidateSettings,
) -> list[Candidate]:
    """The mask's centre, then its parts, the largest first. Empty where the mask is too large, too small, or its centre
    outside the workspace."""
    region, cloud = mask.region, surface.cloud
    if region.mean() > settings.largest:
        return []
    rows, columns = np.nonzero(solid(region, cloud, settings.flying))
    if len(rows) < settings.smallest:
        return []
    pixels, points = np.stack([columns, rows], axis=1), cloud[rows, columns]
    centre = np.average(points, axis=0, weights=surface.areas[rows, columns])
    if not settings.inside(centre):
        return []
    known = np.asarray(np.isfinite(cloud[..., 2]) & region)
    sure = mask.score * float(known.sum() / region.sum())
    found = [Candidate(_nearest(region, calibration.project(centre)[0]), centre, index, "centre", len(rows), sure)]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), settings.sample)).astype(np.intp))
    pixels, points = pixels[chosen], points[chosen]
    members, sizes = parts(features.at(pixels), points, settings)
    for member, size in zip(members, sizes, strict=True):
        u, v = (int(x) for x in pixels[member])
        if settings.inside(points[member]):
            near = _window(region, u, v)
            sure = mask.score * float(_window(known, u, v).sum() / near.sum())
            share = round(size * len(rows) / len(chosen))
            found.append(Candidate((u, v), points[member], index, "surface", share, sure))
    return found


def parts(features: Array, points: Array, settings: CandidateSettings) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide one thing: the index of the member nearest to each cluster's middle, and the clusters' sizes, the largest
    first. ``features`` (N, F), ``points`` (N, 3)."""
    joined = np.concatenate([_spread(principal(features, settings.components)), _spread(points, _LEAST_SPAN)], axis=1)
    count = min(settings.per_mask, len(np.unique(joined, axis=0)))
    # One thread: the order of a parallel sum would show in the last bits, and so, once in a while, in a cluster.
    with threadpool_limits(1):
        fitted = KMeans(count, n_init=4, random_state=settings.seed).fit(joined)
    members, sizes = [], []
    for label in range(count):
        mine = np.flatnonzero(fitted.labels_ == label)
        if len(mine):
            gaps = np.linalg.norm(joined[mine] - fitted.cluster_centers_[label], axis=1)
            members.append(mine[np.argmin(gaps)])
            sizes.append(len(mine))
    order = np.lexsort((members, -np.array(sizes)))
    return np.array(members, dtype=np.intp)[order], np.array(sizes, dtype=np.intp)[order]


def principal(features: Array, count: int) -> Array:
    """(N, min(count, F)): the features (N, F) along their directions of largest variance."""
    centred = features - features.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    along: Array = centred @ axes[:, ::-1][:, :count]
    return along


def merged(candidates: Sequence[Candidate], masks: Sequence[Mask], settings: CandidateSettings) -> list[Candidate]:
    """Of candidates near each other one: the one nearest to the mean shift's mode, or, where there are centres among
    them, these. Afterwards no part is within ``bandwidth`` of another keypoint (modes of a long heap may be nearer),
    and of two centres at one place whose masks overlap the larger mask's stays."""
    if not candidates:
        return []
    points = np.stack([candidate.point for candidate in candidates])
    # From every candidate: ReKep's binned seeds are quicker where there are thousands, and warn where there are few.
    with threadpool_limits(1):
        shift = MeanShift(bandwidth=settings.bandwidth, n_jobs=1).fit(points)
    kept: list[Candidate] = []
    for label, mode in enumerate(shift.cluster_centers_):
        group = [one for one, owner in zip(candidates, shift.labels_, strict=True) if owner == label]
        centres = [candidate for candidate in group if candidate.kind == "centre"]
        kept += centres or sorted(group, key=lambda one: float(np.linalg.norm(one.point - mode)))[:1]
    return _apart(kept, masks, settings)


def in_order(candidates: Sequence[Candidate], settings: CandidateSettings) -> list[Candidate]:
    """At most ``limit`` of them, centres before parts and large before small, in the order of their pixels: from top
    to bottom, then from left to right."""
    order = sorted(candidates, key=lambda one: (one.kind != "centre", -one.size, one.mask, one.pixel))
    return sorted(order[: settings.limit], key=lambda one: (one.pixel[1], one.pixel[0], one.mask))


def _apart(candidates: Sequence[Candidate], masks: Sequence[Mask], settings: CandidateSettings) -> list[Candidate]:
    def same(one: Candidate, other: Candidate) -> bool:
        gap = float(np.linalg.norm(one.point - other.point))
        if one.kind == "surface":
            return gap < settings.bandwidth
        overlap = masks[one.mask].region & masks[other.mask].region
        return other.kind == "centre" and gap <= settings.same and bool(overlap.any())

    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.kind != "centre", -one.size, one.mask, one.pixel)):
        if not any(same(one, other) for other in kept):
            kept.append(one)
    return kept


def _spread(values: Array, least: float = 1e-9) -> Array:
    """Each column (N, C) to [0, 1]; one that spans less than ``least`` is not blown up to it."""
    span = np.maximum(np.ptp(values, axis=0), least)
    scaled: Array = (values - values.min(axis=0)) / span
    return scaled


def _nearest(region: Region, pixel: Array) -> tuple[int, int]:
    """The region's pixel (u, v) nearest to ``pixel`` (2,)."""
    rows, columns = np.nonzero(region)
    best = int(np.argmin((columns - pixel[0]) ** 2 + (rows - pixel[1]) ** 2))
    return int(columns[best]), int(rows[best])


def _window(image: Region, u: int, v: int) -> Region:
    half = _WINDOW // 2
    return image[max(0, v - half) : v + half + 1, max(0, u - half) : u + half + 1]
