"""Actions as the loss may see them: not the bin that was drawn alone, but the bins about it as well.

A policy that spreads its mass over twenty bins of a third of a millimetre says with the bin it drew mostly which one
it drew. What the arm then does hardly depends on that, but the log-prob's gradient does: it is noise, and with some
hundred pairs it is what training learns. Here the log-prob of an action a is the mean over a Gaussian about it,
l(a) = sum over k of w(k | a) log pi(k), the weights cut and normalised at the ends of the range: the log-prob of what
was done, had the hand been some bins off, averaged. Minus l is the cross-entropy with blurred targets, so that as a
supervised term it also draws a spike of one bin towards what its neighbours say; as the log-ratio of Eq. 5 it makes
neighbouring actions preferred alike. With a width of 0 it is log pi(a).

Where the reference policy is sure of a bin (a wrist that never tilts, the gripper) there is nothing to blur, and a
blur would cost most of the divergence: there the action is seen sharply.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grape_policy.checkpoint import Vla
from grape_policy.logprobs import blurred_targets

SURE = 0.9
"""Probability of its best bin from which on the reference policy counts as sure of a dimension."""


class Blur:
    """Mean log-probs about the recorded actions, of standard deviation ``width``, in bins.

    Dimensions that the statistics leave unscaled (the gripper's, open or closed) are seen sharply."""

    def __init__(self, vla: Vla, width: float) -> None:
        if not width > 0:
            raise ValueError(f"width must be above 0, not {width}")
        self._first = vla.spec.vocab_size - vla.spec.action_bins
        self._bins = vla.spec.action_bins
        self._weights = blurred_targets(self._bins, width, torch.float64)
        self._scaled = torch.as_tensor(vla.stats.of().mask)

    def sure(self, reference_logits: Tensor) -> Tensor:
        """(..., 7, V) logits of the reference policy -> (..., 7) bool: what is to be seen sharply."""
        return reference_logits.float().softmax(dim=-1).amax(dim=-1) >= SURE

    def log_probs(self, logits: Tensor, tokens: Tensor, sure: Tensor) -> Tensor:
        """(..., 7, V) logits, (..., 7) ids and (..., 7) of :meth:`sure` -> (..., 7) mean log-probs in nats, in fp32 or
        better. A token that is no action token is seen sharply, too."""
        precise = logits if logits.dtype == torch.float64 else logits.float()
        every = precise.log_softmax(dim=-1)
        sharp = every.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        actions = every[..., self._first : self._first + self._bins]
        bins = tokens - self._first
        inside = (bins >= 0) & (bins < self._bins) & self._scaled.to(tokens.device) & ~sure
        near = self._weights.to(precise)[bins.clamp(0, self._bins - 1)]
        return torch.where(inside, (near * actions).sum(dim=-1), sharp)
