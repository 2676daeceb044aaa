"""Episodes with a camera, without a robot: a rollout before a ray-cast scene, its bag with colour and depth images, and
the files that tracking begins with. For tests and benchmarks."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grape_episode import topics
from grape_episode.bag import Bag
from grape_episode.episode import Episode
from grape_episode.geometry import Array, Pose
from grape_episode.messages import fill_header
from grape_episode.synthetic import episode_messages
from grape_episode.typestore import blank, typestore
from grape_reward.camera import Calibration
from grape_reward.frames import MASKS, PROPOSAL
from grape_reward.keypoints.result import Keypoint, KeypointProposal
from grape_reward.raycast import Box, raycast

RgbdFrame = tuple[int, NDArray[np.uint8], NDArray[np.float32]]
"""Stamp in nanoseconds, colour (H, W, 3) RGB, depth (H, W) metres."""
_LEVEL = np.array([0.0, 0.0, 0.0, 1.0])


def boxes_of(points: Array) -> list[Box]:
    """A brick and a slab at the first two keypoints (K, 3), and posts at the others."""
    thing = Box((0.07, 0.05, 0.045), Pose(points[0], _LEVEL), (200.0, 90.0, 40.0), seed=1)
    slab = Box((0.13, 0.13, 0.016), Pose(points[1] - [0.0, 0.0, 0.008], _LEVEL), (60.0, 90.0, 190.0), seed=2)
    posts = [
        Box((0.04, 0.04, 0.12), Pose(at, _LEVEL), (90.0, 150.0, 60.0), seed=3 + n) for n, at in enumerate(points[2:])
    ]
    return [thing, slab, *posts]


def frames_of(episode: Episode, calibration: Calibration) -> Iterator[RgbdFrame]:
    """What the camera sees at each of the episode's keypoint samples."""
    for stamp, points in zip(episode.keypoints.stamps.tolist(), episode.keypoints.values, strict=True):
        color, depth, _ = raycast(calibration, boxes_of(points))
        yield stamp, color, depth


def image_messages(frames: Iterable[RgbdFrame]) -> Iterator[tuple[int, str, Any]]:
    """(stamp, topic, message) of colour and depth, 16UC1 in millimetres, as realsense2_camera publishes them."""
    for stamp, color, depth in frames:
        millimetres = np.rint(depth * 1000).astype(np.uint16)
        for topic, encoding, image in ((topics.COLOR, "rgb8", color), (topics.DEPTH, "16UC1", millimetres)):
            message = blank(topics.IMAGE_TYPE)
            fill_header(message, stamp, topics.CAMERA_FRAME)
            message.height, message.width = image.shape[:2]
            message.encoding, message.step = encoding, image.nbytes // image.shape[0]
            message.data = np.ascontiguousarray(image).view(np.uint8).reshape(-1)
            yield stamp, topic, message


def write_rgbd(episode: Episode, frames: Iterable[RgbdFrame], path: Path) -> Path:
    """The bag of an episode with its camera's images, in the new folder ``path``."""
    bag = Bag(path)
    log_time = 0
    told = ((stamp, topic, message) for topic, stamp, message in episode_messages(episode))
    # images first among equals, but for the identity, which is the bag's first message
    identity = next(told)
    merged = heapq.merge(image_messages(frames), told, key=lambda entry: entry[0])
    for stamp, topic, message in itertools.chain([identity], merged):
        log_time = _put(bag, topic, message, stamp, log_time)
    bag.close()
    return bag.folder


def _put(bag: Bag, topic: str, message: Any, stamp: int, log_time: int) -> int:
    log_time = max(log_time + 1, stamp)
    type_name = topics.DATA_TYPES[topic]
    bag.write(topic, type_name, bytes(typestore().serialize_cdr(message, type_name)), log_time)
    return log_time


def write_starts(
    folder: Path, calibration: Calibration, calibration_hash: str, names: Sequence[str], points: Array, labels: NDArray
) -> Path:
    """The files of a proposal whose n-th keypoint (K, 3) lies in the mask of the pixels labelled n (H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, _ = calibration.project(points)
    proposal = KeypointProposal(
        camera=calibration.camera,
        calibration=calibration_hash,
        width=calibration.width,
        height=calibration.height,
        masks="given",
        features="given",
        seed=0,
        keypoints=tuple(
            Keypoint(
                number=n,
                pixel=(round(float(pixels[n, 0])), round(float(pixels[n, 1]))),
                point=(float(point[0]), float(point[1]), float(point[2])),
                mask=n,
                name=name,
                kind="centre",
                confidence=1.0,
            )
            for n, (name, point) in enumerate(zip(names, points, strict=True))
        ),
    )
    Image.fromarray((labels + 1).astype(np.uint16)).save(folder / MASKS)
    proposal.save(folder / PROPOSAL)
    return folder
