"""Figures on steps and pairs that the updates do not see: the warning before a policy collapses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from grape_trainer import tpo
from grape_trainer.batches import Split
from grape_trainer.learner import Learner
from grape_trainer.pairs import Pair, PairSet
from grape_trainer.settings import Settings
from grape_trainer.trajectories import Library

BLOCK = 8
"""Consecutive steps taken from one episode for the KL."""


class Probe:
    """Held-out pairs and steps, drawn from the seed.

    Pairs: of the initial states held out, of the training states where there are none (``kind`` says which).
    Steps: of episodes in no training pair, else of any."""

    def __init__(self, pairs: PairSet, parts: Split, settings: Settings) -> None:
        random = np.random.default_rng([settings.seed, 3])
        self.kind = "held-out" if parts.held else "training"
        source = parts.held or parts.train
        chosen = sorted(random.permutation(len(source))[: settings.holdout_pairs].tolist())
        self.pairs: tuple[Pair, ...] = tuple(source[i] for i in chosen)
        lengths = {c.episode_id: c.steps for c in pairs.candidates}
        seen = {side for pair in parts.train for side in (pair.chosen, pair.rejected)}
        fresh = sorted(set(lengths) - seen) or sorted(lengths)
        self.blocks = _blocks(random, fresh, lengths, settings.holdout_steps)
        sides = {side for pair in self.pairs for side in (pair.chosen, pair.rejected)}
        self.episodes = sorted(sides)

    def measure(
        self, learner: Learner, library: Library, reference: Mapping[str, Tensor], loss: tpo.Loss
    ) -> dict[str, float]:
        """Loss, margin, accuracy and drifts of the pairs; mean KL(policy, reference) and entropy, nats a step."""
        current = {name: tpo.token_log_probs(learner.log_probs, library[name], learner.chunk) for name in self.episodes}
        sides = [(pair.chosen, pair.rejected) for pair in self.pairs]
        figures, _ = tpo.compare(sides, current, reference, loss)
        kl, entropy, steps = 0.0, 0.0, 0
        for name, start, stop in self.blocks:
            trajectory = library[name]
            stop = min(stop, len(trajectory))
            with torch.no_grad():
                policy = learner.logits(trajectory, start, stop)
                with learner.reference():
                    base = learner.logits(trajectory, start, stop)
            block_kl, block_entropy = tpo.step_kl(policy, base)
            kl, entropy, steps = kl + float(block_kl.sum()), entropy + float(block_entropy.sum()), steps + stop - start
        count = len(figures)
        return {
            "loss": tpo.batch_loss(figures, loss),
            "margin": sum(f.margin for f in figures) / count,
            "accuracy": sum(f.margin > 0 for f in figures) / count,
            "drift_chosen": sum(f.drift_chosen for f in figures) / count,
            "drift_rejected": sum(f.drift_rejected for f in figures) / count,
            "kl": kl / steps if steps else 0.0,
            "entropy": entropy / steps if steps else 0.0,
            "kl_steps": steps,
        }


def _blocks(
    random: np.random.Generator, names: list[str], lengths: Mapping[str, int], wanted: int
) -> list[tuple[str, int, int]]:
    every = [(name, at, min(at + BLOCK, lengths[name])) for name in names for at in range(0, lengths[name], BLOCK)]
    taken, steps = [], 0
    for i in random.permutation(len(every)).tolist():
        if steps >= wanted:
            break
        taken.append(every[i])
        steps += every[i][2] - every[i][1]
    return sorted(taken)
