"""Guided-cost preference generation: Eq. 8 to 12 of paper 002 (v1), as formulas over plain numbers."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grape_reward.errors import RewardError

UNKNOWN, NO, YES = -1, 0, 1
"""Values of the success indicator (Eq. 12), as in TaskStatus.msg."""


@dataclass(frozen=True)
class Lambdas:
    """The weights of Eq. 10: of R_self, of R_ext and of I_success."""

    self_reward: float
    external: float
    success: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self):
            raise RewardError(f"lambdas: {tuple(self)} are not all finite")

    def __iter__(self) -> Iterator[float]:
        return iter((self.self_reward, self.external, self.success))


PRESETS = {"paper": Lambdas(0.01, 0.01, 2.0)}
"""Named lambdas. ``paper``: Appendix A of 002."""


def lambdas_named(text: str) -> Lambdas:
    """A preset by its name, or three numbers: ``a,b,c``. Raises RewardError quoting what is neither."""
    if text in PRESETS:
        return PRESETS[text]
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise RewardError(f"lambdas: {text!r} is none of {', '.join(PRESETS)} and not 'a,b,c'") from None
    return Lambdas(a, b, c)


def stage_cost(costs: Sequence[float], taus: Sequence[float], betas: Sequence[float]) -> float:
    """Eq. 8: C_S = sum_j beta_j max(0, C_j - tau_j), over a stage's costs already reduced over time.

    NaN where a cost with a weight other than zero is unknown: NaN."""
    terms = zip(costs, taus, betas, strict=True)
    return math.fsum(beta * _excess(cost - tau) for cost, tau, beta in terms if beta != 0.0)


def _excess(x: float) -> float:
    # max(0.0, x) would make a zero of NaN, and the best rollout of one that was not seen
    return x if x > 0.0 or math.isnan(x) else 0.0


def log_external_reward(stage_costs: Iterable[float]) -> float:
    """Log of Eq. 9: log R_ext = -sum_S C_S. In log space, because the product underflows for a bad rollout."""
    return 0.0 - math.fsum(stage_costs)


def self_reward(logprobs: Sequence[NDArray[np.float32] | None]) -> tuple[float, float]:
    """Eq. 11: R_self in nats, summed over every token of every step, and the same divided by the number of tokens.

    ``logprobs``: an array (7,) a step, None where unknown. Both are NaN where a step's are missing or not finite, or
    where there is no step at all: unknown, never a partial sum."""
    tokens = [float(value) for step in logprobs if step is not None for value in step]
    missing = any(step is None or len(step) == 0 for step in logprobs)
    if missing or not tokens or not all(math.isfinite(value) for value in tokens):
        return math.nan, math.nan
    total = math.fsum(tokens)
    return total, total / len(tokens)


def gcpg_reward(r_self: float, log_r_ext: float, success: int, lambdas: Lambdas) -> float:
    """Eq. 10: lambda_1 R_self + lambda_2 R_ext + lambda_3 I_success, in full precision.

    NaN where a term with a weight other than zero is unknown."""
    terms = (r_self, exp(log_r_ext), math.nan if success == UNKNOWN else float(success))
    return math.fsum(weight * term for weight, term in zip(lambdas, terms, strict=True) if weight != 0.0)


def exp(x: float) -> float:
    """e^x, correctly rounded: the C library's differs in the last bit between machines, and a score is hashed."""
    if math.isnan(x):
        return math.nan
    context = decimal.Context(prec=40, Emin=-9999, Emax=9999, traps=[])
    return float(context.exp(decimal.Decimal(x)))
