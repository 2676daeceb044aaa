"""Figures on steps and pairs that the updates do not see: the warning before a policy collapses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from grape_trainer import tpo
from grape_trainer.batches import Split
from grape_trainer.errors import TrainingError
from grape_trainer.learner import Learner
from grape_trainer.objectives import Item, Objective, is_pair, means
from grape_trainer.processes import Team
from grape_trainer.settings import Settings
from grape_trainer.trajectories import Shelf

BLOCK = 8
"""Consecutive steps taken from one episode for the KL."""

Current = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""The log-probs of episodes, from all processes."""


class Probe:
    """Held-out items and steps, drawn from the seed.

    Items: of the initial states held out, of the training states where there are none (``kind`` says which).
    Steps: of episodes in no training item, ``fresh`` or held out, else of any. ``steps``: episode id -> T."""

    def __init__(
        self,
        parts: Split,
        steps: Mapping[str, int],
        fresh: Mapping[str, int],
        shelf: Shelf,
        settings: Settings,
    ) -> None:
        random = np.random.default_rng([settings.seed, 3])
        # Lone episodes say nothing of preferences: pairs where there are any.
        source = _pairs(parts.held) or _pairs(parts.train) or parts.held or parts.train
        self.kind = "held-out" if source and source[0] in parts.held else "training"
        chosen = sorted(random.permutation(len(source))[: settings.holdout_pairs].tolist())
        self.items: tuple[Item, ...] = tuple(source[i] for i in chosen)
        seen = {name for item in parts.train for name in item.episodes}
        lengths = {**fresh, **steps}
        names = sorted(set(lengths) - seen) or sorted(lengths)
        self.blocks = _blocks(random, names, lengths, settings.holdout_steps, shelf)
        self.episodes = sorted({name for item in self.items for name in item.episodes})

    def measure(
        self,
        learner: Learner,
        shelf: Shelf,
        current: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
        objective: Objective,
        team: Team,
    ) -> dict[str, float]:
        """The means of the objective's metrics over the items; mean KL of both directions, ``kl`` (policy,
        reference) and ``kl_reverse`` (reference, policy), and entropy of the policy, nats a step."""
        metrics, _ = objective.compare(self.items, current, reference)
        sums = torch.zeros(4, dtype=torch.float64)
        for name, start, stop in team.share(self.blocks):
            trajectory = shelf[name]
            with torch.no_grad():
                policy = learner.logits(trajectory, start, stop)
                with learner.reference():
                    base = learner.logits(trajectory, start, stop)
            parts = [part.sum().cpu() for part in tpo.step_kl(policy, base)]
            sums += torch.stack([*parts, torch.tensor(stop - start, dtype=torch.float64)])
        kl, reverse, entropy, steps = team.sum([sums])[0].tolist()
        return means(metrics) | {
            "kl": kl / steps if steps else 0.0,
            "kl_reverse": reverse / steps if steps else 0.0,
            "entropy": entropy / steps if steps else 0.0,
            "kl_steps": int(steps),
        }


def _pairs(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if is_pair(item)]


def _blocks(
    random: np.random.Generator, names: list[str], lengths: Mapping[str, int], wanted: int, shelf: Shelf
) -> list[tuple[str, int, int]]:
    every = [(name, at, min(at + BLOCK, lengths[name])) for name in names for at in range(0, lengths[name], BLOCK)]
    taken, steps = [], 0
    for i in random.permutation(len(every)).tolist():
        if steps >= wanted:
            break
        name, start, stop = every[i]
        try:
            stop = min(stop, len(shelf[name]))
        except TrainingError:
            continue  # it is in no item: nothing is trained on it
        if stop > start:
            taken.append((name, start, stop))
            steps += stop - start
    return sorted(taken)
