from __future__ import annotations

import cv2
import numpy as np

from grape_reward.flow import follow


def picture(shift: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Smooth noise (120, 160) uint8, moved by ``shift`` pixels (u, v)."""
    noise = np.random.default_rng(seed).uniform(0, 255, (200, 240)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    smooth = 128 + (smooth - smooth.mean()) * (50 / smooth.std())
    matrix = np.array([[1.0, 0.0, shift[0] - 40], [0.0, 1.0, shift[1] - 40]])
    return np.clip(cv2.warpAffine(smooth, matrix, (160, 120)), 0, 255).astype(np.uint8)


POINTS = np.stack(np.meshgrid(np.arange(40.0, 121, 20), np.arange(40.0, 81, 20)), axis=-1).reshape(-1, 2)


def test_points_follow_a_shift_to_a_fraction_of_a_pixel() -> None:
    shift = np.array([3.4, -2.7])
    ends, good = follow(picture((0, 0)), picture((3.4, -2.7)), POINTS, POINTS)
    assert good.all()
    np.testing.assert_allclose(ends, POINTS + shift, atol=0.1)


def test_a_guess_reaches_farther_than_the_search_does() -> None:
    before, now, shift = picture((0, 0)), picture((36.0, 20.0)), np.array([36.0, 20.0])
    inside = POINTS[(POINTS + shift < (150, 110)).all(axis=1)]
    assert len(inside) > 3
    ends, good = follow(before, now, inside, inside + shift + 1.5)
    assert good.all()
    np.testing.assert_allclose(ends, inside + shift, atol=0.1)


def test_what_is_no_longer_there_is_not_found() -> None:
    before, now = picture((0, 0)), picture((1.0, 0.5))
    now[:, 70:] = picture((0, 0), seed=9)[:, 70:]
    _, good = follow(before, now, POINTS, POINTS)
    assert good[POINTS[:, 0] < 60].all()
    assert good[POINTS[:, 0] > 80].mean() < 0.25


def test_where_nothing_is_to_hold_on_to_nothing_is_found() -> None:
    flat = np.full((120, 160), 90, np.uint8)
    _, good = follow(flat, flat, POINTS, POINTS)
    assert not good.any()


def test_no_points_are_no_work() -> None:
    flat = np.full((120, 160), 90, np.uint8)
    ends, good = follow(flat, flat, np.zeros((0, 2)), np.zeros((0, 2)))
    assert ends.shape == (0, 2) and good.shape == (0,)
