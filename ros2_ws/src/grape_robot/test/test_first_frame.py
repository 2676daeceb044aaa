"""The first frame of a recorded episode: the one of the first observation, whatever the bag holds before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grape_episode import messages, topics
from grape_episode.bag import Bag
from grape_episode.episode import EpisodeError
from grape_episode.synthetic import episode_messages, make_episode
from grape_episode.typestore import blank, typestore
from grape_robot.first_frame import first_frame

EPISODE = make_episode(seed=3, steps=4, episode_id="recorded")
FIRST = EPISODE.steps[0].stamp


def picture(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (12, 16, 3)).astype(np.uint8)


def color(stamp: int, image: np.ndarray, encoding: str = "rgb8", pad: int = 0) -> Any:
    message = blank(topics.IMAGE_TYPE)
    messages.fill_header(message, stamp, topics.CAMERA_FRAME)
    height, width = image.shape[:2]
    rows = np.zeros((height, width * 3 + pad), np.uint8)
    rows[:, : width * 3] = (image[..., ::-1] if encoding == "bgr8" else image).reshape(height, -1)
    message.height, message.width, message.encoding, message.step = height, width, encoding, rows.shape[1]
    message.data = rows.reshape(-1)
    return message


def bag(path: Path, frames: list[Any], without: str = "") -> Path:
    """The episode's bag with these colour frames in their places."""
    out, now = Bag(path), 0
    found = [(topic, stamp, message) for topic, stamp, message in episode_messages(EPISODE) if topic != without]
    cameras = [(topics.COLOR, messages.stamp_of(frame), frame) for frame in frames]
    begin, end = found[0], found[-1]
    for topic, stamp, message in [begin, *sorted(cameras + found[1:-1], key=lambda entry: entry[1]), end]:
        now = max(now + 1, stamp)
        kind = topics.DATA_TYPES[topic]
        out.write(topic, kind, bytes(typestore().serialize_cdr(message, kind)), now)
    out.close()
    return path


@pytest.mark.parametrize(("encoding", "pad"), [("rgb8", 0), ("bgr8", 0), ("rgb8", 5)])
def test_the_frame_of_the_first_observation_not_the_bags_first(tmp_path: Path, encoding: str, pad: int) -> None:
    # on the way home, the first observation, after the first step
    frames = [color(FIRST + 100_000_000 * (n - 3), picture(n), encoding, pad) for n in range(6)]
    identity, image = first_frame(bag(tmp_path / "bag", frames))
    assert identity.episode_id == "recorded" and identity.task == EPISODE.identity.task
    assert np.array_equal(image, picture(3))


def test_a_bag_without_the_camera_says_how_to_record_it(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=f"nothing on {topics.COLOR}: the recorder's parameter camera"):
        first_frame(bag(tmp_path / "bag", []))


def test_a_bag_in_which_the_model_saw_nothing(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=f"nothing on {topics.MODEL_INPUT}"):
        first_frame(bag(tmp_path / "bag", [color(FIRST, picture(0))], without=topics.MODEL_INPUT))


def test_a_bag_without_the_very_frame(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"none of 1 frames on .* has the stamp"):
        first_frame(bag(tmp_path / "bag", [color(FIRST + 1, picture(0))]))


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    short = color(FIRST, picture(0))
    short.data = short.data[:-1]
    with pytest.raises(EpisodeError, match="16x12 rgb8 of 575 bytes"):
        first_frame(bag(tmp_path / "short", [short]))
    with pytest.raises(EpisodeError, match="mono8"):
        grey = color(FIRST, picture(0))
        grey.encoding = "mono8"
        first_frame(bag(tmp_path / "grey", [grey]))


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="no such bag"):
        first_frame(tmp_path / "nothing")
