"""How much of a preference gradient is signal: do two halves of the rollouts point the same way?

    python benchmarks/gradient_agreement.py runs/search/train/tpo-0/config.json --blur 0 4

Takes every scored rollout of a training run's pairs file and, at the base model, the gradient of its summed log-prob by
the LoRA weights. At that point the gradient of every loss here is a weighted sum of these, so one pass serves all of
them: TPO over sums or length-normalised, with pairs by each ranking, filtered BC, REINFORCE with the mean of the state
as baseline. The initial states are split in halves many times; printed is the cosine between the halves' gradients. Of
n rollouts whose gradient has signal S and noise N a rollout, it is S^2 / (S^2 + N^2 / n) in the mean: 0 is noise alone,
as it must be for random pairs.

Prints one JSON object: for each loss the mean cosine and the 2.5 and 97.5 percentiles over the splits (of the same
rollouts: they say how steady the figure is, not how it would be with others). Exits with 1 where random pairs agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from grape_policy.checkpoint import load_checkpoint
from grape_trainer import data, tpo
from grape_trainer.config import read_config
from grape_trainer.learner import Learner
from grape_trainer.pairs import build, read_pairs
from grape_trainer.ranking import Candidate
from grape_trainer.trajectories import ByteCache

Array = NDArray[np.float64]
RANKINGS = ("balanced", "swift", "success", "paper", "random")


def episode_gradients(config_file: Path, blur: float, console: Console) -> tuple[list[Candidate], NDArray[np.float32]]:
    """The candidates of the run's pairs file, and (N, P) the gradients of their summed log-probs at the base model."""
    config = read_config(config_file)
    config = dataclasses.replace(config, settings={**config.settings, "action_blur": blur})
    torch.set_num_threads(config.threads or 1)
    chosen = config.resolved()
    vla = load_checkpoint(Path(config.model), torch.device("cpu"), torch.float32)
    shelf = data.source(config, chosen, vla, "").shelf
    learner = Learner(vla, chosen, ByteCache(0))
    candidates = list(read_pairs(Path(config.pairs)).candidates)
    rows = []
    for one in track(candidates, f"gradients, blur {blur:g}", console=console):
        _, parts = tpo.episode_gradient(learner.seen_log_probs, shelf[one.episode_id], learner.parameters, chosen.chunk)
        # A's gradient is zero where B is
        rows.append(
            np.concatenate([p.numpy().ravel() for n, p in zip(learner.names, parts, strict=True) if "lora_B" in n])
        )
    return candidates, np.array(rows, np.float32)


def weights(candidates: Sequence[Candidate]) -> dict[str, Array]:
    """Loss -> (N,) what each rollout's gradient is multiplied with, up to a common factor."""
    index = {c.episode_id: i for i, c in enumerate(candidates)}
    steps = np.array([c.steps for c in candidates], np.float64)
    success = np.array([c.success for c in candidates], np.float64)
    found: dict[str, Array] = {}
    for ranking in RANKINGS:
        signs, scaled = np.zeros(len(candidates)), np.zeros(len(candidates))
        for pair in build(candidates, ranking, 2).pairs:
            up, down = index[pair.chosen], index[pair.rejected]
            mean = 0.5 * (steps[up] + steps[down])
            for i, sign in ((up, 1.0), (down, -1.0)):
                signs[i] += sign / mean
                scaled[i] += sign / steps[i]
        found[f"TPO {ranking}"], found[f"TPO {ranking}, length-normalised"] = signs, scaled
    groups: dict[object, list[int]] = defaultdict(list)
    for i, c in enumerate(candidates):
        groups[c.group].append(i)
    centred = success.copy()
    for rows in groups.values():
        centred[rows] -= success[rows].mean()
    return {**found, "REINFORCE, baseline of the state": centred, "filtered BC": success}


def agreement(gradients: NDArray[np.float32], weight: Array, groups: Array, splits: int, seed: int = 0) -> Array:
    """(splits,) cosines between the gradients of two halves of the ``groups`` (N,)."""
    random = np.random.default_rng(seed)
    names = np.unique(groups)
    cosines = []
    for _ in range(splits):
        half = np.isin(groups, random.permutation(names)[: len(names) // 2])
        one, other = (gradients.T @ np.where(side, weight, 0.0).astype(np.float32) for side in (half, ~half))
        size = float(np.linalg.norm(one) * np.linalg.norm(other))
        cosines.append(float(one @ other) / size if size else 0.0)
    return np.array(cosines)


def main(told: argparse.Namespace, console: Console) -> int:
    found: dict[str, dict[str, float]] = {}
    candidates: list[Candidate] = []
    for blur in told.blur:
        candidates, gradients = episode_gradients(told.config, blur, console)
        numbers = {group: number for number, group in enumerate(sorted({c.group for c in candidates}))}
        groups = np.array([numbers[c.group] for c in candidates])
        for name, weight in weights(candidates).items():
            if not weight.any():
                continue
            cosines = agreement(gradients, weight, groups, told.splits)
            low, high = np.percentile(cosines, [2.5, 97.5])
            key = f"{name}, blur {blur:g}" if blur else name
            found[key] = {"cosine": float(cosines.mean()), "low": float(low), "high": float(high)}
    chance = max((abs(v["cosine"]) for k, v in found.items() if "random" in k), default=0.0)
    print(json.dumps({"rollouts": len(candidates), "splits": told.splits, "random": chance, "agreement": found}))
    return int(chance > 0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path, help="config.json of a training run on pairs")
    parser.add_argument("--blur", type=float, nargs="+", default=[0.0], help="widths of action_blur, in bins")
    parser.add_argument("--splits", type=int, default=40)
    sys.exit(main(parser.parse_args(), Console(stderr=True)))
