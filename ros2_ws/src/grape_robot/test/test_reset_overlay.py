"""The overlay: a convex mixture of two images of one size, and what it says of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from grape_robot.reset_overlay import blend, difference, labelled

SHAPE = (5, 7, 3)
PICTURES = arrays(np.uint8, SHAPE)


@given(PICTURES, PICTURES, st.floats(0.0, 1.0))
def test_a_blend_lies_between_its_two_images(live: np.ndarray, stored: np.ndarray, weight: float) -> None:
    mixed = blend(live, stored, weight)
    assert mixed.dtype == np.uint8 and mixed.shape == SHAPE
    assert (mixed >= np.minimum(live, stored)).all() and (mixed <= np.maximum(live, stored)).all()
    exact = weight * live.astype(float) + (1.0 - weight) * stored.astype(float)
    # weights come in 256ths
    assert np.abs(mixed - exact).max() <= 0.5 + 255.0 / 512.0 + 1e-9


@given(PICTURES, PICTURES)
def test_the_ends_of_the_weight_are_the_images(live: np.ndarray, stored: np.ndarray) -> None:
    assert np.array_equal(blend(live, stored, 1.0), live) and np.array_equal(blend(live, stored, 0.0), stored)
    assert np.array_equal(blend(live, live, 0.3), live)


@given(PICTURES, PICTURES)
def test_the_difference_is_a_distance(live: np.ndarray, stored: np.ndarray) -> None:
    found = difference(live, stored)
    assert found == difference(stored, live) and 0.0 <= found <= 1.0
    assert (found == 0.0) == np.array_equal(live, stored)
    assert found == pytest.approx(
        sum(abs(int(a) - int(b)) for a, b in zip(live.flat, stored.flat, strict=True)) / 26775
    )


def test_black_and_white_are_as_far_apart_as_can_be() -> None:
    assert difference(np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)) == 1.0


def test_other_sizes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="640x480 was stored, the camera sends 320x240"):
        blend(np.zeros((240, 320, 3), np.uint8), np.zeros((480, 640, 3), np.uint8), 0.5)


def test_the_label_is_on_top_and_says_what_it_is_told() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    one, other = labelled(image, ("carrot 7",)), labelled(image, ("carrot 8",))
    assert (image == 90).all() and one.shape == image.shape
    assert np.array_equal(one[40:], image[40:]) and not np.array_equal(one[:20], image[:20])
    assert not np.array_equal(one, other)  # one digit is seen
    assert one[:20].max() > 200
