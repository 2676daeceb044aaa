"""The loss against numbers worked out by hand, the chunked gradient against one graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from grape_trainer import tpo

CHUNKS = (1, 3, 8, None)
LENGTHS = {"a": 11, "b": 19, "c": 8, "d": 23}
PAIRS = [("a", "b"), ("a", "d"), ("c", "b"), ("c", "d")]


@dataclass(frozen=True)
class Toy:
    """T steps of (D,) observations and seven tokens each."""

    episode_id: str
    observations: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


class ToyPolicy(nn.Module):
    """Autoregressive over seven tokens, frozen weights with trainable low-rank updates at every layer."""

    def __init__(self, dtype: torch.dtype, seed: int = 0, width: int = 24, vocabulary: int = 13) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return (torch.randn(*shape, generator=g, dtype=torch.float64) / math.sqrt(shape[-1])).to(dtype)

        self.embed = draw(vocabulary + 1, width)
        self.weights = [draw(width, width) for _ in range(3)]
        self.head = draw(vocabulary, width)
        self.a = nn.ParameterList([nn.Parameter(draw(4, width)) for _ in self.weights])
        self.b = nn.ParameterList([nn.Parameter(0.3 * draw(width, 4)) for _ in self.weights])
        self.adapter = True

    def log_probs(self, trajectory: Toy, start: int, stop: int) -> Tensor:
        tokens = trajectory.tokens[start:stop]
        prefix = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1] + 1], dim=1)
        hidden = self.embed[prefix].cumsum(dim=1) + trajectory.observations[start:stop, None]
        for weight, a, b in zip(self.weights, self.a, self.b, strict=True):
            delta = b @ a if self.adapter else torch.zeros_like(weight)
            hidden = torch.tanh(hidden @ (weight + delta).T)
        logits = hidden @ self.head.T
        return torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]


def toys(dtype: torch.dtype, seed: int = 1) -> dict[str, Toy]:
    g = torch.Generator().manual_seed(seed)
    result = {}
    for name, steps in LENGTHS.items():
        observations = torch.randn(steps, 24, generator=g, dtype=torch.float64).to(dtype)
        result[name] = Toy(name, observations, torch.randint(0, 13, (steps, 7), generator=g))
    return result


def references(policy: ToyPolicy, trajectories: dict[str, Toy], chunk: int = 8) -> dict[str, Tensor]:
    policy.adapter = False
    result = {k: tpo.token_log_probs(policy.log_probs, t, chunk) for k, t in trajectories.items()}
    policy.adapter = True
    return result


def one_graph(
    policy: ToyPolicy, trajectories: dict[str, Toy], reference: dict[str, Tensor], loss: tpo.Loss
) -> tuple[float, list[Tensor]]:
    """Eq. 5 written down directly, in one graph over all steps of all pairs."""
    total = torch.zeros((), dtype=torch.float64)
    for chosen, rejected in PAIRS:
        w, ell = trajectories[chosen], trajectories[rejected]
        log_w = policy.log_probs(w, 0, len(w)).double()
        log_l = policy.log_probs(ell, 0, len(ell)).double()
        ratio_w, ratio_l = (log_w - reference[chosen]).sum(), (log_l - reference[rejected]).sum()
        if loss.length_normalised:
            z = loss.beta * (ratio_w / len(w) - ratio_l / len(ell))
            z = z - loss.positive * loss.beta / len(w) * torch.relu(-ratio_w)
        else:
            beta = loss.beta if loss.mode == "sum" else loss.beta / ((len(w) + len(ell)) / 2)
            z = beta * (ratio_w - ratio_l - loss.positive * torch.relu(-ratio_w))
        total = total - torch.nn.functional.logsigmoid(z) - loss.supervised * log_w.mean()
    total = total / len(PAIRS)
    return float(total.detach()), list(torch.autograd.grad(total, list(policy.parameters())))


def chunked(
    policy: ToyPolicy, trajectories: dict[str, Toy], reference: dict[str, Tensor], loss: tpo.Loss, chunk: int
) -> tuple[float, list[Tensor]]:
    current = {k: tpo.token_log_probs(policy.log_probs, t, chunk) for k, t in trajectories.items()}
    figures, coefficients = tpo.compare(PAIRS, current, reference, loss)
    grads = tpo.gradient(policy.log_probs, trajectories.values(), coefficients, list(policy.parameters()), chunk)
    return tpo.batch_loss(figures, loss), grads


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("mode", ["sum", "pair_mean_length", "length_normalised"])
@pytest.mark.parametrize(("supervised", "positive"), [(0.0, 0.0), (10.0, 0.0), (0.0, 5.0)])
def test_chunked_gradient_is_the_one_graph_gradient(
    dtype: torch.dtype, bound: float, chunk: int | None, mode: str, supervised: float, positive: float
) -> None:
    policy, trajectories = ToyPolicy(dtype), toys(dtype)
    normalised = mode == "length_normalised"
    loss = tpo.Loss(0.1 if mode == "sum" else 2.0, "sum" if normalised else mode, supervised, normalised, positive)
    reference = references(policy, trajectories)
    value, wanted = one_graph(policy, trajectories, reference, loss)
    got_value, got = chunked(policy, trajectories, reference, loss, chunk or max(LENGTHS.values()))
    difference = tpo.norm(g.double() - w.double() for g, w in zip(got, wanted, strict=True))
    assert tpo.norm(wanted) > 1e-3
    assert difference <= bound * tpo.norm(wanted)
    assert got_value == pytest.approx(value, rel=10 * bound)


def test_the_positive_anchor_counts_a_fallen_chosen_side_only() -> None:
    zero = {"w": torch.zeros(2, 7, dtype=torch.float64), "l": torch.zeros(4, 7, dtype=torch.float64)}
    for gap, margin in ((-1.4, -1.4 * (1 + 3.0)), (1.4, 1.4)):
        current = {"w": zero["w"] + gap / 14, "l": zero["l"]}
        (figure,), coefficients = tpo.compare([("w", "l")], current, zero, tpo.Loss(beta=1.0, positive=3.0))
        assert figure.preference_loss == pytest.approx(math.log1p(math.exp(-margin)))
        assert figure.reward_chosen == pytest.approx(gap) and figure.accuracy == float(gap > 0)
        assert coefficients["w"] / coefficients["l"] == pytest.approx(-4.0 if gap < 0 else -1.0)


def test_one_weight_a_step_is_one_number_where_they_are_equal() -> None:
    policy, trajectories = ToyPolicy(torch.float64), toys(torch.float64)
    parameters = list(policy.parameters())
    one = tpo.gradient(policy.log_probs, trajectories.values(), dict.fromkeys(LENGTHS, 0.3), parameters, 4)
    many = {name: torch.full((steps,), 0.3, dtype=torch.float64) for name, steps in LENGTHS.items()}
    found: dict[str, Tensor] = {}
    each = tpo.gradient(policy.log_probs, trajectories.values(), many, parameters, 4, found)
    assert tpo.norm(a - b for a, b in zip(one, each, strict=True)) <= 1e-12 * tpo.norm(one)
    for name, t in trajectories.items():
        assert torch.equal(found[name], tpo.token_log_probs(policy.log_probs, t, 4))


def test_one_pass_gives_what_two_give() -> None:
    policy, trajectories = ToyPolicy(torch.float32), toys(torch.float32)
    loss = tpo.Loss(beta=2.0, mode="pair_mean_length", supervised=10.0)
    reference = references(policy, trajectories)
    _, two = chunked(policy, trajectories, reference, loss, 8)
    parameters = list(policy.parameters())
    each = {k: tpo.episode_gradient(policy.log_probs, t, parameters, 8) for k, t in trajectories.items()}
    _, coefficients = tpo.compare(PAIRS, {k: values for k, (values, _) in each.items()}, reference, loss)
    one = tpo.combine({k: parts for k, (_, parts) in each.items()}, coefficients, parameters)
    assert tpo.norm(a - b for a, b in zip(one, two, strict=True)) <= 1e-6 * tpo.norm(two)


def test_loss_is_log_two_at_the_reference() -> None:
    policy, trajectories = ToyPolicy(torch.float64), toys(torch.float64)
    reference = references(policy, trajectories)
    figures, _ = tpo.compare(PAIRS, reference, reference, tpo.Loss(beta=0.1))
    assert all(f.preference_loss == math.log(2) and f.margin == 0.0 for f in figures)


def test_a_step_along_the_gradient_lowers_the_loss_as_predicted() -> None:
    policy, trajectories = ToyPolicy(torch.float64), toys(torch.float64)
    loss = tpo.Loss(beta=0.1, supervised=1.0)
    reference = references(policy, trajectories)
    before, grads = chunked(policy, trajectories, reference, loss, 4)
    step = 1e-6
    with torch.no_grad():
        for p, g in zip(policy.parameters(), grads, strict=True):
            p -= step * g
    after, _ = chunked(policy, trajectories, reference, loss, 4)
    assert (before - after) / step == pytest.approx(tpo.norm(grads) ** 2, rel=1e-4)


@given(
    st.floats(-200, 200),
    st.floats(-200, 200),
    st.integers(1, 80),
    st.integers(1, 80),
    st.sampled_from(["sum", "pair_mean_length"]),
    st.floats(1e-3, 10),
)
def test_pair_figures_follow_the_formulas(w: float, ell: float, tw: int, tl: int, mode: str, beta: float) -> None:
    zero = {"w": torch.zeros(tw, 7, dtype=torch.float64), "l": torch.zeros(tl, 7, dtype=torch.float64)}
    current = {"w": zero["w"] + w / (7 * tw), "l": zero["l"] + ell / (7 * tl)}
    loss = tpo.Loss(beta=beta, mode=mode, supervised=2.0)
    (figure,), coefficients = tpo.compare([("w", "l")], current, zero, loss)
    scale = beta if mode == "sum" else 2 * beta / (tw + tl)
    z = scale * (w - ell)
    wanted = float(torch.nn.functional.softplus(torch.tensor(-z, dtype=torch.float64)))
    assert figure.preference_loss == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert figure.margin == pytest.approx(z, rel=1e-9, abs=1e-9)
    assert figure.drift_chosen == pytest.approx(w / tw, abs=1e-9)
    assert figure.drift_rejected == pytest.approx(ell / tl, abs=1e-9)
    slope = float(torch.sigmoid(torch.tensor(-z, dtype=torch.float64))) * scale
    assert coefficients["l"] == pytest.approx(slope, rel=1e-7, abs=1e-12)
    assert coefficients["w"] == pytest.approx(-slope - 2.0 / (7 * tw), rel=1e-7, abs=1e-12)


def test_huge_margins_neither_overflow_nor_vanish_into_nan() -> None:
    zero = {"w": torch.zeros(1, 7), "l": torch.zeros(1, 7)}
    for sign in (1, -1):
        current = {"w": zero["w"] + sign * 1e4, "l": zero["l"]}
        (figure,), coefficients = tpo.compare([("w", "l")], current, zero, tpo.Loss(beta=1.0))
        assert figure.finite and all(map(math.isfinite, coefficients.values()))
        assert figure.preference_loss == pytest.approx(0.0 if sign > 0 else 7e4)


def test_nan_log_probs_are_seen() -> None:
    zero = {"w": torch.zeros(1, 7), "l": torch.zeros(1, 7)}
    (figure,), _ = tpo.compare([("w", "l")], {**zero, "l": zero["l"] * math.nan}, zero, tpo.Loss())
    assert not figure.finite


def test_kl_is_zero_at_the_reference_and_equals_torch_elsewhere() -> None:
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randn(5, 7, 11, generator=g, dtype=torch.float64) for _ in range(2))
    kl, reverse, entropy = tpo.step_kl(a, a)
    assert torch.equal(kl, reverse)
    assert torch.allclose(kl, torch.zeros(5, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=a).entropy().sum(-1))
    kl, reverse, _ = tpo.step_kl(a, b)
    one, other = torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
    assert torch.allclose(kl, torch.distributions.kl_divergence(one, other).sum(-1))
    assert torch.allclose(reverse, torch.distributions.kl_divergence(other, one).sum(-1))
    padded = torch.nn.functional.pad(a, (0, 3), value=-math.inf)
    assert torch.allclose(tpo.step_kl(padded, torch.nn.functional.pad(b, (0, 3), value=-math.inf))[0], kl)


def test_one_graph_never_holds_more_than_a_chunk() -> None:
    policy, trajectories = ToyPolicy(torch.float64), toys(torch.float64)
    asked: list[int] = []

    def counted(t: Toy, start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return policy.log_probs(t, start, stop)

    tpo.gradient(counted, trajectories.values(), dict.fromkeys(LENGTHS, 1.0), list(policy.parameters()), 8)
    assert max(asked) == 8 and sum(asked) == sum(LENGTHS.values())
