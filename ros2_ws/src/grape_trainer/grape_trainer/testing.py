"""For tests of what trains: a rig that makes up its rollouts, and bags for a tiny random checkpoint. Actions and images
are random, the log-probs are what the model says of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grape_episode.episode import Episode
from grape_episode.synthetic import make_episode, write_episode
from grape_policy.adapters import AdapterError, read_adapter
from grape_policy.checkpoint import Vla
from grape_policy.engine import Engine
from grape_policy.logprobs import token_logprobs
from grape_trainer.config import TrainConfig
from grape_trainer.pairs import Excluded, build, write_pairs
from grape_trainer.ranking import Candidate
from grape_trainer.rig import Ack, Job, Rollout

QUICK = {"learning_rate": 1e-3, "batch_pairs": 4, "check_every": 2, "checkpoint_every": 1, "warmup": 0, "chunk": 4}
"""Settings with which a handful of pairs trains in a second."""


Score = Callable[[NDArray[np.uint8], str, NDArray[np.int32]], NDArray[np.float32]]
"""(image, instruction, tokens) -> (7,) log-probs."""


def base_score(vla: Vla) -> Score:
    """What the checkpoint's model says, as its weights are now."""

    def score(image: NDArray[np.uint8], instruction: str, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        pixels = vla.processor.pixels(image[None]).to(vla.model.projector.fc1.weight.dtype)
        wanted = torch.from_numpy(tokens).long()[None]
        with torch.no_grad():
            return token_logprobs(vla.model, pixels, [vla.processor.prompt(instruction)], wanted)[0].float().numpy()

    return score


def episode_for(
    vla: Vla,
    seed: int,
    steps: int = 5,
    success: bool = True,
    adapter_id: str = "",
    score: Score | None = None,
    **more: object,
) -> Episode:
    """A synthetic episode whose tokens, images, log-probs and base hash fit the checkpoint, or what ``score`` says."""
    high = vla.spec.vocab_size
    made = make_episode(
        seed,
        steps,
        success,
        image_size=vla.spec.image_size,
        token_range=(high - vla.spec.action_bins, high),
        base_hash=vla.base_hash,
        adapter_id=adapter_id,
        **more,  # type: ignore[arg-type]
    )
    ask = score or base_score(vla)
    told = []
    for step in made.steps:
        assert step.image is not None
        told.append(replace(step, logprobs=ask(step.image, step.instruction, step.tokens)))
    return replace(made, steps=tuple(told))


class SyntheticRig:
    """A Rig that writes bags of made-up episodes under ``root``, half of them successes.

    It checks adapters as the policy does. ``cancel_after``: cancelled once so many rollouts are done; ``refuse``:
    reason with which every adapter is refused; ``fail_after``: raises after so many rollouts."""

    def __init__(
        self,
        vla: Vla,
        root: Path,
        steps: int = 5,
        cancel_after: int | None = None,
        refuse: str = "",
        fail_after: int | None = None,
        successes: Callable[[int], bool] = lambda number: number % 2 == 0,
    ) -> None:
        self.vla, self.root, self.steps, self.refuse = vla, root, steps, refuse
        self.cancel_after, self.fail_after, self.successes = cancel_after, fail_after, successes
        self.serving = ""
        self.loads: list[str] = []
        self.jobs: list[Job] = []
        self.stop = threading.Event()
        self._engine = Engine(vla)

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None:
        for job in jobs:
            if self.cancelled():
                return
            if self.fail_after is not None and len(self.jobs) >= self.fail_after:
                raise ConnectionError("the stack is gone")
            self.jobs.append(job)
            done(self._roll(job))

    def load_adapter(self, path: Path | None) -> Ack:
        if path is not None and self.refuse:
            return Ack(False, self.refuse, self.serving)
        try:
            wanted = read_adapter(path, self.vla.base_hash).manifest.adapter_id if path else ""
        except AdapterError as error:
            return Ack(False, str(error), self.serving)
        self._engine.load_adapter(path)
        self._engine.flip()
        self.serving = wanted
        self.loads.append(wanted)
        return Ack(True, "", wanted)

    def cancelled(self) -> bool:
        return self.stop.is_set() or (self.cancel_after is not None and len(self.jobs) >= self.cancel_after)

    def _roll(self, job: Job) -> Rollout:
        number = len(list(self.root.glob("*"))) if self.root.exists() else 0
        name = f"{job.task}-{job.initial_state}-{job.seed % 10**8}-{number}"
        episode = episode_for(
            self.vla,
            job.seed % 2**31,
            self.steps + job.seed % 3,
            self.successes(job.seed),
            self.serving,
            self._engine.score,
            task=job.task,
            initial_state=job.initial_state,
            objective=job.objective,
            episode_id=name,
        )
        bag = str(write_episode(episode, self.root / name)) if job.record else ""
        good = self.successes(job.seed)
        return Rollout(job.key, bag, name, "success" if good else "step_limit", "", self.serving, int(good))


def scored(episode: Episode, path: Path, success: int, worse: float = 0.0) -> Candidate:
    """An episode as a candidate; a larger ``worse`` ranks lower."""
    identity = episode.identity
    return Candidate(
        identity.episode_id,
        str(path),
        identity.task,
        identity.variant,
        identity.initial_state,
        "task_completion",
        identity.base_hash,
        identity.adapter_id,
        "program",
        len(episode.steps),
        success,
        -1.0 - worse,
        -30.0,
        -0.5 - 0.1 * worse,
    )


def write_rollouts(
    vla: Vla,
    root: Path,
    states: int = 6,
    rollouts: int = 3,
    adapter_id: str = "",
    score: Score | None = None,
    change: Callable[[Episode], Episode] = lambda episode: episode,
) -> Path:
    """Bags and a pairs file of ``states`` pairs: of the rollouts of a state, of 4, 5, ... steps, the first succeeds and
    the last is worst. ``change`` is made to each episode before it is written."""
    entries: list[Candidate | Excluded] = []
    for state in range(states):
        for number in range(rollouts):
            seed, good = 10 * state + number, number == 0
            made = episode_for(vla, seed, 4 + number, good, adapter_id, score, initial_state=100_000 + state)
            bag = write_episode(change(made), root / made.identity.episode_id)
            entries.append(scored(made, bag, int(good), number))
    path = root / "pairs.json"
    write_pairs(path, build(entries, m=1))
    return path


def quick_config(model: Path, pairs: Path, output: Path, **overrides: Any) -> TrainConfig:
    """A configuration that trains in a second."""
    told = {**QUICK, "epochs": 4, "batch_pairs": 2, "drift_bound": 0.0, "kl_bound": 0.0, "lora_rank": 4, **overrides}
    return TrainConfig(str(model), str(pairs), str(output), settings=told)


def edited(episode: Episode, amount: float = 0.01) -> Episode:
    """The episode with one recorded log-prob changed, of its step 1."""
    first, second, *rest = episode.steps
    values = second.logprobs.copy()
    values[3] += amount
    return replace(episode, steps=(first, replace(second, logprobs=values), *rest))
