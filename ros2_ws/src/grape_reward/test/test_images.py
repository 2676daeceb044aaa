from types import SimpleNamespace

import numpy as np
import pytest

from grape_reward.images import ImageMessageError, color_of, depth_of

TOPIC = "/camera"


def message(image, encoding, padding=0, **changes):
    rows = image.reshape(image.shape[0], -1).view(np.uint8)
    padded = np.concatenate([rows, np.zeros((len(rows), padding), np.uint8)], axis=1)
    told = {
        "encoding": encoding, "height": image.shape[0], "width": image.shape[1], "step": padded.shape[1],
        "is_bigendian": 0, "data": padded.reshape(-1),
    }  # fmt: skip
    return SimpleNamespace(**{**told, **changes})


COLOR = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
METRES = np.linspace(0.0, 2.0, 20, dtype=np.float32).reshape(4, 5)


@pytest.mark.parametrize("padding", [0, 4])
def test_images_come_back_as_they_were(padding):
    assert np.array_equal(color_of(message(COLOR, "rgb8", padding), TOPIC), COLOR)
    assert np.array_equal(color_of(message(COLOR, "bgr8", padding), TOPIC), COLOR[..., ::-1])
    assert np.array_equal(depth_of(message(METRES, "32FC1", padding), TOPIC), METRES)
    millimetres = np.rint(METRES * 1000).astype(np.uint16)
    found = depth_of(message(millimetres, "16UC1", padding), TOPIC)
    assert found.dtype == np.float32 and found == pytest.approx(METRES, abs=5.1e-4)


def test_bytes_as_rclpy_has_them_are_read_too():
    told = message(COLOR, "rgb8")
    told.data = told.data.tobytes()
    assert np.array_equal(color_of(told, TOPIC), COLOR)


@pytest.mark.parametrize(
    ("told", "read", "named"),
    [
        (message(COLOR, "mono8"), color_of, "'mono8', expected rgb8 or bgr8"),
        (message(COLOR, "rgb8"), depth_of, "'rgb8', expected 32FC1 or 16UC1"),
        (message(COLOR, "rgb8", height=5), color_of, "5x5 rgb8 with step 15 carries 60 bytes"),
        (message(COLOR, "rgb8", step=14), color_of, "step 14"),
        (message(METRES, "32FC1", is_bigendian=1), depth_of, "big-endian"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_topic(told, read, named):
    with pytest.raises(ImageMessageError, match=f"{TOPIC}: .*{named}"):
        read(told, TOPIC)
