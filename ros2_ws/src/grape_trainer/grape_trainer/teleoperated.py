"""Bags without decisions of a policy: the actions that a person made, from the measured motion of arm and gripper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from grape_episode import topics
from grape_episode.bag import BagScan, Record
from grape_episode.episode import Episode, EpisodeError, Series
from grape_episode.reader import bag_file, checked_records, decode, header_stamp
from grape_trainer.errors import TrainingError

CAMERAS = (topics.MODEL_INPUT, topics.COLOR)
"""Where frames are looked for; the first topic that has any is taken."""

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Driven:
    """T actions. ``stamps`` (T,) ns of the frames they answer; ``translation`` (T, 3) metres, base frame;
    ``rotation`` T rotations about the base frame's axes; ``opening`` (T, 1) of the gripper, 0 closed to 1 open."""

    stamps: Stamps
    translation: Array
    rotation: Rotation
    opening: Array


def actions(episode: Episode, path: Path) -> Driven:
    """The motion between frames a control period apart. Raises TrainingError naming the bag and the topic that is
    missing or too short."""
    _, frames = _frames(path)
    for topic, series in ((topics.CURRENT_POSE, episode.tcp), (topics.JOINT_STATES, episode.gripper)):
        if len(series) == 0:
            raise TrainingError(f"{path}: neither {topics.POLICY_STEP} nor {topic} was recorded: no actions in it")
    period = round(episode.identity.control_period * 1e9)
    if period <= 0:
        raise TrainingError(f"{path}: the control period is {episode.identity.control_period} s")
    first, last = max(int(s.stamps[0]) for s in (episode.tcp, episode.gripper)), int(episode.tcp.stamps[-1])
    stamps = _every(np.array([stamp for stamp in frames if first <= stamp <= last], np.int64), period)
    # the last frame has nothing after it
    ends = np.append(stamps[1:], min(last, int(stamps[-1]) + period)) if len(stamps) else stamps
    stamps, ends = stamps[ends > stamps], ends[ends > stamps]
    if not len(stamps):
        raise TrainingError(f"{path}: no two frames a control period apart while the arm's pose was recorded")
    before, after = _at(episode.tcp, stamps), _at(episode.tcp, ends)
    turn = Rotation.from_quat(after[:, 3:]) * Rotation.from_quat(before[:, 3:]).inv()
    opening = np.clip(_at(episode.gripper, ends) / topics.GRIPPER_STROKE, 0.0, 1.0)
    return Driven(stamps, after[:, :3] - before[:, :3], turn, opening)


def images(path: Path, stamps: Stamps) -> list[NDArray[np.uint8]]:
    """The camera frames (H, W, 3) uint8 RGB at ``stamps``. Raises TrainingError naming the bag and topic."""
    topic, _ = _frames(path)
    wanted, found = set(stamps.tolist()), {}
    for record in _records(path):
        if record.topic == topic and (stamp := header_stamp(record.data)) in wanted:
            found[stamp] = _picture(bag_file(path), record)
    return [found[stamp] for stamp in stamps.tolist()]


def are_inputs(path: Path) -> bool:
    """Whether the frames are images that a model saw, or would have seen: cropped and resized already."""
    return _frames(path)[0] == topics.MODEL_INPUT


def _frames(path: Path) -> tuple[str, list[int]]:
    """The camera's topic and the stamps on it, in order."""
    stamps: dict[str, list[int]] = {topic: [] for topic in CAMERAS}
    for record in _records(path):
        if record.topic in stamps:
            stamps[record.topic].append(header_stamp(record.data))
    for topic in CAMERAS:
        if stamps[topic]:
            return topic, sorted(set(stamps[topic]))
    raise TrainingError(f"{path}: no frame on {' or '.join(CAMERAS)}")


def _records(path: Path) -> Iterator[Record]:
    try:
        for record in checked_records(BagScan(bag_file(path))):
            if record.topic in CAMERAS:
                yield record
    except EpisodeError as error:
        raise TrainingError(str(error)) from None


def _picture(file: Path, record: Record) -> NDArray[np.uint8]:
    try:
        message = decode(file, record)
    except EpisodeError as error:
        raise TrainingError(str(error)) from None
    size = message.height * message.width * 3
    if message.encoding not in ("rgb8", "bgr8") or message.step != 3 * message.width or len(message.data) != size:
        raise TrainingError(f"{file}: {record.topic}: expected packed rgb8 or bgr8, found {message.encoding}")
    picture = np.asarray(message.data, np.uint8).reshape(message.height, message.width, 3)
    return picture if message.encoding == "rgb8" else picture[..., ::-1]


def _every(stamps: Stamps, period: int) -> Stamps:
    """The first of ``stamps`` and each next one at least a period (less a tenth, for a camera's jitter) later."""
    taken: list[int] = []
    for stamp in stamps.tolist():
        if not taken or stamp - taken[-1] >= 0.9 * period:
            taken.append(stamp)
    return np.array(taken, np.int64)


def _at(series: Series, stamps: Stamps) -> Array:
    """The latest sample at or before each stamp."""
    order = np.argsort(series.stamps, kind="stable")
    at = np.searchsorted(series.stamps[order], stamps, side="right") - 1
    return series.values[order][np.maximum(at, 0)]
