"""Statistics of exported features: against NumPy over every pixel, and over all episodes at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_trainer.export.statistics import QUANTILES, Gathered, image_stats, levels, plain, vector_stats


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.sampled_from([2, 9, 256]))
def test_counting_levels_gives_what_every_pixel_gives(seed, frames, height, width, shades):
    images = np.random.default_rng(seed).integers(0, shades, (frames, height, width, 3)).astype(np.uint8)
    found = image_stats(levels(images), frames)
    for channel in range(3):
        pixels = np.sort(images[..., channel].reshape(-1)) / 255
        expected = {
            "min": pixels[0],
            "max": pixels[-1],
            "mean": sum(pixels.tolist()) / len(pixels),
            "std": np.sqrt(np.mean(np.square(pixels - pixels.mean()))),
            **{name: np.quantile(pixels, q) for name, q in QUANTILES.items()},
        }
        for name, value in expected.items():
            assert found[name].shape == (3, 1, 1)
            assert found[name][channel, 0, 0] == pytest.approx(value, abs=1e-12), name
    assert found["count"].tolist() == [frames]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 3))
def test_all_episodes_together_are_one_long_one(seed, lengths, width):
    rng = np.random.default_rng(seed)
    gathered, rows, pictures = Gathered(), [], []
    for length in lengths:
        rows.append(rng.normal(3, 2, (length, width)).astype(np.float32))
        pictures.append(rng.integers(0, 256, (length, 2, 3, 3)).astype(np.uint8))
        own = gathered.add({"x": rows[-1]}, {"seen": pictures[-1]})
        assert own["x"]["count"].tolist() == own["seen"]["count"].tolist() == [length]
    every, seen = np.concatenate(rows).astype(np.float64), np.concatenate(pictures)
    found = gathered.stats()
    # another way to the moments: sums and sums of squares
    mean = every.sum(axis=0) / len(every)
    variance = np.maximum(0, np.square(every).sum(axis=0) / len(every) - mean**2)
    assert np.allclose(found["x"]["mean"], mean, atol=1e-12)
    assert np.allclose(found["x"]["std"] ** 2, variance, atol=1e-9)
    assert np.array_equal(found["x"]["q50"], np.median(every, axis=0))
    whole = image_stats(levels(seen), len(seen))
    assert all(np.array_equal(found["seen"][name], value) for name, value in whole.items())


def test_numbers_and_truths_of_one_a_frame_have_one_statistic():
    found = vector_stats(np.array([False, True, True, True]))
    assert {name: value.tolist() for name, value in found.items() if name in ("min", "max", "mean", "count")} == {
        "min": [0.0],
        "max": [1.0],
        "mean": [0.75],
        "count": [4],
    }


def test_plain_keeps_the_order_asked_for_and_only_what_is_known():
    told = plain({"a": vector_stats(np.arange(3)), "b": vector_stats(np.arange(3))}, ["b", "picture", "a"])
    assert list(told) == ["b", "a"] and told["b"]["q50"] == [1.0]
