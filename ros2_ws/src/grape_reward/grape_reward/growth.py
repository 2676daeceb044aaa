"""Learning the sides of an object that come into view as it turns."""

from __future__ import annotations

import cv2
import numpy as np

from grape_episode.geometry import Array, Pose
from grape_reward.appearance import Frame, ObjectModel, chroma, surface_normals
from grape_reward.palette import Palette
from grape_reward.rigid import Rigid

_NEW_VIEW = np.cos(np.radians(14.0))
_SPACING = 0.004
_REACH = 0.03
_FINGERTIPS, _HAND = 0.012, 0.13
_MOST_AT_ONCE = 80
_MOST = 600
_STEP = 2


def view_of(model: ObjectModel, frame: Frame, pose: Rigid) -> Array:
    """Unit vector (3,) from the object to the camera, in the object's axes (those of the base at the first frame)."""
    way = frame.calibration.eye - pose.apply(model.center)
    return np.asarray(pose.rotation.T @ (way / np.linalg.norm(way)))


def is_new(view: Array, views: list[Array]) -> bool:
    """Whether the object has turned far enough from every view known for there to be something to learn."""
    return all(float(view @ known) < _NEW_VIEW for known in views)


def grown(model: ObjectModel, palette: Palette, frame: Frame, pose: Rigid, agree: Array, tcp: Pose) -> ObjectModel:
    """The model with what is seen of the object under ``pose`` and was not known; its first points are the old ones.

    New is what is connected in the image with points that ``agree`` (N,), lies within the object's reach, has its
    colours, is near known points but at none, and not where the hand is: that moves along with what it holds.
    """
    room = min(_MOST - len(model.points), _MOST_AT_ONCE)
    sure = agree > 0.5
    if room <= 0 or sure.sum() < 10:
        return model
    calibration = frame.calibration
    height, width = frame.depth.shape
    seen, _ = calibration.project(pose.apply(model.points[sure]))
    reach = model.radius + 0.01
    center, depth = calibration.project(pose.apply(model.center))
    span = calibration.fx * reach / float(depth)
    low = np.clip(center - span, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(center + span + 1, 1, (width, height)).astype(int)
    area = (slice(low[1], high[1]), slice(low[0], high[0]))
    v, u = np.mgrid[area]
    points = calibration.deproject(np.stack([u, v], axis=-1).astype(float), frame.depth[area].astype(float))
    local = (points - pose.translation) @ pose.rotation
    region = (palette(frame.smooth[area]) > 0.3) & (frame.depth[area] > 0)
    region &= np.linalg.norm(local - model.center, axis=-1) < reach
    grip = (points - tcp.position) @ tcp.rotation.as_matrix()
    region &= (grip[..., 2] > _FINGERTIPS) | (np.hypot(grip[..., 0], grip[..., 1]) > _HAND)
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    at = np.rint(seen).astype(int) - low
    inside = (at >= 0).all(axis=1) & (at[:, 0] < region.shape[1]) & (at[:, 1] < region.shape[0])
    votes = np.bincount(labels[at[inside, 1], at[inside, 0]], minlength=1)
    votes[0] = 0
    if votes.max() < 5:
        return model
    region = cv2.erode((labels == int(np.argmax(votes))).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    grid = np.zeros_like(region)
    grid[::_STEP, ::_STEP] = True
    fresh = local[region & grid]
    pixels = np.stack([u[region & grid], v[region & grid]], axis=1).astype(float)
    if not len(fresh):
        return model
    away = np.square(fresh[:, None] - model.points[None]).sum(axis=2).min(axis=1)
    order = np.flatnonzero((away > _SPACING**2) & (away < _REACH**2))
    order = order[:: max(1, len(order) // room)][:room]
    if len(order) < 5:
        return model
    mask = np.zeros(frame.depth.shape, dtype=bool)
    mask[area] = region
    normals = surface_normals(frame, mask, pixels[order]) @ pose.rotation
    _, color = frame.sample(pixels[order])
    return model.extended(fresh[order], normals, chroma(color), pixels[order])
