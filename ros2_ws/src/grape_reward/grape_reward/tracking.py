"""Keypoints from frame to frame: each object is one rigid body, seen through an RGB-D camera that does not move.

For every object and frame: (1) candidates for its motion are that it stayed and, near a gripper that is not open, that
it moved with the TCP; the one its model agrees with better (``appearance``) predicts where its features are. (2) Optical
flow follows the features from there (``flow``); with the depth at their ends they are points in the base frame, and the
rigid motion most of them agree with (``rigid``) is the next candidate. (3) The model judges again. An object that is
covered keeps its last pose, or moves with the gripper that holds it, and its confidence falls; one that is seen not to
be where it should be is searched (``redetect``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array, Pose
from grape_reward.appearance import Frame, ObjectModel, chroma, color_agreement
from grape_reward.camera import Calibration
from grape_reward.errors import RewardError
from grape_reward.flow import FlowSettings, follow
from grape_reward.growth import grown, is_new, view_of
from grape_reward.palette import Palette
from grape_reward.redetect import polish, search
from grape_reward.rigid import Rigid, ransac, refine

KNOWN = 0.5
"""Confidence from which a keypoint counts as known; below it a score says "unknown"."""


class TrackingError(RewardError):
    """Images, masks or poses that do not fit what the tracker was told. The text names the object or the input."""


@dataclass(frozen=True)
class TrackerSettings:
    """Metres and seconds. ``features``: per object; ``threshold``: distance at which a feature agrees with a motion;
    ``held_within``: of the TCP, nearer than which a closed gripper may hold an object; ``open_share``: of the widest
    opening seen, above which it holds nothing; ``unseen``: share of the object in view below which it counts as
    covered; ``patience``: time in which confidence in a covered object falls to 1/e; ``reaction``: the same when the
    image says otherwise."""

    features: int = 36
    threshold: float = 0.006
    held_within: float = 0.045
    open_share: float = 0.93
    unseen: float = 0.15
    patience: float = 6.0
    reaction: float = 0.25
    retry: float = 0.2
    found: float = 0.4
    flow: FlowSettings = field(default_factory=FlowSettings)


@dataclass(frozen=True, eq=False)
class ObjectStart:
    """``keypoints`` (n, 3) metres, base frame, fixed to the object; ``mask`` (H, W) bool: the object in the first
    frame."""

    name: str
    keypoints: Array
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Tracked:
    """Of the K keypoints of all objects, in order, at ``stamp``: ``keypoints`` (K, 3) metres, base frame, the best
    estimate whatever it is worth; ``confidence`` (K,) in [0, 1]; ``visible`` (K,): part of the object is in view."""

    stamp: int
    names: tuple[str, ...]
    keypoints: Array
    confidence: Array
    visible: NDArray[np.bool_]

    def known(self, confidence: float = KNOWN) -> Array:
        """(K, 3): the keypoints, NaN where the confidence is lower: what may be judged, and what is unknown."""
        return np.where((self.confidence >= confidence)[:, None], self.keypoints, np.nan)


@dataclass(eq=False)
class _Body:
    """One object. ``pose``: its motion since the first frame; of its M features ``points`` (M, 3) and ``colors`` (M, 3)
    in the object's axes and ``pixels`` (M, 2) now."""

    start: ObjectStart
    model: ObjectModel | None
    palette: Palette | None = None
    views: list[Array] = field(default_factory=list)
    pose: Rigid = field(default_factory=Rigid)
    points: Array = field(default_factory=lambda: np.zeros((0, 3)))
    colors: Array = field(default_factory=lambda: np.zeros((0, 3)))
    pixels: Array = field(default_factory=lambda: np.zeros((0, 2)))
    confidence: float = 1.0
    visible: bool = True
    lost_for: float = 0.0
    wait: float = 0.0
    rest: float = 1.0


class Tracker:
    """Tracks the keypoints of an episode. The first ``update`` gets the frame that the masks belong to.

    Same calibration, starts, seed and frames give the same result, bit for bit, on one machine: OpenCV is set to one
    thread for the whole process, and random numbers come from ``seed`` alone. Raises TrackingError naming the object
    whose keypoints or mask do not fit.
    """

    def __init__(
        self,
        calibration: Calibration,
        objects: Sequence[ObjectStart],
        seed: int,
        settings: TrackerSettings | None = None,
    ) -> None:
        cv2.setNumThreads(1)
        size = (calibration.height, calibration.width)
        for thing in objects:
            if thing.mask.shape != size or thing.mask.dtype != np.bool_:
                raise TrackingError(f"{thing.name}: mask {thing.mask.dtype} {thing.mask.shape} is not bool {size}")
            points = np.asarray(thing.keypoints)
            if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
                raise TrackingError(f"{thing.name}: keypoints {points.tolist()} are not finite points (n, 3)")
        if not objects:
            raise TrackingError("no object to track")
        self.calibration, self.settings = calibration, settings or TrackerSettings()
        self._starts = tuple(objects)
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._bodies: list[_Body] = []
        self._before: tuple[NDArray[np.uint8], Pose, float, int] | None = None
        self._widest = 0.0
        self.names = tuple(
            thing.name if len(thing.keypoints) == 1 else f"{thing.name}_{index}"
            for thing in objects
            for index in range(len(thing.keypoints))
        )

    @property
    def untracked(self) -> tuple[str, ...]:
        """Objects of which the first frame showed too little to follow them: their confidence is 0 throughout."""
        return tuple(body.start.name for body in self._bodies if body.model is None)

    def update(
        self, color: NDArray[np.uint8], depth: NDArray[np.float32], tcp: Pose, gripper_width: float, stamp: int
    ) -> Tracked:
        """The next frame: ``color`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32 metres aligned to it (0 or NaN:
        unknown), measured ``tcp`` (base frame) and opening (metres) at ``stamp`` ns. Raises TrackingError for images
        of another size or kind, and for a stamp that is not after the last one."""
        frame = self._frame(color, depth)
        self._widest = max(self._widest, gripper_width)
        if self._before is None:
            self._begin(frame)
        else:
            gray, last_tcp, last_width, last_stamp = self._before
            if stamp <= last_stamp:
                raise TrackingError(f"stamp {stamp} is not after the last frame's {last_stamp}")
            carried = Rigid.between(last_tcp, tcp)
            closed = gripper_width < self.settings.open_share * self._widest and gripper_width < last_width + 0.003
            self._advance(gray, frame, carried, tcp, closed, 1e-9 * (stamp - last_stamp))
        self._before = (frame.gray, tcp, gripper_width, stamp)
        return self._tracked(stamp)

    # --- one frame ---

    def _frame(self, color: NDArray[np.uint8], depth: NDArray[np.float32]) -> Frame:
        size = (self.calibration.height, self.calibration.width)
        if color.shape != (*size, 3) or color.dtype != np.uint8:
            raise TrackingError(f"color {color.dtype} {color.shape} is not uint8 {(*size, 3)}")
        if depth.shape != size or depth.dtype != np.float32:
            raise TrackingError(f"depth {depth.dtype} {depth.shape} is not float32 {size}")
        return Frame(self.calibration, color, depth)

    def _begin(self, frame: Frame) -> None:
        for start in self._starts:
            model = ObjectModel.learn(frame, start.mask)
            body = _Body(start, model, visible=model is not None, confidence=0.0 if model is None else 1.0)
            if model is not None:
                body.palette = Palette(frame, start.mask)
                body.views.append(view_of(model, frame, body.pose))
                self._sow(body, model, frame, model.judge(frame, [body.pose]).agree[0])
            self._bodies.append(body)

    def _advance(
        self, gray: NDArray[np.uint8], frame: Frame, carried: Rigid, tcp: Pose, closed: bool, seconds: float
    ) -> None:
        live = [(body, body.model) for body in self._bodies if body.model is not None]
        near = [self._near(body, model, tcp) for body, model in live]
        predicted = [
            self._predict(body, model, frame, carried, closed) if close else body.pose
            for (body, model), close in zip(live, near, strict=True)
        ]
        guess = [
            self.calibration.project(pose.apply(body.points))[0]
            for (body, model), pose in zip(live, predicted, strict=True)
        ]
        if not live:
            return
        # The features' own offset from where the model puts them is kept: else every frame would forget it.
        offset = [body.pixels - self.calibration.project(body.pose.apply(body.points))[0] for body, model in live]
        pixels = np.concatenate([body.pixels for body, _ in live])
        ends, good = follow(
            gray, frame.gray, pixels, np.concatenate(guess) + np.concatenate(offset), self.settings.flow
        )
        at = np.cumsum([0, *(len(body.points) for body, _ in live)])
        for index, (body, model) in enumerate(live):
            part = slice(at[index], at[index + 1])
            self._settle(body, model, frame, predicted[index], ends[part], good[part], seconds)

    def _near(self, body: _Body, model: ObjectModel, tcp: Pose) -> bool:
        points = body.pose.apply(model.points)
        return bool(np.min(np.linalg.norm(points - tcp.position, axis=1)) < self.settings.held_within)

    def _predict(self, body: _Body, model: ObjectModel, frame: Frame, carried: Rigid, closed: bool) -> Rigid:
        """Stayed, or went with the hand: what the image says, and where it cannot tell what a closed gripper means."""
        candidates = [body.pose, carried.after(body.pose)]
        scores = model.judge(frame, candidates).score
        return candidates[int(scores[1] > scores[0] - (0.05 if closed else -0.05))]

    def _settle(
        self,
        body: _Body,
        model: ObjectModel,
        frame: Frame,
        predicted: Rigid,
        ends: Array,
        good: NDArray[np.bool_],
        seconds: float,
    ) -> None:
        """Decide on the pose, then on features and confidence."""
        settings = self.settings
        depth, color = frame.sample(ends)
        good = good & np.isfinite(depth)
        good &= color_agreement(chroma(color), body.colors) > 0.1
        source = body.points
        target = self.calibration.deproject(ends, np.where(np.isfinite(depth), depth, 1.0))
        candidates = [predicted]
        agreed = np.zeros(len(body.points), dtype=bool)
        share, residual = 0.0, math.inf
        if good.sum() >= 4:
            ties = (model.points, predicted.apply(model.points))
            found = refine(source[good], target[good], predicted, settings.threshold, ties)
            if found.inliers.mean() < 0.7:
                found = ransac(source[good], target[good], settings.threshold, self._rng, ties) or found
            if found.inliers.sum() >= 4:
                candidates.append(found.motion)
                agreed[np.flatnonzero(good)[found.inliers]] = True
                share, residual = float(found.inliers.mean()), found.residual
        scores = model.judge(frame, candidates).score
        # What the features measured is finer than what the model's colours can tell.
        chosen = len(candidates) - 1 if scores[-1] >= scores[0] - 0.05 else 0
        if chosen == 0:
            share = 0.0
            agreed[:] = False
        pose, score = candidates[chosen], float(scores[chosen])
        evidence = model.judge(frame, [pose])
        # Flow drifts, the model does not: what has moved is laid anew where the model agrees best.
        if score < body.rest - 0.02 and evidence.seen[0] >= settings.unseen:
            finer, better = polish(model, frame, pose, *((0.003, 3) if score > 0.3 else (0.012, 7)))
            fresh = model.judge(frame, [finer])
            if better > score + 0.01 and fresh.seen[0] >= 0.5 * evidence.seen[0]:
                pose, score, evidence = finer, better, fresh
        measured = _confidence(float(evidence.agreement[0]), share, residual, settings.threshold)
        if evidence.seen[0] < settings.unseen or measured < KNOWN:
            again = self._again(body, model, frame, pose, seconds)
            if again is not None:
                pose, evidence = again, model.judge(frame, [again])
                score = float(evidence.score[0])
                measured = _confidence(float(evidence.agreement[0]), 1.0, 0.0, settings.threshold)
                agreed[:] = False
        agreement, seen, agree = float(evidence.agreement[0]), float(evidence.seen[0]), evidence.agree[0]
        body.pose, body.visible = pose, seen >= settings.unseen
        body.rest = score
        body.lost_for = 0.0 if body.visible and measured >= KNOWN else body.lost_for + seconds
        if body.visible:
            rate = settings.reaction if measured < body.confidence else 0.5 * settings.reaction
            body.confidence += (measured - body.confidence) * (1.0 - math.exp(-seconds / rate))
        else:
            body.confidence *= math.exp(-seconds / settings.patience)
        body.points = (target[agreed] - body.pose.translation) @ body.pose.rotation
        body.colors, body.pixels = body.colors[agreed], ends[agreed]
        if share > 0.5 and agreement > 0.6 and seen > 0.5:
            self._learn(body, model, frame, agree)
        self._sow(body, model, frame, agree)

    def _learn(self, body: _Body, model: ObjectModel, frame: Frame, agree: Array) -> None:
        view = view_of(model, frame, body.pose)
        if body.palette is not None and is_new(view, body.views):
            body.views.append(view)
            body.model = grown(model, body.palette, frame, body.pose, agree)

    def _again(self, body: _Body, model: ObjectModel, frame: Frame, pose: Rigid, seconds: float) -> Rigid | None:
        """The object found somewhere else than at ``pose``; it is looked for again and again, but not all the time."""
        body.wait -= seconds
        if body.wait > 0.0 or body.palette is None:
            return None
        body.wait = self.settings.retry
        reach = 0.08 + 0.4 * min(body.lost_for, 1.5)
        return search(model, body.palette, frame, pose, reach, self.settings.found)

    def _sow(self, body: _Body, model: ObjectModel, frame: Frame, agree: Array) -> None:
        """New features where the model agrees with the image, corners first, up to the number wanted."""
        wanted = self.settings.features - len(body.points)
        if wanted < self.settings.features // 4:
            return
        free = np.flatnonzero(agree > 0.4)
        pixels = self.calibration.project(body.pose.apply(model.points[free]))[0]
        if len(body.pixels):
            apart = np.square(pixels[:, None] - body.pixels[None]).sum(axis=2).min(axis=1) > 9.0
            free, pixels = free[apart], pixels[apart]
        order = np.argsort(~model.textured[free], kind="stable")
        textured = int(model.textured[free].sum())
        rest = order[textured:]
        if wanted > textured and len(rest) > wanted - textured:
            rest = rest[:: len(rest) // (wanted - textured)]
        new = np.concatenate([order[:textured], rest])[:wanted]
        body.points = np.concatenate([body.points, model.points[free[new]]])
        body.colors = np.concatenate([body.colors, model.colors[free[new]]])
        body.pixels = np.concatenate([body.pixels, pixels[new]])

    def _tracked(self, stamp: int) -> Tracked:
        counts = [len(body.start.keypoints) for body in self._bodies]
        return Tracked(
            stamp,
            self.names,
            np.concatenate([body.pose.apply(np.asarray(body.start.keypoints, float)) for body in self._bodies]),
            np.repeat([body.confidence for body in self._bodies], counts),
            np.repeat([body.visible for body in self._bodies], counts),
        )


def _confidence(agreement: float, share: float, residual: float, threshold: float) -> float:
    """In [0, 1]: how well the model agrees with the image, raised by features that agree on one motion closely."""
    support = share * max(0.0, 1.0 - residual / (2.0 * threshold)) if math.isfinite(residual) else 0.0
    return min(1.0, max(0.0, 1.6 * (agreement - 0.15)) * (0.75 + 0.25 * support))
