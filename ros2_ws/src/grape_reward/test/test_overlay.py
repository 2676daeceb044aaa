from __future__ import annotations

import numpy as np

from grape_episode.geometry import Pose
from grape_reward.camera import Calibration
from grape_reward.overlay import COLOURS, numbered, tracked_overlay
from grape_reward.tracking import Tracked

BLANK = np.full((240, 320, 3), 255, np.uint8)


def changed(image: np.ndarray) -> np.ndarray:
    return (image != BLANK).any(axis=2)


def test_discs_stand_at_their_pixels_in_their_colours_and_the_image_is_left_alone() -> None:
    pixels = np.array([[60.0, 50.0], [200.0, 180.0]])
    image = numbered(BLANK, pixels)
    assert (BLANK == 255).all()
    rows, columns = np.nonzero(changed(image))
    for index, (u, v) in enumerate(pixels):
        near = np.hypot(columns - u, rows - v) < 12
        assert near.sum() > 50
        assert (image[rows[near], columns[near]] == COLOURS[index]).all(axis=1).any()
    assert (np.min([np.hypot(columns - u, rows - v) for u, v in pixels], axis=0) < 12).all()


def test_what_is_outside_or_unknown_where_leaves_no_mark() -> None:
    assert not changed(numbered(BLANK, np.array([[-5.0, 10.0], [np.nan, 1.0], [320.0, 10.0], [10.0, 240.0]]))).any()


def test_an_unknown_keypoint_is_drawn_in_grey() -> None:
    pixels = np.array([[160.0, 120.0]])
    image = numbered(BLANK, pixels, known=np.array([False]))
    marks = image[changed(image)].astype(int)
    assert len(marks) > 10 and (np.ptp(marks, axis=1) == 0).all()


def test_labels_stay_inside_the_image() -> None:
    for u in (5.0, 160.0, 315.0):
        bare, image = (numbered(BLANK, np.array([[u, 120.0]]), labels) for labels in (None, ["a long name 0.99"]))
        extra = np.nonzero((image != bare).any(axis=2))[1]
        assert len(extra) > 100 and np.ptp(extra) > 60


def test_tracked_keypoints_are_drawn_where_they_project() -> None:
    camera = Calibration(320, 240, 300.0, 300.0, 160.0, 120.0, Pose(np.zeros(3)))
    tracked = Tracked(0, ("cup",), np.array([[0.1, 0.05, 1.0]]), np.array([0.9]), np.array([True]))
    image = tracked_overlay(BLANK, camera, tracked)
    assert changed(image)[135, 190] and not changed(image)[:100].any()
    unsure = tracked_overlay(BLANK, camera, tracked, threshold=0.95)
    assert (image != unsure).any()
