"""Finding an object again: by its colours, a cluster in depth, and the pose under which its model agrees best."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array
from grape_reward.appearance import Frame, ObjectModel
from grape_reward.palette import Palette
from grape_reward.rigid import Rigid

_STRIDE = 2
_TURNS = 8
_CLUSTERS = 4
_SKETCH = 80
_DOUBT, _TURNED = 0.3, 0.15
_AREA = (0.05, 3.0)


def polish(model: ObjectModel, frame: Frame, pose: Rigid, step: float = 0.012, rounds: int = 10) -> tuple[Rigid, float]:
    """The best pose around ``pose`` and its score: a pattern search over shifts (``step`` metres at first, halved
    when nothing is better) and turns about the object's middle."""
    center = pose.apply(model.center)
    best, score = pose, float(model.judge(frame, [pose]).score[0])
    for _ in range(rounds):
        tries = [_moved(best, center, *move) for move in _moves(step, step / max(model.radius, 0.02))]
        scores = model.judge(frame, tries).score
        top = int(np.argmax(scores))
        if scores[top] > score + 1e-4:
            best, score = tries[top], float(scores[top])
            center = best.apply(model.center)
        elif step < 0.0015:
            break
        else:
            step *= 0.5
    return best, score


def _moves(step: float, turn: float) -> list[tuple[Array, Array]]:
    """Shift (3,) and rotation vector (3,) of one step both ways along and about each axis."""
    axes = np.eye(3)
    return [(sign * step * a, np.zeros(3)) for a in axes for sign in (-1.0, 1.0)] + [
        (np.zeros(3), sign * turn * a) for a in axes for sign in (-1.0, 1.0)
    ]


def _moved(pose: Rigid, center: Array, shift: Array, turn: Array) -> Rigid:
    rotation = np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64)
    return Rigid(rotation, center - rotation @ center + shift).after(pose)


def search(
    model: ObjectModel, palette: Palette, frame: Frame, last: Rigid, reach: float, enough: float
) -> Rigid | None:
    """The pose at which the object is found within ``reach`` metres of where it was last; None where no pose scores
    ``enough``, and more if farther off. All headings are tried of the object as it was last, as it was at the start
    and overturned from there to a side."""
    sketch = model.thinned(_SKETCH)
    center = last.apply(model.center)
    likely, points = _likely(model, palette, frame, center, reach)
    if not likely.any():
        return None
    clusters = _clusters(model, frame, likely, points)
    tries: list[Rigid] = []
    attitudes = _attitudes(last)
    middle = model.points.mean(axis=0)
    for cluster in clusters:
        at = np.median(cluster, axis=0)
        tries += [Rigid(turn, at - turn @ middle) for turn in attitudes]
        # The object may show as several clusters, as a striped thing does: with those within its reach it spans a box.
        parts = [other for other in clusters if np.linalg.norm(np.median(other, axis=0) - at) < 2.0 * model.radius]
        low, high = np.percentile(np.concatenate(parts), (3, 97), axis=0)
        tries += [Rigid(turn, 0.5 * (low + high) - turn @ model.center) for turn in attitudes]
    if not tries:
        return None
    # Many things look alike from several sides: of poses that explain the image alike, that of the least turn is taken.
    doubt = np.tile([_turned(attitude, last) for attitude in attitudes], len(tries) // len(attitudes))
    scores = sketch.judge(frame, tries).score - doubt
    best: tuple[Rigid, float] | None = None
    for index in np.argsort(-scores, kind="stable")[:4]:
        pose, score = polish(sketch, frame, tries[index])
        if best is None or score - doubt[index] > best[1]:
            best = pose, score - float(doubt[index])
    if best is None or best[1] < enough:
        return None
    pose, score = polish(model, frame, best[0], 0.006, 8)
    # The farther off, the surer it must be: much may look alike in a large part of the image.
    distance = float(np.linalg.norm(pose.apply(model.center) - center))
    return pose if score >= enough + _DOUBT * distance else None


def _clusters(model: ObjectModel, frame: Frame, likely: NDArray[np.bool_], points: Array) -> list[Array]:
    """Points (N, 3) of the largest connected regions that may be part of the object, or it and what it touches."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(likely.astype(np.uint8), connectivity=8)
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:_CLUSTERS] + 1
    clusters = [points[labels == label] for label in order]
    focal = frame.calibration.fx * frame.calibration.fy
    kept = []
    for cluster in clusters:
        away = np.linalg.norm(np.median(cluster, axis=0) - frame.calibration.eye)
        if _AREA[0] < len(cluster) * (_STRIDE * away) ** 2 / focal / model.area < _AREA[1]:
            kept.append(cluster)
    return kept


def _attitudes(last: Rigid) -> list[Array]:
    """Rotations (3, 3) to look for an object in."""
    turns = Rotation.from_rotvec(np.outer(np.arange(_TURNS) * (2 * np.pi / _TURNS), [0, 0, 1]))
    tilts = Rotation.from_euler("xy", [[0, 0], [np.pi / 2, 0], [-np.pi / 2, 0], [0, np.pi / 2], [0, -np.pi / 2]])
    bases = [Rotation.from_matrix(last.rotation), *tilts]
    return [matrix for base in bases for matrix in (turns * base).as_matrix()]


def _turned(attitude: Array, last: Rigid) -> float:
    """What a rotation (3, 3) is doubted for: the angle from how the object was last or at the start."""
    angle = min(Rigid(attitude).angle(), Rigid(attitude @ last.rotation.T).angle())
    return _TURNED * angle / np.pi


def _likely(
    model: ObjectModel, palette: Palette, frame: Frame, center: Array, reach: float
) -> tuple[NDArray[np.bool_], Array]:
    """Which of every second pixel around ``center`` have the object's colour and lie within ``reach``; and the points
    (h, w, 3) of all of them."""
    calibration = frame.calibration
    height, width = frame.depth.shape
    pixel, depth = calibration.project(center[None])
    span = np.array([calibration.fx, calibration.fy]) * (reach + model.radius) / max(float(depth[0]), 0.05)
    low = np.clip(np.nan_to_num(pixel[0] - span), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.nan_to_num(pixel[0] + span, nan=1e6) + 1, 1, (width, height)).astype(int)
    area = (slice(low[1], high[1], _STRIDE), slice(low[0], high[0], _STRIDE))
    v, u = np.mgrid[area]
    metres = frame.depth[area].astype(np.float64)
    points = calibration.deproject(np.stack([u, v], axis=-1).astype(float), metres)
    near = np.linalg.norm(points - center, axis=-1) < reach + model.radius
    likely = (palette(frame.smooth[area]) > 0.2) & (metres > 0) & near
    return likely, points
