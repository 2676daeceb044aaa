"""One rigid object from frame to frame: where it is, how sure that is, and the features it is followed by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array, Pose
from grape_reward.appearance import Evidence, Frame, ObjectModel, chroma, color_agreement
from grape_reward.flow import FlowSettings
from grape_reward.growth import grown, is_new, view_of
from grape_reward.palette import Palette
from grape_reward.redetect import polish, search
from grape_reward.rigid import Rigid, ransac, refine

KNOWN = 0.5
"""Confidence from which a keypoint counts as known; below it a score says "unknown"."""

_CHANGE = 0.05
_STILL = 0.002
_LEAST = 5
_DOUBTFUL = 0.6


@dataclass(frozen=True)
class TrackerSettings:
    """Metres and seconds. ``features``: per object; ``threshold``: distance at which a feature agrees with a motion;
    ``held_within``: of the TCP, nearer than which an object may go with the hand; ``open_share``: of the widest opening
    seen, above which the gripper holds nothing; ``unseen``: share of the object in view below which it counts as
    covered; ``patience``: time in which confidence in a covered object falls to 1/e; ``reaction``: the same when the
    image says otherwise; ``retry``: time between two searches for an object or for a better
    pose of it; ``found``: score from which it is."""

    features: int = 36
    threshold: float = 0.006
    held_within: float = 0.045
    open_share: float = 0.93
    unseen: float = 0.15
    patience: float = 6.0
    reaction: float = 0.25
    retry: float = 0.2
    found: float = 0.38
    flow: FlowSettings = field(default_factory=FlowSettings)


@dataclass(frozen=True, eq=False)
class Hand:
    """The gripper at a frame: ``tcp`` in the base frame, z out of the palm; its ``motion`` since the last frame;
    ``closed``: not open, and not opening."""

    tcp: Pose
    motion: Rigid
    closed: bool


@dataclass(eq=False)
class _Fit:
    """A pose and what speaks for it: its evidence, which features agree with it, and how much their agreement says."""

    pose: Rigid
    evidence: Evidence
    agreed: NDArray[np.bool_]
    support: float

    @property
    def score(self) -> float:
        return float(self.evidence.score[0])

    @property
    def seen(self) -> float:
        return float(self.evidence.seen[0])

    @property
    def quality(self) -> float:
        """In [0, 1]: how well the model agrees with the image, raised by features that agree on one motion closely."""
        agreement = float(self.evidence.agreement[0])
        return min(1.0, max(0.0, 1.6 * (agreement - 0.15)) * (0.75 + 0.25 * self.support))


class Body:
    """``pose``: motion since the first frame; ``confidence`` in [0, 1]; ``visible``: not covered. Of its M features
    ``points`` (M, 3) and ``colors`` (M, 3) in the object's axes (the base's at the first frame), ``pixels`` (M, 2) now.
    """

    def __init__(
        self,
        model: ObjectModel,
        palette: Palette,
        frame: Frame,
        settings: TrackerSettings,
        rng: np.random.Generator,
    ) -> None:
        self.model, self._palette, self._settings, self._rng = model, palette, settings, rng
        self.pose, self.confidence, self.visible = Rigid(), 1.0, True
        self.points, self.colors, self.pixels = np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2))
        self._views = [view_of(model, frame, self.pose)]
        self._moving: Rigid | None = None
        self._score, self._lost_for, self._wait = 1.0, 0.0, 0.0
        self._sow(frame, model.judge(frame, [self.pose]).agree[0])

    # --- before flow ---

    def predict(self, frame: Frame, hand: Hand) -> Rigid:
        """It stayed, moves on as before, or went with the hand near it: what the image says, and where the image
        cannot tell, what a closed gripper means."""
        candidates = [self.pose]
        if self._moving is not None:
            candidates.append(self._moving.after(self.pose))
        away = np.linalg.norm(self.pose.apply(self.model.points) - hand.tcp.position, axis=1)
        near = float(away.min()) < self._settings.held_within
        if near:
            candidates.append(hand.motion.after(self.pose))
        if len(candidates) == 1:
            return self.pose
        scores = self.model.judge(frame, candidates).score
        scores[1:] -= _CHANGE
        if near and hand.closed:
            scores[-1] += 2.0 * _CHANGE
        return candidates[int(np.argmax(scores))]

    def guess(self, frame: Frame, predicted: Rigid) -> Array:
        """Pixels (M, 2) at which to look for the features if ``predicted`` is right. Where they lie off the pose they
        were followed under stays as it is: the offset is what was measured."""
        now, _ = frame.calibration.project(self.pose.apply(self.points))
        then, _ = frame.calibration.project(predicted.apply(self.points))
        return np.asarray(then + self.pixels - now)

    # --- after flow ---

    def settle(
        self, frame: Frame, predicted: Rigid, ends: Array, good: NDArray[np.bool_], hand: Hand, seconds: float
    ) -> None:
        """Decide on the pose from the features' ``ends`` (M, 2) of which ``good`` (M,) were found; then on confidence
        and on the features of the next frame."""
        settings, model = self._settings, self.model
        depth, color = frame.sample(ends)
        good = good & np.isfinite(depth) & (color_agreement(chroma(color), self.colors) > 0.1)
        target = frame.calibration.deproject(ends, np.where(np.isfinite(depth), depth, 1.0))
        fit = self._measured(frame, predicted, target, good)
        # What costs more than a look is done now and then.
        self._wait -= seconds
        due = self._wait <= 0.0
        if due:
            self._wait = settings.retry
        if fit.seen >= settings.unseen:
            fit = self._laid_anew(frame, fit, due)
        if due and (fit.seen < settings.unseen or fit.quality < KNOWN):
            fit = self._found(frame, fit) or fit
        way = fit.pose.apply(model.center) - self.pose.apply(model.center)
        self._moving = fit.pose.after(self.pose.inverse()) if np.linalg.norm(way) > _STILL else None
        self.pose, self._score, self.visible = fit.pose, fit.score, fit.seen >= settings.unseen
        self._trust(fit, seconds)
        # What the features measured has become part of the pose: from here on they tell what changes.
        self.points = (target[fit.agreed] - self.pose.translation) @ self.pose.rotation
        self.colors, self.pixels = self.colors[fit.agreed], ends[fit.agreed]
        if fit.support > 0.4 and fit.seen > 0.5 and fit.evidence.agreement[0] > 0.6:
            self._learn(frame, fit, hand)
        self._sow(frame, fit.evidence.agree[0])

    def _measured(self, frame: Frame, predicted: Rigid, target: Array, good: NDArray[np.bool_]) -> _Fit:
        """The prediction, or the motion that the features agree on where the model has nothing against it."""
        threshold, model = self._settings.threshold, self.model
        agreed = np.zeros(len(good), dtype=bool)
        plain = _Fit(predicted, model.judge(frame, [predicted]), agreed, 0.0)
        # Of a covered object a few features remain that are as likely the rim's of what covers it.
        if good.sum() < _LEAST or plain.seen < self._settings.unseen:
            return plain
        source, target = self.points[good], target[good]
        ties = (model.points, predicted.apply(model.points))
        found = refine(source, target, predicted, threshold, ties)
        if found.inliers.mean() < 0.7:
            found = ransac(source, target, threshold, self._rng, ties) or found
        if found.inliers.sum() < _LEAST:
            return plain
        agreed = agreed.copy()
        agreed[np.flatnonzero(good)[found.inliers]] = True
        support = float(found.inliers.mean()) * max(0.0, 1.0 - found.residual / (2.0 * threshold))
        moved = _Fit(found.motion, model.judge(frame, [found.motion]), agreed, support)
        # What the features measure is finer than what the model's colours can tell.
        return moved if moved.score >= plain.score - _CHANGE else plain

    def _laid_anew(self, frame: Frame, fit: _Fit, due: bool) -> _Fit:
        """Flow drifts, the model does not: where it agrees less than before, the pose nearby at which it does most."""
        doubtful = due and fit.score < _DOUBTFUL
        if fit.score >= self._score - 0.02 and not doubtful:
            return fit
        reach = (0.003, 3) if fit.score > 0.3 and not doubtful else (0.012, 8)
        pose, score = polish(self.model, frame, fit.pose, *reach)
        if score <= fit.score + 0.01:
            return fit
        finer = _Fit(pose, self.model.judge(frame, [pose]), fit.agreed, fit.support)
        return finer if finer.seen >= 0.5 * fit.seen else fit

    def _found(self, frame: Frame, fit: _Fit) -> _Fit | None:
        """The object somewhere else than at ``fit``, within a reach that grows with the time it has been lost."""
        reach = 0.08 + 0.4 * min(self._lost_for, 1.5)
        pose = search(self.model, self._palette, frame, fit.pose, reach, self._settings.found)
        if pose is None:
            return None
        return _Fit(pose, self.model.judge(frame, [pose]), np.zeros_like(fit.agreed), 1.0)

    def _trust(self, fit: _Fit, seconds: float) -> None:
        quality = fit.quality
        self._lost_for = 0.0 if self.visible and quality >= KNOWN else self._lost_for + seconds
        if self.visible:
            reaction = self._settings.reaction * (1.0 if quality < self.confidence else 0.5)
            self.confidence += (quality - self.confidence) * (1.0 - math.exp(-seconds / reaction))
        else:
            self.confidence *= math.exp(-seconds / self._settings.patience)

    def _learn(self, frame: Frame, fit: _Fit, hand: Hand) -> None:
        view = view_of(self.model, frame, self.pose)
        if is_new(view, self._views):
            self._views.append(view)
            self.model = grown(self.model, self._palette, frame, self.pose, fit.evidence.agree[0], hand.tcp)

    def _sow(self, frame: Frame, agree: Array) -> None:
        """New features where the model agrees with the image, corners first, up to the number wanted."""
        wanted = self._settings.features - len(self.points)
        if wanted < self._settings.features // 4:
            return
        model = self.model
        free = np.flatnonzero(agree > 0.4)
        pixels = frame.calibration.project(self.pose.apply(model.points[free]))[0]
        if len(self.pixels):
            apart = np.square(pixels[:, None] - self.pixels[None]).sum(axis=2).min(axis=1) > 9.0
            free, pixels = free[apart], pixels[apart]
        corners, others = np.flatnonzero(model.textured[free]), np.flatnonzero(~model.textured[free])
        room = wanted - len(corners)
        if 0 < room < len(others):
            others = others[:: len(others) // room]
        new = np.concatenate([corners, others])[:wanted]
        self.points = np.concatenate([self.points, model.points[free[new]]])
        self.colors = np.concatenate([self.colors, model.colors[free[new]]])
        self.pixels = np.concatenate([self.pixels, pixels[new]])
