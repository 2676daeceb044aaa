"""Actions from motion: which frames are taken, from which topic, and what is said where something is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grape_episode import messages, topics
from grape_episode.bag import Bag
from grape_episode.episode import Episode, Series
from grape_episode.reader import read_episode
from grape_episode.synthetic import episode_messages, make_episode
from grape_episode.typestore import blank, typestore
from grape_trainer.errors import TrainingError
from grape_trainer.teleoperated import actions, images

CAMERA_PERIOD = 33_000_000


def camera_frame(stamp: int, value: int, encoding: str = "rgb8") -> Any:
    message = blank(topics.IMAGE_TYPE)
    messages.fill_header(message, stamp, topics.CAMERA_FRAME)
    message.height, message.width, message.encoding, message.step = 48, 64, encoding, 192
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 0] = value
    message.data = picture.reshape(-1)
    return message


def drive(folder: Path, encoding: str = "rgb8", without: tuple[str, ...] = (), **changes: Any) -> tuple[Path, Episode]:
    """Six seconds of driving: arm and gripper at 50 Hz, the raw camera at 30 Hz, control period 0.2 s."""
    made = make_episode(3, 30, samples_per_step=10)
    assert made.outcome is not None
    identity = dataclasses.replace(made.identity, **changes)
    made = dataclasses.replace(made, identity=identity, outcome=dataclasses.replace(made.outcome, steps=0))
    left_out = (topics.POLICY_STEP, topics.MODEL_INPUT, topics.GATE_STATUS, *without)
    told = [(t, stamp, message) for t, stamp, message in episode_messages(made) if t not in left_out]
    first, last = int(made.tcp.stamps[0]), int(made.tcp.stamps[-1])
    if topics.COLOR not in without:
        stamps = range(first - 5 * CAMERA_PERIOD, last, CAMERA_PERIOD)
        told += [(topics.COLOR, stamp, camera_frame(stamp, n % 256, encoding)) for n, stamp in enumerate(stamps)]
    head, tail = told[0], next(entry for entry in told if entry[0] == topics.OUTCOME)
    body = sorted((e for e in told if e is not head and e is not tail), key=lambda entry: entry[1])
    bag = Bag(folder, "zstd")
    for n, (topic, stamp, message) in enumerate([head, *body, tail]):
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), max(stamp, made.identity.stamp) + n)
    bag.close()
    return bag.folder, read_episode(bag.folder)


def test_frames_a_control_period_apart_are_taken(tmp_path: Path) -> None:
    bag, episode = drive(tmp_path / "bag")
    driven = actions(episode, bag)
    gaps = np.diff(driven.stamps)
    # every sixth frame of a 30 Hz camera is the first at least 0.9 periods later
    assert np.all(gaps == 6 * CAMERA_PERIOD) and 29 <= len(driven.stamps) <= 31
    assert driven.stamps[0] >= episode.tcp.stamps[0]
    assert np.all((driven.opening >= 0) & (driven.opening <= 1)) and driven.opening.min() < driven.opening.max()
    # the motion adds up to the way from the first pose taken to the last
    at = int(np.searchsorted(episode.tcp.stamps, driven.stamps[0], side="right")) - 1
    whole = episode.tcp.values[-1, :3] - episode.tcp.values[at, :3]
    assert np.allclose(driven.translation.sum(axis=0), whole, atol=1e-3)


@pytest.mark.parametrize(("encoding", "channel"), [("rgb8", 0), ("bgr8", 2)])
def test_pictures_are_those_of_the_frames_taken(tmp_path: Path, encoding: str, channel: int) -> None:
    bag, episode = drive(tmp_path / "bag", encoding)
    driven = actions(episode, bag)
    pictures = images(bag, driven.stamps)
    assert len(pictures) == len(driven.stamps) and pictures[0].shape == (48, 64, 3)
    numbers = [int(picture[0, 0, channel]) for picture in pictures]
    assert numbers == [(numbers[0] + 6 * n) % 256 for n in range(len(numbers))] and 5 <= numbers[0] <= 6


@pytest.mark.parametrize("topic", [topics.CURRENT_POSE, topics.JOINT_STATES, topics.COLOR])
def test_a_missing_topic_is_named(tmp_path: Path, topic: str) -> None:
    bag, episode = drive(tmp_path / "bag", without=(topic,))
    with pytest.raises(TrainingError, match=topic):
        actions(episode, bag)


def test_a_period_of_nothing_and_an_encoding_that_is_none_are_named(tmp_path: Path) -> None:
    bag, episode = drive(tmp_path / "bag", control_period=0.0)
    with pytest.raises(TrainingError, match="control period"):
        actions(episode, bag)
    bag, episode = drive(tmp_path / "mono", "mono8")
    with pytest.raises(TrainingError, match="mono8"):
        images(bag, actions(episode, bag).stamps)


def test_frames_without_an_arm_beside_them_are_no_actions(tmp_path: Path) -> None:
    bag, episode = drive(tmp_path / "bag")
    early = Series(episode.tcp.stamps[:1], episode.tcp.values[:1])
    with pytest.raises(TrainingError, match="no two frames"):
        actions(dataclasses.replace(episode, tcp=early), bag)
