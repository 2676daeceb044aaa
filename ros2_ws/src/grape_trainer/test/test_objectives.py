"""Objectives behind one face: metrics and weights of cloning and of preferences, from settings."""

from __future__ import annotations

import pytest
import torch

from grape_trainer.objectives import Clone, Cloning, Preference, means, objective
from grape_trainer.pairs import Pair
from grape_trainer.settings import settings

ITEMS = [Clone("a", ("t", "v", 1)), Clone("b", ("t", "v", 2))]


def log_probs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {k: -torch.rand(n, 7, generator=g, dtype=torch.float64) for k, n in (("a", 4), ("b", 12))}


def test_cloning_is_the_mean_token_cross_entropy_of_the_batch() -> None:
    current = {k: v.requires_grad_() for k, v in log_probs().items()}
    total = -torch.cat([v.flatten() for v in current.values()]).mean()
    wanted = torch.autograd.grad(total, list(current.values()))
    detached = {k: v.detach() for k, v in current.items()}
    metrics, weights = Cloning().compare(ITEMS, detached, detached)
    assert sum(m["loss"] for m in metrics) / 2 == pytest.approx(float(total.detach()), rel=1e-12)
    assert all(m["drift_chosen"] == 0.0 for m in metrics)
    for name, grad in zip(current, wanted, strict=True):
        assert torch.allclose(torch.as_tensor(weights[name], dtype=torch.float64), grad, rtol=1e-12)
    assert Cloning().fixed(ITEMS, {"a": 4, "b": 12}) == weights


def test_an_episode_twice_in_a_batch_counts_twice() -> None:
    weights = Cloning().fixed([*ITEMS, ITEMS[0]], {"a": 4, "b": 12})
    assert weights["a"] == pytest.approx(2 * float(weights["b"]))


@pytest.mark.parametrize(
    ("overrides", "uniform", "window"),
    [({}, True, 0), ({"method": "success_only"}, True, 0), ({"method": "step_dpo", "window": 4}, False, 4)],
)
def test_the_method_decides_the_objective(overrides: dict, uniform: bool, window: int) -> None:
    made = objective(settings("paper", **overrides))
    assert isinstance(made, Preference) and made.uniform is uniform and made.window == window
    assert made.loss.beta == 0.1 and not made.loss.length_normalised and made.loss.positive == 0.0
    pair = Pair("a", "b", "t", "v", 1, 0.5)
    current = log_probs()
    metrics, weights = made.compare([pair], current, {k: v - 0.1 for k, v in current.items()})
    assert set(weights) == {"a", "b"} and metrics[0]["margin"] == pytest.approx(
        metrics[0]["reward_chosen"] - metrics[0]["reward_rejected"]
    )
    assert made.fixed([pair], {"a": 4, "b": 12}) is None


@pytest.mark.parametrize("method", ["filtered_bc", "sft"])
def test_cloning_methods_clone(method: str) -> None:
    assert isinstance(objective(settings(method=method)), Cloning) and settings(method=method).clones


def test_named_losses_are_passed_on() -> None:
    made = objective(settings(loss="length_normalised", positive_anchor=2.0))
    assert isinstance(made, Preference) and made.loss.length_normalised and made.loss.positive == 2.0


@pytest.mark.parametrize("overrides", [{}, {"method": "step_dpo", "beta": 0.5}])
def test_a_lone_success_adds_its_cross_entropy_to_the_mean_over_the_items(overrides: dict) -> None:
    """Against autograd of the loss as it is written: the mean over pair and lone success."""
    made = objective(settings("recommended", supervised_weight=3.0, **overrides))
    g = torch.Generator().manual_seed(1)
    current = {n: -torch.rand(t, 7, generator=g, dtype=torch.float64) for n, t in (("a", 4), ("b", 12), ("c", 6))}
    reference = {name: values - 0.1 for name, values in current.items()}
    items = [Pair("a", "b", "t", "v", 1, 0.5), Clone("c", ("t", "v", 2))]
    metrics, weights = made.compare(items, current, reference)
    leaf = current["c"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(3.0 * -leaf.mean() / 2, leaf)
    lone = torch.as_tensor(weights["c"], dtype=torch.float64)
    torch.testing.assert_close(lone.expand(6, 7) if lone.ndim == 0 else lone[:, None].expand(6, 7), gradient)
    alone = made.compare(items[:1], current, reference)[1]
    for name in ("a", "b"):
        torch.testing.assert_close(torch.as_tensor(weights[name]), torch.as_tensor(alone[name]) / 2)
    assert metrics[1]["loss"] == pytest.approx(3.0 * metrics[1]["supervised_loss"]) and "accuracy" not in metrics[1]
    averaged = means(metrics)
    assert averaged["accuracy"] == metrics[0]["accuracy"]
    assert averaged["loss"] == pytest.approx((metrics[0]["loss"] + metrics[1]["loss"]) / 2)
