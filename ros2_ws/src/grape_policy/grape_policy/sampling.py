"""Choosing tokens: greedy, or by the inverse of the cumulative distribution at a number drawn for that very token."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grape_policy.config import ACTION_SIZE


def uniforms(seed: int, step: int, count: int = ACTION_SIZE) -> NDArray[np.float64]:
    """The random numbers of one step of one episode, in [0, 1): the same for the same (seed, step) everywhere."""
    key = np.array([seed, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def greedy(logits: Tensor) -> Tensor:
    """(B, V) -> (B,) the best tokens; of equal ones the first."""
    return logits.argmax(dim=-1)


def sample(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """The tokens at `uniform` (B,) of the cumulative distributions of logits (B, V) / temperature (B,).

    Where the temperature is 0 the best token. A logit of minus infinity is never chosen. All on the logits' device,
    in fp64, without synchronising with the host.
    """
    best = greedy(logits)
    warm = temperature > 0
    scale = torch.where(warm, temperature, 1.0).double()[:, None]
    precise = logits.double()
    weights = ((precise - precise.max(dim=-1, keepdim=True).values) / scale).exp()
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, uniform.double()[:, None] * total, right=True)
    # rounding may put the number on the very end, behind the last token that has any weight
    last = torch.searchsorted(cumulative, total.contiguous())
    return torch.where(warm, torch.minimum(drawn, last)[:, 0], best)


def only_action_tokens(vocab_size: int, bins: int, padded: int, device: torch.device) -> Tensor:
    """(padded,) to add to logits: 0 for the action tokens, ids `vocab_size` - `bins` .. `vocab_size` - 1, else -inf."""
    bias = torch.full((padded,), float("-inf"), device=device)
    bias[vocab_size - bins : vocab_size] = 0.0
    return bias
