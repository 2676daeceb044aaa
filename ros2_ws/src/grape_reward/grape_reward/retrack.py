"""Keypoints of a recorded episode from its camera images, in place of those recorded with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from grape_episode import topics
from grape_episode.bag import BagScan
from grape_episode.episode import Episode, Series
from grape_episode.messages import stamp_of
from grape_episode.reader import bag_file, checked_records, decode
from grape_reward.errors import ScoreError
from grape_reward.frames import TrackingSetup
from grape_reward.images import color_of, depth_of
from grape_reward.spec import TaskSpec
from grape_reward.tracking import Tracked


def retracked(episode: Episode, bag: Path, task: TaskSpec, setup: TrackingSetup) -> Episode:
    """The episode with the keypoints that tracking finds in the images of its bag, and their confidence.

    Raises ScoreError for a bag without colour and depth images, and the errors of ``TrackingSetup.tracker``."""
    file = bag_file(bag)
    tracker = setup.tracker(episode.identity, task)
    for topic, series in (("tcp", episode.tcp), ("gripper", episode.gripper)):
        for stamp, value in zip(series.stamps.tolist(), series.values, strict=True):
            tracker.state(topic, stamp, float(value[0]) if topic == "gripper" else value)
    found: list[Tracked] = []
    for record in checked_records(BagScan(file)):
        if record.topic == topics.COLOR:
            message = decode(file, record)
            tracker.image("color", stamp_of(message), color_of(message, topics.COLOR))
        elif record.topic == topics.DEPTH:
            message = decode(file, record)
            tracker.image("depth", stamp_of(message), depth_of(message, topics.DEPTH))
            found += tracker.pop()
    found += tracker.pop()
    if not found:
        raise ScoreError(f"{file}: no colour and depth images to track in: record with the camera, or without tracking")
    stamps = np.array([one.stamp for one in found], np.int64)
    points = np.array([one.keypoints for one in found])
    confidence = np.array([one.confidence for one in found])
    names = tracker.names
    return replace(episode, keypoints=Series(stamps, points, names), confidence=Series(stamps, confidence, names))
