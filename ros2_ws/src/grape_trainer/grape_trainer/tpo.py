"""Trajectory-wise preference optimisation (Eq. 5-6): the loss over whole trajectories and its exact gradient.

The loss depends on a trajectory only through the sum of its token log-probs, so its gradient is one number a
trajectory times the gradient of that sum. Two passes give it exactly, in memory that does not grow with T:
first all log-probs without a graph, which fix the numbers; then chunks of steps, each forward and backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class Steps(Protocol):
    """A trajectory as the loss sees it: T steps under a name."""

    @property
    def episode_id(self) -> str: ...
    def __len__(self) -> int: ...


S = TypeVar("S", bound=Steps)
StepLogProbs = Callable[[S, int, int], Tensor]
"""``(trajectory, start, stop)`` -> (stop - start, 7) log-probs of the recorded tokens, nats, differentiable."""


@dataclass(frozen=True)
class Loss:
    """Eq. 5 with ``beta`` on the sum of log-ratios (``mode`` sum) or divided by the mean length of the two
    sides (``mode`` pair_mean_length), plus ``supervised`` times the chosen side's mean token cross-entropy."""

    beta: float = 0.1
    mode: str = "sum"
    supervised: float = 0.0

    def pair_beta(self, chosen_steps: int, rejected_steps: int) -> float:
        """The factor on the difference of the two log-ratio sums."""
        if self.mode == "sum":
            return self.beta
        return self.beta / (0.5 * (chosen_steps + rejected_steps))


@dataclass(frozen=True)
class PairFigures:
    """One pair at the current weights. Rewards are implicit (Eq. 3 without Z), drifts nats a step."""

    preference_loss: float
    supervised_loss: float
    reward_chosen: float
    reward_rejected: float
    drift_chosen: float
    drift_rejected: float

    @property
    def margin(self) -> float:
        return self.reward_chosen - self.reward_rejected

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.preference_loss, self.supervised_loss, self.margin)))


def token_log_probs(log_probs: StepLogProbs[S], trajectory: S, chunk: int) -> Tensor:
    """(T, 7) log-probs of a whole trajectory without a graph, ``chunk`` steps at a time, in float64."""
    steps = len(trajectory)
    with torch.no_grad():
        parts = [log_probs(trajectory, at, min(at + chunk, steps)).double() for at in range(0, steps, chunk)]
    return torch.cat(parts)


def compare(
    pairs: Sequence[tuple[str, str]],
    current: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    loss: Loss,
) -> tuple[list[PairFigures], dict[str, float]]:
    """The figures of each (chosen, rejected) pair of episode ids, and the derivative of the batch's mean loss
    by each episode's summed log-probability.

    ``current`` and ``reference`` map episode id to (T, 7) log-probs. An episode in several pairs gets the sum
    of its coefficients, so that it is passed through the model once."""
    figures: list[PairFigures] = []
    coefficients: dict[str, float] = {}
    for chosen, rejected in pairs:
        ratio_chosen = float((current[chosen] - reference[chosen]).sum())
        ratio_rejected = float((current[rejected] - reference[rejected]).sum())
        steps_chosen, steps_rejected = len(current[chosen]), len(current[rejected])
        tokens_chosen = current[chosen].numel()
        beta = loss.pair_beta(steps_chosen, steps_rejected)
        z = beta * (ratio_chosen - ratio_rejected)
        figures.append(
            PairFigures(
                preference_loss=_softplus(-z),
                supervised_loss=-float(current[chosen].sum()) / tokens_chosen,
                reward_chosen=beta * ratio_chosen,
                reward_rejected=beta * ratio_rejected,
                drift_chosen=ratio_chosen / steps_chosen,
                drift_rejected=ratio_rejected / steps_rejected,
            )
        )
        slope = beta * _sigmoid(-z) / len(pairs)
        anchor = loss.supervised / tokens_chosen / len(pairs)
        coefficients[chosen] = coefficients.get(chosen, 0.0) - slope - anchor
        coefficients[rejected] = coefficients.get(rejected, 0.0) + slope
    return figures, coefficients


def batch_loss(figures: Sequence[PairFigures], loss: Loss) -> float:
    """The mean over the pairs of Eq. 5 plus the weighted supervised term."""
    return sum(f.preference_loss + loss.supervised * f.supervised_loss for f in figures) / len(figures)


def gradient(
    log_probs: StepLogProbs[S],
    trajectories: Iterable[S],
    coefficients: Mapping[str, float],
    parameters: Sequence[Tensor],
    chunk: int,
) -> list[Tensor]:
    """The gradient by ``parameters`` of the sum over trajectories of coefficient times summed log-prob.

    One graph of at most ``chunk`` steps lives at a time. The chunks are added up in float64: chosen and
    rejected sides nearly cancel, and float32 sums would lose the difference."""
    total = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in parameters]
    for trajectory in trajectories:
        coefficient = coefficients.get(trajectory.episode_id, 0.0)
        if coefficient == 0.0:
            continue
        steps = len(trajectory)
        for at in range(0, steps, chunk):
            summed = log_probs(trajectory, at, min(at + chunk, steps)).sum()
            parts = torch.autograd.grad(summed, parameters, allow_unused=True)
            for into, part in zip(total, parts, strict=True):
                if part is not None:
                    into.add_(part, alpha=coefficient)
    return total


def episode_gradient(
    log_probs: StepLogProbs[S], trajectory: S, parameters: Sequence[Tensor], chunk: int
) -> tuple[Tensor, list[Tensor]]:
    """In one pass: the (T, 7) log-probs of a trajectory and the gradient of their sum, both in float64.

    The batch's gradient is the sum of these times the coefficients of :func:`compare`, so that the pass without
    a graph can be left out where the gradients of all the episodes of a batch can be held."""
    total = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in parameters]
    values: list[Tensor] = []
    steps = len(trajectory)
    for at in range(0, steps, chunk):
        found = log_probs(trajectory, at, min(at + chunk, steps))
        parts = torch.autograd.grad(found.sum(), parameters, allow_unused=True)
        values.append(found.detach().double())
        for into, part in zip(total, parts, strict=True):
            if part is not None:
                into.add_(part)
    return torch.cat(values), total


def combine(gradients: Mapping[str, Sequence[Tensor]], coefficients: Mapping[str, float]) -> list[Tensor]:
    """The sum over episodes of coefficient times gradient, parameter by parameter."""
    total: list[Tensor] = []
    for episode_id, parts in gradients.items():
        coefficient = coefficients.get(episode_id, 0.0)
        if not total:
            total = [torch.zeros_like(part) for part in parts]
        for into, part in zip(total, parts, strict=True):
            into.add_(part, alpha=coefficient)
    return total


def norm(gradients: Iterable[Tensor]) -> float:
    """Euclidean norm over all tensors."""
    return math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients))


def step_kl(policy_logits: Tensor, reference_logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(policy, reference) and the policy's entropy, nats a step: each (B,), from logits (B, 7, V).

    Summed over the seven token positions under the recorded prefixes; with prefixes sampled from the policy
    this is the chain rule's estimate of the divergence of the whole action."""
    log_p = torch.log_softmax(policy_logits.double(), dim=-1)
    log_q = torch.log_softmax(reference_logits.double(), dim=-1)
    p = log_p.exp()
    # 0 log 0 = 0, also where padding of the vocabulary has logit -inf on both sides
    log_p, log_q = log_p.masked_fill(p == 0, 0.0), log_q.masked_fill(p == 0, 0.0)
    return (p * (log_p - log_q)).sum(dim=(-1, -2)), -(p * log_p).sum(dim=(-1, -2))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)
