"""Step-wise DPO against its definition written out step by step, in one graph."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grape_trainer import step_dpo, tpo

PAIRS = [("a", "b"), ("a", "c")]
LENGTHS = {"a": 5, "b": 9, "c": 3}


def made(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)

    def draw(steps: int) -> torch.Tensor:
        return -torch.rand(steps, 7, generator=g, dtype=torch.float64)

    return {k: draw(n).requires_grad_() for k, n in LENGTHS.items()}, {k: draw(n) for k, n in LENGTHS.items()}


@given(st.integers(0, 99), st.sampled_from([1, 2, 8, 100]), st.sampled_from([0.0, 3.0]), st.sampled_from([0.0, 2.0]))
def test_loss_and_weights_are_those_of_the_definition(
    seed: int, window: int, supervised: float, positive: float
) -> None:
    current, reference = made(seed)
    loss = tpo.Loss(beta=0.7, supervised=supervised, positive=positive)
    total = torch.zeros((), dtype=torch.float64)
    for w, ell in PAIRS:
        shared = min(LENGTHS[w], LENGTHS[ell])
        parts = []
        for at in range(0, shared, window):
            rows = range(at, min(at + window, shared))
            chosen = sum((current[w][t] - reference[w][t]).sum() for t in rows)
            rejected = sum((current[ell][t] - reference[ell][t]).sum() for t in rows)
            z = loss.beta * (chosen - rejected - positive * torch.relu(-torch.as_tensor(chosen)))
            parts.append(-torch.nn.functional.logsigmoid(z))
        total = total + torch.stack(parts).mean() - supervised * current[w].mean()
    total = total / len(PAIRS)
    wanted = torch.autograd.grad(total, list(current.values()), allow_unused=True)
    detached = {k: v.detach() for k, v in current.items()}
    figures, weights = step_dpo.compare(PAIRS, detached, reference, loss, window)
    assert tpo.batch_loss(figures, loss) == pytest.approx(float(total.detach()), rel=1e-12)
    for (name, weight), grad in zip(weights.items(), wanted, strict=True):
        assert weight.shape == (LENGTHS[name],)
        assert torch.allclose(weight[:, None].expand(-1, 7), grad, rtol=1e-12, atol=1e-15)


def test_steps_without_a_counterpart_do_not_count() -> None:
    current, reference = ({k: v.detach() for k, v in part.items()} for part in made(1))
    _, weights = step_dpo.compare([("b", "c")], current, reference, tpo.Loss(beta=1.0))
    assert weights["b"][3:].abs().max() == 0.0 and weights["b"][:3].abs().min() > 0.0


def test_it_is_log_two_at_the_reference_and_tpo_where_a_window_spans_both() -> None:
    current, reference = ({k: v.detach() for k, v in part.items()} for part in made(2))
    figures, _ = step_dpo.compare(PAIRS, reference, reference, tpo.Loss(beta=0.1))
    assert all(f.preference_loss == pytest.approx(math.log(2), abs=1e-15) for f in figures)
    same = {"a": current["a"], "x": current["b"][:5]}
    other = {"a": reference["a"], "x": reference["b"][:5]}
    (one,), _ = step_dpo.compare([("a", "x")], same, other, tpo.Loss(beta=0.3), window=5)
    (whole,), _ = tpo.compare([("a", "x")], same, other, tpo.Loss(beta=0.3))
    assert one.preference_loss == pytest.approx(whole.preference_loss, rel=1e-12)
    assert one.margin == pytest.approx(whole.margin, rel=1e-12)
