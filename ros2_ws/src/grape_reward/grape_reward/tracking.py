"""Keypoints from frame to frame: each object is one rigid body, seen through an RGB-D camera that does not move.

For every object and frame: (1) candidates for its motion are that it stayed, that it moves on as before and, near the
gripper, that it went with the TCP; the one its model agrees with best (``appearance``) predicts where its features are.
(2) Optical flow follows the features from there (``flow``); with the depth at their ends they are points in the base
frame, and the rigid motion that most of them agree with (``rigid``) is the next candidate. (3) The model judges again
and takes out the drift. An object that is covered keeps its last pose, or goes with the gripper that holds it, and its
confidence falls; one that is seen not to be where it should be is searched (``redetect``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array, Pose
from grape_reward.appearance import Frame, ObjectModel
from grape_reward.body import KNOWN, Body, Hand, TrackerSettings
from grape_reward.camera import Calibration
from grape_reward.errors import RewardError
from grape_reward.flow import follow
from grape_reward.palette import Palette
from grape_reward.rigid import Rigid

__all__ = ["KNOWN", "ObjectStart", "Tracked", "Tracker", "TrackerSettings", "TrackingError"]

_OPENING = 0.003


class TrackingError(RewardError):
    """Images, masks or poses that do not fit what the tracker was told. The text names the object or the input."""


@dataclass(frozen=True, eq=False)
class ObjectStart:
    """``keypoints`` (n, 3) metres, base frame, fixed to the object; ``mask`` (H, W) bool: the object in the first
    frame."""

    name: str
    keypoints: Array
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Tracked:
    """Of the K keypoints of all objects, in order, at ``stamp`` ns: ``keypoints`` (K, 3) metres, base frame, the best
    estimate whatever it is worth; ``confidence`` (K,) in [0, 1]; ``visible`` (K,): part of the object is in view."""

    stamp: int
    names: tuple[str, ...]
    keypoints: Array
    confidence: Array
    visible: NDArray[np.bool_]

    def known(self, confidence: float = KNOWN) -> Array:
        """(K, 3): the keypoints, NaN where the confidence is lower: what may be judged, and what is unknown."""
        return np.where((self.confidence >= confidence)[:, None], self.keypoints, np.nan)


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
        if not objects:
            raise TrackingError("no object to track")
        for thing in objects:
            _check(thing, (calibration.height, calibration.width))
        self.calibration, self.settings = calibration, settings or TrackerSettings()
        self.names = tuple(
            thing.name if len(thing.keypoints) == 1 else f"{thing.name}_{index}"
            for thing in objects
            for index in range(len(thing.keypoints))
        )
        self._starts = tuple(objects)
        # Philox takes no negative numbers; an episode's seed may be any 64 bits.
        self._rng = np.random.Generator(np.random.Philox(seed % 2**64))
        self._bodies: list[Body | None] = []
        self._last: tuple[NDArray[np.uint8], Pose, float, int] | None = None
        self._widest = 0.0

    @property
    def untracked(self) -> tuple[str, ...]:
        """Objects of which the first frame showed too little to follow them: their confidence is 0 throughout."""
        return tuple(start.name for start, body in zip(self._starts, self._bodies, strict=False) if body is None)

    def update(
        self, color: NDArray[np.uint8], depth: NDArray[np.float32], tcp: Pose, gripper_width: float, stamp: int
    ) -> Tracked:
        """The next frame: ``color`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32 metres aligned to it (0 or NaN:
        unknown), measured ``tcp`` (base frame, z out of the palm) and opening (metres) at ``stamp`` ns. Raises
        TrackingError for images of another size or kind, numbers that are not finite, and a stamp not after the last.
        """
        frame = self._frame(color, depth)
        if not (np.isfinite(tcp.position).all() and np.isfinite(tcp.quaternion).all() and np.isfinite(gripper_width)):
            raise TrackingError(f"tcp {tcp} or gripper width {gripper_width} is not finite")
        self._widest = max(self._widest, gripper_width)
        if self._last is None:
            self._bodies = [self._begun(frame, start) for start in self._starts]
        else:
            gray, last_tcp, last_width, last_stamp = self._last
            if stamp <= last_stamp:
                raise TrackingError(f"stamp {stamp} is not after the last frame's {last_stamp}")
            closed = gripper_width < min(self.settings.open_share * self._widest, last_width + _OPENING)
            hand = Hand(tcp, Rigid.between(last_tcp, tcp), closed)
            self._advance(gray, frame, hand, 1e-9 * (stamp - last_stamp))
        self._last = (frame.gray, tcp, gripper_width, stamp)
        return self._tracked(stamp)

    def _frame(self, color: NDArray[np.uint8], depth: NDArray[np.float32]) -> Frame:
        size = (self.calibration.height, self.calibration.width)
        if color.shape != (*size, 3) or color.dtype != np.uint8:
            raise TrackingError(f"color {color.dtype} {color.shape} is not uint8 {(*size, 3)}")
        if depth.shape != size or depth.dtype != np.float32:
            raise TrackingError(f"depth {depth.dtype} {depth.shape} is not float32 {size}")
        return Frame(self.calibration, color, depth)

    def _begun(self, frame: Frame, start: ObjectStart) -> Body | None:
        model = ObjectModel.learn(frame, start.mask)
        return None if model is None else Body(model, Palette(frame, start.mask), frame, self.settings, self._rng)

    def _advance(self, before: NDArray[np.uint8], frame: Frame, hand: Hand, seconds: float) -> None:
        """All objects' features in one call of flow: it is cheaper than one call each."""
        bodies = [body for body in self._bodies if body is not None]
        if not bodies:
            return
        predicted = [body.predict(frame, hand) for body in bodies]
        pixels = np.concatenate([body.pixels for body in bodies])
        guess = np.concatenate([body.guess(frame, pose) for body, pose in zip(bodies, predicted, strict=True)])
        ends, good = follow(before, frame.gray, pixels, guess, self.settings.flow)
        at = 0
        for body, pose in zip(bodies, predicted, strict=True):
            part = slice(at, at + len(body.pixels))
            at = part.stop
            body.settle(frame, pose, ends[part], good[part], hand, seconds)

    def _tracked(self, stamp: int) -> Tracked:
        points, confidence, visible = [], [], []
        for start, body in zip(self._starts, self._bodies, strict=True):
            keypoints = np.asarray(start.keypoints, dtype=np.float64)
            points.append(keypoints if body is None else body.pose.apply(keypoints))
            confidence += [0.0 if body is None else body.confidence] * len(keypoints)
            visible += [body is not None and body.visible] * len(keypoints)
        return Tracked(stamp, self.names, np.concatenate(points), np.array(confidence), np.array(visible))


def _check(thing: ObjectStart, size: tuple[int, int]) -> None:
    if thing.mask.shape != size or thing.mask.dtype != np.bool_:
        raise TrackingError(f"{thing.name}: mask {thing.mask.dtype} {thing.mask.shape} is not bool {size}")
    points = np.asarray(thing.keypoints)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise TrackingError(f"{thing.name}: keypoints {points.tolist()} are not finite points (n, 3)")
