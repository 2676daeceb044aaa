"""Actions as the loss may see them: through noise of some bins, so that a neighbouring bin counts as nearly the same.

A policy that spreads its mass over twenty bins of a third of a millimetre says with the bin it drew mostly which one
it drew. What the arm then does hardly depends on that, but the gradient of the log-prob does: it is noise, and with
some hundred pairs it is what training learns. Let b be the bin of an action a seen through noise,
p(b) = sum over a of pi(a) K(b | a), K(. | a) a Gaussian about a, cut and normalised at the ends of the range. The
gradient of log p(b) is the mean of the gradients of log pi(a) over the actions that look like b: for a return that
depends on an action no finer than the noise the same expectation with less variance (Rao-Blackwell). Log-ratios of p
are as much a whole-trajectory preference (Eq. 5) as those of pi; with a width of 0 they are those of pi.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grape_policy.checkpoint import Vla


class Blur:
    """Log-probs of actions seen through Gaussian noise of standard deviation ``width``, in bins.

    Dimensions that the statistics leave unscaled (the gripper's, open or closed) are seen sharply."""

    def __init__(self, vla: Vla, width: float) -> None:
        if not width > 0:
            raise ValueError(f"width must be above 0, not {width}")
        self._first = vla.spec.vocab_size - vla.spec.action_bins
        self._bins = vla.spec.action_bins
        self._kernel = kernel(self._bins, width)
        self._scaled = torch.as_tensor(vla.stats.of().mask)

    def log_probs(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """(..., 7, V) logits and (..., 7) ids -> (..., 7) log-probs in nats, in fp32 or better. A token that is no
        action token is seen sharply."""
        precise = logits if logits.dtype == torch.float64 else logits.float()
        every = precise.log_softmax(dim=-1)
        sharp = every.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        actions = every[..., self._first : self._first + self._bins]
        bins = tokens - self._first
        inside = (bins >= 0) & (bins < self._bins) & self._scaled.to(tokens.device)
        seen = self._kernel.to(precise)[bins.clamp(0, self._bins - 1)]
        # where K is 0 its logarithm is minus infinity, whose gradient through logsumexp is 0
        blurred = torch.logsumexp(actions + seen, dim=-1)
        return torch.where(inside, blurred, sharp)


def kernel(bins: int, width: float) -> Tensor:
    """(bins, bins) float64 log K(b | a), row b, column a: for every a a distribution over b."""
    places = torch.arange(bins, dtype=torch.float64)
    return (-0.5 * ((places[:, None] - places[None, :]) / width) ** 2).log_softmax(dim=0)
