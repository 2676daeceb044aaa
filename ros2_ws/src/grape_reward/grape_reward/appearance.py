"""How an object looked when tracking began, and how well an image agrees with it lying somewhere else.

The model is a cloud of points of the object's surface with their normals and colours. Laid under a pose into an image,
each point that faces the camera is either covered (something is nearer), or it agrees to a degree in depth and colour
with what is seen at its pixel. So a pose can be judged without trusting any feature's track, and a feature that slid
onto the hand is found out by its colour or its depth.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array
from grape_reward.camera import Calibration
from grape_reward.rigid import Rigid

DEPTH_SIGMA = 0.006
COVERED = 0.018
_CHROMA_SIGMA = 0.03
_LIGHT_SIGMA = 0.35
_MARGIN = 2
_MISS, _HIDDEN = 0.7, 0.25
_NORMAL_STEP = 3


class Frame:
    """One RGB-D image: ``color`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32 metres, 0 or NaN where unknown."""

    def __init__(self, calibration: Calibration, color: NDArray[np.uint8], depth: NDArray[np.float32]) -> None:
        self.calibration, self.color, self.depth = calibration, color, depth

    @functools.cached_property
    def gray(self) -> NDArray[np.uint8]:
        """(H, W): what flow is computed on."""
        return np.asarray(cv2.cvtColor(self.color, cv2.COLOR_RGB2GRAY), dtype=np.uint8)

    @functools.cached_property
    def smooth(self) -> NDArray[np.uint8]:
        """(H, W, 3): colours averaged over 3 by 3 pixels, so that a pixel's shift does not change them much."""
        return np.asarray(cv2.blur(self.color, (3, 3)), dtype=np.uint8)

    def sample(self, pixels: Array) -> tuple[Array, Array]:
        """Depth (...) and smoothed colour (..., 3) at the pixels (..., 2) nearest to these; NaN depth outside the
        image and where there is none."""
        height, width = self.depth.shape
        whole = np.rint(np.nan_to_num(pixels, nan=-1e6)).astype(np.intp)
        u, v = whole[..., 0], whole[..., 1]
        inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
        flat = np.where(inside, v * width + u, 0)
        depth = self.depth.reshape(-1)[flat].astype(np.float64)
        depth[~inside | ~(depth > 0)] = np.nan
        return depth, self.smooth.reshape(-1, 3)[flat].astype(np.float64)


def chroma(color: Array) -> Array:
    """(..., 3): shares of red and green in the light, and the logarithm of its sum, of colours (..., 3) in [0, 255].
    Eight is added to each channel: the hue of what is nearly black is noise."""
    lifted = color + 8.0
    total = lifted.sum(axis=-1)
    return np.stack([lifted[..., 0] / total, lifted[..., 1] / total, np.log(total)], axis=-1)


def color_agreement(one: Array, other: Array) -> Array:
    """(...) in [0, 1], of two ``chroma`` arrays: 1 for the same colour; brightness may vary more than hue."""
    difference = one - other
    square = np.square(difference[..., :2]).sum(axis=-1) / _CHROMA_SIGMA**2
    square += np.square(difference[..., 2] / _LIGHT_SIGMA)
    return np.asarray(np.exp(-0.5 * square))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of P poses and N model points, all (P,) or (P, N).

    ``agreement`` (P,): mean agreement of the points that could be seen; 0 where none could. ``seen`` (P,): share of
    the points facing the camera that nothing covers. ``score`` (P,): what to compare poses by. ``agree`` (P, N): each
    point's agreement, 0 where it does not face the camera or is covered."""

    agreement: Array
    seen: Array
    score: Array
    agree: Array


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """``points`` (N, 3), ``normals`` (N, 3) in the base frame at the first frame, ``colors`` (N, 3) as ``chroma``.

    ``pixels`` (N, 2) where they were learnt and ``textured`` (N,): whether flow finds hold there. ``center`` (3,),
    ``radius``: of a ball around the points, metres; ``front``: how many face the camera at a time; ``area`` that was
    seen at first, square metres across the line of sight."""

    points: Array
    normals: Array
    colors: Array
    pixels: Array
    textured: NDArray[np.bool_]
    center: Array
    radius: float
    front: int
    area: float

    @classmethod
    def learn(
        cls, frame: Frame, mask: NDArray[np.bool_], cloud: int = 220, features: int = 60, least: int = 12
    ) -> ObjectModel | None:
        """The model of what is under ``mask`` (H, W): about ``cloud`` points on a grid and up to ``features`` corners.
        None where fewer than ``least`` points have a depth."""
        region = mask.astype(np.uint8)
        inner = cv2.erode(region, np.ones((2 * _MARGIN + 1, 2 * _MARGIN + 1), np.uint8))
        # A thing as thin as the margin is all rim: then the rim has to do.
        if inner.sum() < 0.3 * region.sum():
            inner = cv2.erode(region, np.ones((3, 3), np.uint8)) if region.sum() > 8 * least else region
        corners = _corners(frame, np.asarray(inner, np.uint8), features)
        pixels = np.concatenate([corners, _grid(np.asarray(inner, bool), cloud)])
        textured = np.arange(len(pixels)) < len(corners)
        depth, color = frame.sample(pixels)
        normals = surface_normals(frame, mask, pixels)
        # Depth jumps at rims: what lies far from the rest is not of the object.
        good = np.isfinite(depth) & np.isfinite(normals).all(axis=1)
        if good.sum() < least:
            return None
        points = frame.calibration.deproject(pixels, np.nan_to_num(depth))
        middle = np.median(points[good], axis=0)
        away = np.linalg.norm(points - middle, axis=1)
        good &= away < 4.0 * np.median(away[good])
        if good.sum() < least:
            return None
        points = points[good]
        center = 0.5 * (points.min(axis=0) + points.max(axis=0))
        radius = float(np.linalg.norm(points - center, axis=1).max())
        calibration = frame.calibration
        area = float(mask.sum() * np.median(depth[good]) ** 2 / (calibration.fx * calibration.fy))
        colors = chroma(color[good])
        return cls(points, normals[good], colors, pixels[good], textured[good], center, radius, int(good.sum()), area)

    def extended(self, points: Array, normals: Array, colors: Array, pixels: Array) -> ObjectModel:
        """The model with more points (M, 3), in the object's axes, behind those it has."""
        return ObjectModel(
            np.concatenate([self.points, points]),
            np.concatenate([self.normals, normals]),
            np.concatenate([self.colors, colors]),
            np.concatenate([self.pixels, pixels]),
            np.concatenate([self.textured, np.zeros(len(points), dtype=bool)]),
            self.center,
            self.radius,
            self.front,
            self.area,
        )

    def thinned(self, count: int) -> ObjectModel:
        """The model with about ``count`` of its points: quicker to judge by, and less sure."""
        kept = slice(None, None, max(1, len(self.points) // count))
        return ObjectModel(
            self.points[kept],
            self.normals[kept],
            self.colors[kept],
            self.pixels[kept],
            self.textured[kept],
            self.center,
            self.radius,
            max(1, round(self.front * len(self.points[kept]) / len(self.points))),
            self.area,
        )

    def judge(self, frame: Frame, poses: list[Rigid]) -> Evidence:
        """How well each of the poses (motions since the first frame) explains the image."""
        rotations = np.stack([pose.rotation for pose in poses])
        points = np.einsum("pij,nj->pni", rotations, self.points) + np.stack([p.translation for p in poses])[:, None]
        normals = np.einsum("pij,nj->pni", rotations, self.normals)
        calibration = frame.calibration
        rays = points - calibration.eye
        facing = (normals * rays).sum(axis=2) < -0.1 * np.linalg.norm(rays, axis=2)
        pixels, expected = calibration.project(points)
        depth, color = frame.sample(pixels)
        gap = depth - expected
        unknown = ~np.isfinite(gap)
        gap = np.where(unknown, 0.0, gap)
        covered = gap < -COVERED
        agree = color_agreement(chroma(color), self.colors) * np.exp(-0.5 * np.square(gap / DEPTH_SIGMA))
        open_ = facing & ~covered & ~unknown
        agree = np.where(open_, agree, 0.0)
        count, total = open_.sum(axis=1), np.maximum(facing.sum(axis=1), 1)
        agreement = agree.sum(axis=1) / np.maximum(count, 1)
        # A point seen not to be there tells against a pose, and a covered one a little: else hiding would be a way out.
        hits = agree.sum(axis=1)
        # Nor may a pose win that turns all but an edge of what is known of the object away.
        least = 0.5 * self.front
        hidden = (facing & covered).sum(axis=1) + np.maximum(least - facing.sum(axis=1), 0.0)
        score = (hits - _MISS * (count - hits) - _HIDDEN * hidden) / np.maximum(total, least)
        return Evidence(agreement, count / total, score, agree)


def _grid(mask: NDArray[np.bool_], count: int) -> Array:
    """About ``count`` pixels (u, v) of a mask, on a grid."""
    rows, columns = np.nonzero(mask)
    step = max(1, round(np.sqrt(len(rows) / count)))
    kept = (rows % step == 0) & (columns % step == 0)
    return np.stack([columns[kept], rows[kept]], axis=1).astype(np.float64)


def _corners(frame: Frame, mask: NDArray[np.uint8], count: int) -> Array:
    """Up to ``count`` pixels (u, v) in a mask where flow finds hold (Shi and Tomasi, 1994), best first."""
    found = cv2.goodFeaturesToTrack(frame.gray, count, qualityLevel=0.02, minDistance=3, mask=mask, blockSize=5)
    return np.zeros((0, 2)) if found is None else np.asarray(found, dtype=np.float64).reshape(-1, 2)


def surface_normals(frame: Frame, mask: NDArray[np.bool_], pixels: Array) -> Array:
    """Surface normals (N, 3) at pixels, towards the camera, base frame; from the depth smoothed within the mask."""
    known = mask & (frame.depth > 0)
    weight = cv2.blur(known.astype(np.float32), (5, 5))
    depth = cv2.blur(np.where(known, frame.depth, 0.0).astype(np.float32), (5, 5)) / np.maximum(weight, 1e-6)
    height, width = mask.shape
    whole = np.rint(pixels).astype(int)
    ends = []
    for axis, limit in ((0, width), (1, height)):
        pair = []
        for sign in (-1, 1):
            at = whole.copy()
            at[:, axis] = np.clip(at[:, axis] + sign * _NORMAL_STEP, 0, limit - 1)
            # Where the step leaves the object the point itself stands in: a one-sided difference.
            away = ~known[at[:, 1], at[:, 0]]
            at[away] = whole[away]
            pair.append(frame.calibration.deproject(at.astype(float), depth[at[:, 1], at[:, 0]]))
        ends.append(pair[1] - pair[0])
    normal = np.cross(ends[0], ends[1])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    rays = frame.calibration.deproject(pixels, np.ones(len(pixels))) - frame.calibration.eye
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    normal = np.where(length > 1e-12, normal / np.maximum(length, 1e-12), -rays)
    return np.asarray(normal * np.where((normal * rays).sum(axis=1, keepdims=True) > 0, -1.0, 1.0))
