"""Log-probabilities of action tokens: the one number that serving, R_self and training share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grape_policy.model import OpenVla


def gather_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """(..., V) logits and (...) ids -> (...) log-probs in nats, in fp32 or better, over the whole vocabulary."""
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return precise.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_logprobs(model: OpenVla, pixels: Tensor, prompts: Sequence[Tensor], tokens: Tensor) -> Tensor:
    """log pi(token_k | image, prompt, tokens before k) at temperature 1, differentiable.

    model: an OpenVla, or peft's wrapper of one; pixels (B, 6, S, S); prompts: B id vectors of any lengths; tokens
    (B, 7). Returns (B, 7).
    """
    return gather_logprobs(model(pixels, prompts, tokens), tokens)


def blurred_targets(bins: int, deviation: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """(bins, bins): row i is a normal distribution over bins around i, `deviation` in bins; the identity for 0.

    Neighbouring bins are neighbouring actions, which plain cross-entropy has to find out by itself.
    """
    if deviation <= 0.0:
        return torch.eye(bins, dtype=dtype)
    index = torch.arange(bins, dtype=dtype)
    return (-0.5 * ((index[None] - index[:, None]) / deviation) ** 2).softmax(dim=-1)
