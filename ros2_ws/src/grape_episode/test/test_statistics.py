"""Figures and intervals against independent ways to the same numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from grape_episode import statistics as st


@given(hs.integers(1, 400), hs.data())
def test_wilson_solves_its_quadratic(n: int, data: hs.DataObject) -> None:
    k = data.draw(hs.integers(0, n))
    got = st.proportion([True] * k + [False] * (n - k))
    z, p = 1.959963984540054, k / n
    for bound in (got.low, got.high):
        # Wilson's bounds are where |p - bound| = z sqrt(bound (1 - bound) / n)
        assert (p - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, abs=1e-9)
    assert got.low - 1e-12 <= got.rate <= got.high + 1e-12


def test_nothing_measured_is_not_a_number() -> None:
    assert math.isnan(st.proportion([]).rate) and st.proportion([]).trials == 0
    assert math.isnan(st.paired([], []).difference)


def test_paired_interval_agrees_with_the_normal_one_for_many_states() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(2000) < 0.5, rng.random(2000) < 0.6
    got = st.paired(first, second)
    delta = second.astype(float) - first.astype(float)
    half = 1.96 * delta.std(ddof=1) / math.sqrt(len(delta))
    assert got.low == pytest.approx(delta.mean() - half, abs=0.004)
    assert got.high == pytest.approx(delta.mean() + half, abs=0.004)


def test_pairing_removes_what_both_sides_share() -> None:
    rng = np.random.default_rng(4)
    easy = rng.random(300) < 0.5
    better = easy.copy()
    better[:30] = True
    close, far = st.paired(easy, better), st.paired(easy, rng.permutation(better))
    assert close.high - close.low < 0.6 * (far.high - far.low)


def test_equal_sides_still_have_an_interval() -> None:
    got = st.paired([True] * 20, [True] * 20)
    assert got.difference == 0 and got.low < 0 < got.high and not got.beyond_noise


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        first, second = rng.random(120) < 0.4, rng.random(120) < 0.55
        got = st.paired(first, second, seed=trial)
        covered += got.low <= 0.15 <= got.high
    assert 178 <= covered <= 200


def test_words_say_noise_when_it_is_noise() -> None:
    assert "no difference beyond noise" in st.in_words(st.Difference(0.01, -0.02, 0.04, 100), "success")
    assert "up by more than noise" in st.in_words(st.Difference(0.1, 0.02, 0.2, 100), "success")
    assert "nothing was measured" in st.in_words(st.paired([], []), "success")


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        st.paired([1.0], [1.0, 2.0])


@given(hs.integers(1, 60), hs.sampled_from([-1.0, 0.0, 0.5, 1.0]))
def test_states_that_all_agree_are_bounded_by_what_unseen_ones_could_show(n: int, gap: float) -> None:
    got = st.paired([0.0] * n, [gap] * n)
    assert got.difference == gap and -1.0 - 1e-12 <= got.low <= gap <= got.high <= 1.0 + 1e-12
    # the largest share of other states of which n draws show none with a chance of 5 %, each of them at the far end
    share = (got.high - gap) / (1.0 - gap) if gap < 1.0 else (gap - got.low) / (1.0 + gap)
    assert (1.0 - share) ** n == pytest.approx(0.05)


def test_one_state_says_nothing_beyond_noise() -> None:
    assert not st.paired([1.0], [0.0]).beyond_noise
