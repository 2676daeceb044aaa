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


Weight = float | Tensor
"""What the log-probs of an episode are multiplied with: one number, or (T,) float64, one a step."""


@dataclass(frozen=True)
class Loss:
    """Eq. 5 with ``beta`` on the sum of log-ratios (``mode`` sum) or divided by the mean length of the two
    sides (``mode`` pair_mean_length), plus ``supervised`` times the chosen side's mean token cross-entropy.

    ``length_normalised``: another loss, in which each side's sum is divided by its own number of steps, whatever the
    mode. ``positive``: DPO-Positive (Pal et al., 2024): as far as the chosen side lies below its reference, that many
    times the difference counts against the margin."""

    beta: float = 0.1
    mode: str = "sum"
    supervised: float = 0.0
    length_normalised: bool = False
    positive: float = 0.0

    def pair_betas(self, chosen_steps: int, rejected_steps: int) -> tuple[float, float]:
        """The factors on the log-ratio sums of chosen and rejected side."""
        if self.length_normalised:
            return self.beta / chosen_steps, self.beta / rejected_steps
        if self.mode == "sum":
            return self.beta, self.beta
        beta = self.beta / (0.5 * (chosen_steps + rejected_steps))
        return beta, beta


@dataclass(frozen=True)
class PairFigures:
    """One pair at the current weights. Rewards are implicit (Eq. 3 without Z), drifts nats a step; ``accuracy``: the
    share of its comparisons in which the chosen side has the higher reward."""

    preference_loss: float
    supervised_loss: float
    reward_chosen: float
    reward_rejected: float
    drift_chosen: float
    drift_rejected: float
    accuracy: float

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
        beta_chosen, beta_rejected = loss.pair_betas(steps_chosen, steps_rejected)
        reward_chosen, reward_rejected = beta_chosen * ratio_chosen, beta_rejected * ratio_rejected
        fallen = loss.positive if ratio_chosen < 0 else 0.0
        z = (1.0 + fallen) * reward_chosen - reward_rejected
        figures.append(
            PairFigures(
                preference_loss=softplus(-z),
                supervised_loss=-float(current[chosen].sum()) / tokens_chosen,
                reward_chosen=reward_chosen,
                reward_rejected=reward_rejected,
                drift_chosen=ratio_chosen / steps_chosen,
                drift_rejected=ratio_rejected / steps_rejected,
                accuracy=float(reward_chosen > reward_rejected),
            )
        )
        slope = sigmoid(-z) / len(pairs)
        anchor = loss.supervised / tokens_chosen / len(pairs)
        coefficients[chosen] = coefficients.get(chosen, 0.0) - slope * (1.0 + fallen) * beta_chosen - anchor
        coefficients[rejected] = coefficients.get(rejected, 0.0) + slope * beta_rejected
    return figures, coefficients


def batch_loss(figures: Sequence[PairFigures], loss: Loss) -> float:
    """The mean over the pairs of Eq. 5 plus the weighted supervised term."""
    return sum(f.preference_loss + loss.supervised * f.supervised_loss for f in figures) / len(figures)


def gradient(
    log_probs: StepLogProbs[S],
    trajectories: Iterable[S],
    coefficients: Mapping[str, Weight],
    parameters: Sequence[Tensor],
    chunk: int,
    found: dict[str, Tensor] | None = None,
) -> list[Tensor]:
    """The gradient by ``parameters`` of the sum over trajectories of coefficient times log-prob, the coefficient of a
    trajectory one number or one a step. Into ``found`` go the (T, 7) log-probs, float64, where it is given.

    One graph of at most ``chunk`` steps lives at a time. The chunks are added up in float64: chosen and
    rejected sides nearly cancel, and float32 sums would lose the difference."""
    total = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in parameters]
    for trajectory in trajectories:
        weight = coefficients.get(trajectory.episode_id, 0.0)
        if found is None and not (weight.any() if isinstance(weight, Tensor) else weight):
            continue
        steps = len(trajectory)
        values: list[Tensor] = []
        for at in range(0, steps, chunk):
            part = log_probs(trajectory, at, min(at + chunk, steps))
            values.append(part.detach().double())
            scale = 1.0 if isinstance(weight, Tensor) else weight
            if isinstance(weight, Tensor):
                part = part * weight[at : at + chunk, None].to(part)
            for into, grad in zip(total, torch.autograd.grad(part.sum(), parameters, allow_unused=True), strict=True):
                if grad is not None:
                    into.add_(grad, alpha=scale)
        if found is not None:
            found[trajectory.episode_id] = torch.cat(values)
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


def combine(
    gradients: Mapping[str, Sequence[Tensor]], coefficients: Mapping[str, Weight], parameters: Sequence[Tensor]
) -> list[Tensor]:
    """The sum over episodes of coefficient (one number an episode) times gradient, parameter by parameter."""
    total = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in parameters]
    for episode_id, parts in gradients.items():
        coefficient = coefficients.get(episode_id, 0.0)
        for into, part in zip(total, parts, strict=True):
            into.add_(part, alpha=coefficient)  # type: ignore[arg-type]
    return total


def norm(gradients: Iterable[Tensor]) -> float:
    """Euclidean norm over all tensors."""
    return math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients))


def step_kl(policy_logits: Tensor, reference_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(policy, reference), KL(reference, policy) and the policy's entropy, nats a step: each (B,), from logits
    (B, 7, V).

    Summed over the seven token positions under the recorded prefixes; with prefixes sampled from the policy
    this is the chain rule's estimate of the divergence of the whole action."""
    log_p = torch.log_softmax(policy_logits.double(), dim=-1)
    log_q = torch.log_softmax(reference_logits.double(), dim=-1)
    entropy = -_mean(log_p, log_p).sum(dim=-1)
    return _mean(log_p, log_p - log_q).sum(dim=-1), _mean(log_q, log_q - log_p).sum(dim=-1), entropy


def token_kl(first_logits: Tensor, second_logits: Tensor) -> Tensor:
    """KL(first, second) of every token, nats, in fp32 or better: (..., V) logits each -> (...), differentiable."""
    precise = torch.promote_types(torch.float32, second_logits.dtype)
    log_p, log_q = (torch.log_softmax(logits.to(precise), dim=-1) for logits in (first_logits, second_logits))
    return _mean(log_p, log_p - log_q)


def _mean(log_p: Tensor, values: Tensor) -> Tensor:
    """The mean over the vocabulary of ``values`` (..., V) under log-probs (..., V)."""
    p = log_p.exp()
    # 0 log 0 = 0, also where padding of the vocabulary has logit -inf on both sides
    return (p * values.masked_fill(p == 0, 0.0)).sum(dim=-1)


def softplus(x: float) -> float:
    """log(1 + exp(x)) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)
