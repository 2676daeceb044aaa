from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.frame import RgbdFrame, check_frame, read_color, read_depth, read_frame
from grape_reward.keypoints.testing import ball_scene

SCENE = ball_scene(np.array([[0.0, 0.0]]))


def test_depth_is_metres_whatever_the_file(tmp_path: Path) -> None:
    depth = SCENE.frame.depth
    millimetres = np.round(depth * 1000).astype(np.uint16)
    Image.fromarray(millimetres).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", depth=depth, other=np.zeros(3))
    np.savez_compressed(tmp_path / "c.npz", millimetres)
    assert read_depth(tmp_path / "a.png").dtype == np.float32
    np.testing.assert_allclose(read_depth(tmp_path / "a.png"), depth, atol=6e-4)
    np.testing.assert_array_equal(read_depth(tmp_path / "b.npz"), depth)
    np.testing.assert_array_equal(read_depth(tmp_path / "c.npz"), read_depth(tmp_path / "a.png"))


def test_a_frame_from_files_is_the_frame(tmp_path: Path) -> None:
    Image.fromarray(SCENE.frame.color).save(tmp_path / "color.png")
    np.savez(tmp_path / "depth.npz", SCENE.frame.depth)
    frame = read_frame(tmp_path / "color.png", tmp_path / "depth.npz", SCENE.calibration)
    assert (frame.color == SCENE.frame.color).all() and (frame.depth == SCENE.frame.depth).all()


def test_unknown_depth_becomes_zero() -> None:
    depth = SCENE.frame.depth.copy()
    depth[0, :4] = np.nan, np.inf, -1.0, -np.inf
    checked = check_frame(RgbdFrame(SCENE.frame.color, depth), SCENE.calibration)
    assert (checked.depth[0, :4] == 0).all() and (checked.depth[1:] == depth[1:]).all()


def test_sizes_that_are_not_the_calibrations_are_named() -> None:
    small = RgbdFrame(SCENE.frame.color, SCENE.frame.depth[:100])
    with pytest.raises(KeypointsError, match=r"^d\.png: 160x100 pixels, the calibration of ball scene is for 160x120"):
        check_frame(small, SCENE.calibration, "c.png", "d.png")
    with pytest.raises(KeypointsError, match=r"^d\.png: no pixel has depth"):
        check_frame(RgbdFrame(SCENE.frame.color, SCENE.frame.depth * 0), SCENE.calibration, "c.png", "d.png")


def test_files_that_hold_something_else_are_named(tmp_path: Path) -> None:
    Image.fromarray(SCENE.frame.color).save(tmp_path / "color.png")
    Image.fromarray(SCENE.frame.color[..., 0]).save(tmp_path / "gray.png")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    np.savez(tmp_path / "deep.npz", depth=np.zeros((2, 2, 2)))
    np.savez(tmp_path / "object.npz", depth=np.array([{"a": 1}], dtype=object))
    (tmp_path / "text.npz").write_text("hello")
    wrong = {
        "color.png": "16 bits",
        "gray.png": "16 bits",
        "two.npz": "found a, b",
        "deep.npz": "one number a pixel",
        "object.npz": "pickle",
        "text.npz": "no depth",
        "none.npz": "No such file",
        "none.png": "No such file",
    }
    for name, word in wrong.items():
        with pytest.raises(KeypointsError, match=word) as error:
            read_depth(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(KeypointsError, match="no image"):
        read_color(tmp_path / "text.npz")
