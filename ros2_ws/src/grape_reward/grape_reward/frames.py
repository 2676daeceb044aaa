"""RGB-D frames, poses and openings to keypoints, the same live and from a bag, in whatever order they arrive.

A frame is followed once its colour and its depth are here and pose and opening have reached its stamp; the tracker gets
the latest of these at or before it. Frames go to it in the order of their stamps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode.episode import Identity
from grape_episode.geometry import Array, Pose
from grape_reward.camera import Calibration, calibration_hash, load_calibration
from grape_reward.errors import RewardError
from grape_reward.keypoints.masks import read_label_image
from grape_reward.keypoints.result import load_proposal
from grape_reward.spec import TaskSpec
from grape_reward.tracking import ObjectStart, Tracked, Tracker

PROPOSAL, MASKS = "keypoints.json", "masks.png"


class StartError(RewardError):
    """Keypoints to begin tracking with that do not fit the task or the camera; the text begins with the file."""


@dataclass(frozen=True)
class TrackingSetup:
    """``calibration``: the camera's file. ``starts``: where the keypoints of the first frame are, as `grape keypoints
    propose` writes them: in a folder of the episode's id, in TASK/INITIAL_STATE, or right there."""

    calibration: Path
    starts: Path

    def tracker(self, identity: Identity, task: TaskSpec) -> FrameTracker:
        """The tracker of an episode. Raises RewardError: CalibrationError, KeypointsError, StartError."""
        calibration = load_calibration(self.calibration)
        known = calibration_hash(self.calibration)
        if identity.calibration_hash not in ("", known):
            told = f"{self.calibration}: calibration {known[:12]}, but the episode was recorded with"
            raise StartError(f"{told} {identity.calibration_hash[:12]}")
        own = (self.starts / identity.episode_id, self.starts / identity.task / str(identity.initial_state))
        folder = next((folder for folder in own if (folder / PROPOSAL).is_file()), self.starts)
        return FrameTracker(calibration, read_starts(folder, task, known), task, identity.seed, identity.stamp)


def read_starts(folder: Path, task: TaskSpec, calibration: str) -> list[ObjectStart]:
    """The objects of a task in a folder with keypoints.json and masks.png, the task's bodies first, then obstacles.

    The n-th keypoint of a body is the n-th that is proposed under the body's name. Raises KeypointsError, and
    StartError for another calibration (its hash) or a keypoint of the task that was not proposed."""
    file = folder / PROPOSAL
    proposal = load_proposal(file)
    if proposal.calibration != calibration:
        raise StartError(
            f"{file}: made with calibration {proposal.calibration[:12]}, the camera's is {calibration[:12]}"
        )
    labels = read_label_image(folder / MASKS).labels
    found: dict[str, list[int]] = {}
    for number, keypoint in enumerate(proposal.keypoints):
        found.setdefault(keypoint.name or f"mask{keypoint.mask}", []).append(number)
    starts = []
    for body in dict.fromkeys(task.bodies):
        names = [name for name, own in zip(task.keypoints, task.bodies, strict=True) if own == body]
        numbers = found.pop(body, [])
        if len(numbers) < len(names):
            raise StartError(f"{file}: {len(numbers)} keypoints of {body}, task {task.name} has {', '.join(names)}")
        starts.append(_start(body, numbers[: len(names)], proposal.points, proposal.mask_indices, labels))
    if task.obstacles:
        for body, numbers in found.items():
            starts.append(_start(body, numbers[:1], proposal.points, proposal.mask_indices, labels))
    return starts


def _start(
    body: str, numbers: list[int], points: Array, masks: NDArray[np.int64], labels: NDArray[np.integer]
) -> ObjectStart:
    return ObjectStart(body, points[numbers], labels == masks[numbers[0]] + 1)


@dataclass
class _Samples:
    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, stamp: int, value: Any) -> None:
        at = bisect_right(self.stamps, stamp)
        self.stamps.insert(at, stamp)
        self.values.insert(at, value)

    def latest(self, stamp: int) -> Any:
        at = bisect_right(self.stamps, stamp) - 1
        return None if at < 0 else self.values[at]

    def reached(self, stamp: int) -> bool:
        return bool(self.stamps) and self.stamps[-1] >= stamp


class FrameTracker:
    """Of one episode. ``names`` (K): the task's keypoints, then the obstacles. Frames up to ``since`` belong to the
    world before the episode and are left out."""

    def __init__(
        self, calibration: Calibration, starts: Sequence[ObjectStart], task: TaskSpec, seed: int, since: int
    ) -> None:
        self._tracker = Tracker(calibration, starts, seed)
        order = [(body, at) for body, name, at in _placed(task)]
        tracked = [(start.name, at) for start in starts for at in range(len(start.keypoints))]
        # the tracker counts object by object, the task's program as its file says
        self._order = [tracked.index(each) for each in order]
        self._order += [at for at in range(len(tracked)) if at not in self._order]
        self.names = (*task.keypoints, *(tracked[at][0] for at in self._order[len(order) :]))
        self._since = since
        self._images: dict[str, dict[int, NDArray]] = {"color": {}, "depth": {}}
        self._newest = {"color": since, "depth": since}
        self._states = {"tcp": _Samples(), "gripper": _Samples()}

    def image(self, kind: str, stamp: int, image: NDArray) -> None:
        """``color`` (H, W, 3) uint8 RGB or ``depth`` (H, W) float32 metres, aligned to it."""
        if stamp > self._since:
            self._images[kind][stamp] = image
            self._newest[kind] = max(self._newest[kind], stamp)

    def state(self, topic: str, stamp: int, value: Any) -> None:
        """A sample of ``tcp`` (7,) or ``gripper``, metres; others are not needed."""
        if topic in self._states:
            self._states[topic].add(stamp, value)

    def pop(self) -> list[Tracked]:
        """The frames that can be followed by now. Raises TrackingError."""
        done = []
        for stamp in sorted(self._images["color"].keys() | self._images["depth"].keys()):
            if min(self._newest.values()) < stamp or not all(s.reached(stamp) for s in self._states.values()):
                break
            color, depth = (self._images[kind].pop(stamp, None) for kind in ("color", "depth"))
            self._since = stamp
            if color is None or depth is None:
                continue
            tcp, width = (self._states[topic].latest(stamp) for topic in ("tcp", "gripper"))
            if tcp is None or width is None:
                continue
            found = self._tracker.update(
                color, depth, Pose(np.asarray(tcp[:3]), np.asarray(tcp[3:])), float(width), stamp
            )
            at = self._order
            done.append(Tracked(stamp, self.names, found.keypoints[at], found.confidence[at], found.visible[at]))
        return done


def _placed(task: TaskSpec) -> list[tuple[str, str, int]]:
    """(body, name, how many of the body's keypoints come before it) of a task's keypoints."""
    seen: dict[str, int] = {}
    placed = []
    for name, body in zip(task.keypoints, task.bodies, strict=True):
        placed.append((body, name, seen.get(body, 0)))
        seen[body] = seen.get(body, 0) + 1
    return placed
