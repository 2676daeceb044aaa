"""Step-wise direct preference optimisation, the paper's baseline "OpenVLA-DPO".

The paper says of it (section III-A, baseline models) that it is "the original step-wise direct preference
optimization", "directly trained to optimize preferences defined at each step", and no more. Made definite here:

- From the paper: DPO's loss as in Eq. 5, but over single state-action pairs; the same pairs of a chosen and a rejected
  trajectory from the same initial state, reference, LoRA, optimiser and batch as TPO.
- From the released code: a preference at a step is that of its trajectory, and step t of the one is compared with
  step t of the other; the code does so in windows of eight steps (``window`` here; 1 is the step-wise baseline).
- Ours, where both are silent: steps (windows) of the longer side without a counterpart are left out, a last window may
  be shorter, a pair's loss is the mean over its windows, so that long pairs weigh no more than short ones. The
  supervised term of the chosen side is TPO's, over all its steps. Only at t = 1 do both sides see the same state: that
  is the noise for which the paper blames this loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from grape_trainer.tpo import Loss, PairFigures, sigmoid, softplus


def compare(
    pairs: Sequence[tuple[str, str]],
    current: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    loss: Loss,
    window: int = 1,
) -> tuple[list[PairFigures], dict[str, Tensor]]:
    """As ``tpo.compare``, with the derivative by each step's log-prob: episode id -> (T,) float64.

    ``loss.beta`` applies to the log-ratio of a window; its mode and length normalisation mean nothing here. Rewards are
    means over the compared windows."""
    figures: list[PairFigures] = []
    weights: dict[str, Tensor] = {}
    for chosen, rejected in pairs:
        ratio_chosen = (current[chosen] - reference[chosen]).sum(dim=-1).double().cpu()
        ratio_rejected = (current[rejected] - reference[rejected]).sum(dim=-1).double().cpu()
        shared = min(len(ratio_chosen), len(ratio_rejected))
        starts = range(0, shared, window)
        into = {name: weights.setdefault(name, _zeros(current[name])) for name in (chosen, rejected)}
        losses, rewards_chosen, rewards_rejected, right = [], [], [], 0
        for start in starts:
            part = slice(start, min(start + window, shared))
            reward_chosen = loss.beta * float(ratio_chosen[part].sum())
            reward_rejected = loss.beta * float(ratio_rejected[part].sum())
            fallen = loss.positive if reward_chosen < 0 else 0.0
            z = (1.0 + fallen) * reward_chosen - reward_rejected
            losses.append(softplus(-z))
            rewards_chosen.append(reward_chosen)
            rewards_rejected.append(reward_rejected)
            right += reward_chosen > reward_rejected
            slope = loss.beta * sigmoid(-z) / len(starts) / len(pairs)
            into[chosen][part] -= slope * (1.0 + fallen)
            into[rejected][part] += slope
        tokens = current[chosen].numel()
        into[chosen] -= loss.supervised / tokens / len(pairs)
        figures.append(
            PairFigures(
                preference_loss=sum(losses) / len(starts),
                supervised_loss=-float(current[chosen].sum()) / tokens,
                reward_chosen=sum(rewards_chosen) / len(starts),
                reward_rejected=sum(rewards_rejected) / len(starts),
                drift_chosen=float(ratio_chosen.mean()),
                drift_rejected=float(ratio_rejected.mean()),
                accuracy=right / len(starts),
            )
        )
    return figures, weights


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros(len(like), dtype=torch.float64)
