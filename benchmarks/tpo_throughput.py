"""Trajectories a second: whole-trajectory TPO beside the scheme of the released code, in one run.

    python benchmarks/tpo_throughput.py

Both train LoRA of rank 32 on all linear layers of grape-mini, vision towers included, on the same pairs of 60-step
trajectories: four an initial state, the better two each over the worse two, one epoch. The released scheme is restated
from its code: every window of eight steps, stride one, the n-th of the chosen with the n-th of the rejected side, batch
one; log-probs under a second full model as reference, computed each time; an update after every window. Where its code
is slower still (gradients kept for the reference as well, an end token counted, no reuse of pixels) the restatement is
not. A trajectory counts once for each pair it is in, in both.

A third measurement is the trainer's preset ``default``, whose towers are frozen: their features are computed once.

The two are measured in turns, a part of the released scheme's work between rounds of ours. Prints one JSON object;
exits 1 where ours is not at least ten times as fast on the same LoRA.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _paths
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.logprobs import gather_logprobs
from grape_trainer.learner import Learner
from grape_trainer.log_probs import Adapters, LogProbs
from grape_trainer.pairs import Pair
from grape_trainer.settings import settings
from grape_trainer.training import Data, Training
from grape_trainer.trajectories import ByteCache, Trajectory

WINDOW = 8
FACTOR = 10.0
BETA, RATE = 0.1, 2e-5


def make(vla: Vla, states: int, steps: int, top: int) -> tuple[dict[str, Trajectory], list[Pair]]:
    """Random trajectories of the model's shape, 2 ``top`` an initial state, and their pairs, top squared."""
    random = np.random.default_rng(0)
    side, high = vla.spec.image_size, vla.spec.vocab_size
    prompt = vla.processor.prompt("put the carrot on the plate")
    held: dict[str, Trajectory] = {}
    pairs: list[Pair] = []
    for state in range(states):
        names = [f"{state}-{number}" for number in range(2 * top)]
        for name in names:
            images = torch.from_numpy(random.integers(0, 256, (steps, side, side, 3), np.uint8))
            tokens = torch.from_numpy(random.integers(high - vla.spec.action_bins, high, (steps, 7)))
            held[name] = Trajectory(name, name, tokens, (prompt,) * steps, lambda images=images: images, digest=name)
        pairs += [Pair(w, ell, "t", "v", state, 1.0) for w, ell in itertools.product(names[:top], names[top:])]
    return held, pairs


class Released:
    """The released scheme. ``updates`` does one update at a time and says how many trajectories it was worth."""

    def __init__(self, model: Path, device: str, held: dict[str, Trajectory], pairs: list[Pair]) -> None:
        self.held, self.pairs = held, pairs
        told = settings("paper", train_towers=True)
        self.policy = Learner(load_checkpoint(model, device), told, ByteCache(0))
        self.reference = load_checkpoint(model, device)
        self.optimizer = torch.optim.AdamW(self.policy.parameters, lr=RATE)

    def updates(self) -> Iterator[float]:
        for pair in self.pairs:
            chosen, rejected = self.held[pair.chosen], self.held[pair.rejected]
            starts = range(min(len(chosen), len(rejected)) - WINDOW + 1)
            for start in starts:
                part = slice(start, start + WINDOW)
                ratios = [self._ratio(t, part) for t in (chosen, rejected)]
                loss = -torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1]))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                yield 2.0 / len(starts)

    def _ratio(self, trajectory: Trajectory, part: slice) -> torch.Tensor:
        device = self.policy.device
        pixels = self.reference.processor.pixels(trajectory.images()[part]).to(device, self.policy.dtype)
        tokens, prompts = trajectory.tokens[part].to(device), [p.to(device) for p in trajectory.prompts[part]]
        with torch.no_grad():
            under = gather_logprobs(self.reference.model(pixels, prompts, tokens), tokens).sum()
        return gather_logprobs(self.policy.vla.model(pixels, prompts, tokens), tokens).sum() - under


def ours(
    model: Path, device: str, preset: str, held: dict[str, Trajectory], pairs: list[Pair], told: dict[str, Any]
) -> tuple[float, int]:
    """Seconds of one epoch from nothing, with reference log-probs and the last check, and its number of updates."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings(preset, **told)
        learner = Learner(load_checkpoint(model, device), chosen, ByteCache(chosen.cache_mb * 2**20))
        log_probs = LogProbs(learner, Adapters(learner.base_hash, None), Path(folder) / "log_probs")
        data = Data(pairs, {name: len(t) for name, t in held.items()}, held, log_probs)
        begun = time.monotonic()
        result = Training(learner, data, chosen, Path(folder), "benchmark").run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.monotonic() - begun, result.updates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--states", type=int, default=4, help="initial states")
    parser.add_argument("--top", type=int, default=2, help="so many better over so many worse; 1: one pair a state")
    parser.add_argument("--steps", type=int, default=60, help="of every trajectory")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of ours, each before a part of the other")
    parser.add_argument("--updates", type=int, default=15, help="updates of the released scheme a round")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held, pairs = make(load_checkpoint(options.model), options.states, options.steps, options.top)
    # nothing but the work itself: no bound that could end it, no checks
    plain = {"check_every": 10**6, "checkpoint_every": 10**6, "holdout": 0.0, "drift_bound": 0.0, "kl_bound": 0.0}
    plain |= {"holdout_steps": 0, "holdout_pairs": 1}
    seconds: dict[str, list[float]] = {"all_linear": [], "default": [], "released": []}
    worth, updates = 0.0, 0
    released = Released(options.model, options.device, held, pairs)
    run = released.updates()
    next(run)
    with Progress(console=Console(stderr=True)) as shown:
        for _ in shown.track(range(options.rounds), description="rounds"):
            for name, preset in (("all_linear", "paper"), ("default", "default")):
                took, updates = ours(options.model, options.device, preset, held, pairs, plain)
                seconds[name].append(took)
            begun = time.monotonic()
            for _ in range(options.updates):
                worth += next(run)
            seconds["released"].append(time.monotonic() - begun)
    counted = {"all_linear": 2 * len(pairs), "default": 2 * len(pairs), "released": worth / options.rounds}
    # the best round of each: what the machine did beside is noise
    rates = {name: counted[name] / min(took) for name, took in seconds.items()}
    factor = rates["all_linear"] / rates["released"]
    told = {
        "model": options.model.name,
        "device": options.device,
        "steps": options.steps,
        "pairs": len(pairs),
        "episodes": len(held),
        "trajectories_per_second": rates,
        "factor": factor,
        "factor_default": rates["default"] / rates["released"],
        "factor_means": (counted["all_linear"] / np.mean(seconds["all_linear"]))
        / (counted["released"] / np.mean(seconds["released"])),
        "updates_of_ours": updates,
        "seconds": seconds,
    }
    print(json.dumps({**told, "ok": factor >= FACTOR}))
    return 0 if factor >= FACTOR else 1


if __name__ == "__main__":
    sys.exit(main())
