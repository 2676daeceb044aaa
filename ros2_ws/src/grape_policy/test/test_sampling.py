import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from grape_policy.sampling import greedy, only_action_tokens, sample, uniforms


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_random_numbers_are_keyed_by_seed_and_step(seed: int, step: int) -> None:
    numbers = uniforms(seed, step)
    assert np.array_equal(numbers, uniforms(seed, step))
    assert not np.array_equal(numbers, uniforms(seed, step + 1))
    assert numbers.shape == (7,) and (numbers >= 0).all() and (numbers < 1).all()


def draw(logits: NDArray[np.float64], temperature: float, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    rows = len(numbers)
    return sample(
        torch.tensor(logits).expand(rows, -1), torch.full((rows,), temperature), torch.tensor(numbers)
    ).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_distribution(temperature: float) -> None:
    logits = np.array([0.0, 1.0, -2.0, 2.5])
    shares = np.bincount(draw(logits, temperature, (np.arange(4000) + 0.5) / 4000), minlength=4) / 4000
    weights = np.exp(logits / temperature)
    assert np.allclose(shares, weights / weights.sum(), atol=1e-3)


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=40),
    st.floats(0.05, 5.0),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_the_token_is_the_first_whose_cumulative_share_exceeds_the_number(
    logits: list[float], temperature: float, number: float
) -> None:
    """The second way: a loop over Python floats."""
    token = int(draw(np.array(logits), temperature, np.array([number]))[0])
    weights = [float(np.exp((x - max(logits)) / temperature)) for x in logits]
    total, before = float(np.cumsum(weights)[-1]), float(np.cumsum([0.0, *weights])[token])
    assert before <= number * total * (1 + 1e-12)
    assert number * total <= (before + weights[token]) * (1 + 1e-12) + 1e-300


def test_a_row_of_temperature_zero_takes_the_best_and_ties_take_the_first() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert greedy(logits).tolist() == [1, 0]
    assert sample(logits, torch.tensor([0.0, 1.0]), torch.tensor([0.99, 0.6])).tolist() == [1, 2]


@pytest.mark.parametrize("number", [0.0, 0.5, float(np.nextafter(1.0, 0.0))])
def test_a_token_without_weight_is_never_drawn(number: float) -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf, -np.inf])
    assert int(draw(logits, 1.0, np.array([number]))[0]) in (1, 3)


def test_only_action_tokens_are_left() -> None:
    bias = only_action_tokens(vocab_size=10, bins=4, padded=12, device=torch.device("cpu"))
    assert torch.isfinite(bias).nonzero()[:, 0].tolist() == [6, 7, 8, 9]
    assert float(bias[6:10].sum()) == 0.0
