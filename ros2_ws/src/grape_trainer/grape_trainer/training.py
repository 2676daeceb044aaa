"""The updates of a run: bounded, checked against held-out steps, resumable, the same in one process or several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grape_trainer import state as states
from grape_trainer import tpo
from grape_trainer.batches import schedule, split
from grape_trainer.checks import Probe
from grape_trainer.errors import NonFiniteError, TrainingError
from grape_trainer.files import append_line, read_lines, write_lines
from grape_trainer.learner import Learner
from grape_trainer.log_probs import LogProbs
from grape_trainer.objectives import Item, Metrics, Weights, is_pair, means, objective
from grape_trainer.processes import Team
from grape_trainer.result import DRIFT, FINISHED, KL, TIME, Result
from grape_trainer.settings import Settings
from grape_trainer.trajectories import Shelf


@dataclass(frozen=True)
class Data:
    """What a run learns from. ``steps``: episode id -> T of every episode of the items; ``fresh``: the same of episodes
    in no item, on which the policy may be looked at; ``reference``: id of the reference policy's adapter; ``worst``:
    the largest difference that the drift check let pass, nats."""

    items: Sequence[Item]
    steps: Mapping[str, int]
    shelf: Shelf
    log_probs: LogProbs
    reference: str = ""
    fresh: Mapping[str, int] = field(default_factory=dict)
    worst: float = 0.0


class Training:
    """One run over ``data``. ``folder`` gets metrics.jsonl and checkpoints; ``progress`` is called with
    (updates done, updates, metrics of the last one), ``keep`` with (updates done, figures) after every check that
    passes, where the settings ask for snapshots, both in the first process of ``team``."""

    def __init__(
        self,
        learner: Learner,
        data: Data,
        settings: Settings,
        folder: Path,
        fingerprint: str,
        progress: Callable[[int, int, dict[str, Any]], None] = lambda done, total, metrics: None,
        team: Team | None = None,
        keep: Callable[[int, dict[str, Any]], None] = lambda done, figures: None,
    ) -> None:
        if not data.items:
            raise TrainingError("the pairs file holds no pair: there is nothing to learn from")
        self.learner, self.data, self.settings, self.folder = learner, data, settings, folder
        self.fingerprint, self.progress, self.team, self.keep = fingerprint, progress, team or Team(), keep
        self.metrics_path = folder / "metrics.jsonl"
        self.objective = objective(settings)
        self.parts = split(data.items, settings)
        self.batches = schedule(self.parts.train, settings)
        self.reference: dict[str, Tensor] = {}
        self.probe = Probe(self.parts, data.steps, data.fresh, data.shelf, settings)
        self.optimizer = torch.optim.AdamW(
            learner.parameters,
            lr=settings.learning_rate,
            betas=settings.adam_betas,
            weight_decay=settings.weight_decay,
        )

    def run(self) -> Result:
        """All updates that are left. Raises NonFiniteError naming the pairs, TrainingError naming a bag."""
        begun = time.monotonic()
        held = self._begin()
        status, reason = FINISHED, f"all {len(self.batches)} updates done"
        while held.update < len(self.batches):
            limit = self.settings.max_seconds
            # one clock for all processes
            if limit and self.team.agree(time.monotonic() - begun > limit):
                status, reason = TIME, f"{self.settings.max_seconds:g} s are over after {held.update} updates"
                break
            metrics = self._update(held.update, self.batches[held.update])
            bound, _ = self.settings.bounds
            if bound and metrics["drift_chosen"] < bound:
                status = DRIFT
                reason = (
                    f"update {held.update}: the chosen side drifted {metrics['drift_chosen']:.3f} nats a step "
                    f"from the reference, bound {bound:g}"
                )
                break
            held.update += 1
            held.figures |= metrics
            self._write(metrics)
            if held.update % self.settings.check_every == 0 or held.update == len(self.batches):
                status_now, reason_now = self._check(held)
                if status_now:
                    status, reason = status_now, reason_now
                    break
            if self.team.first:
                self.progress(held.update, len(self.batches), metrics)
            if held.update % self.settings.checkpoint_every == 0:
                self._checkpoint(held)
        if status == TIME:
            stopped, why = self._check(held)
            status, reason = (stopped, why) if stopped else (status, reason)
        if status in (DRIFT, KL):
            self.learner.load_state(held.good)
            reason += f"; went back to the weights after update {held.good_update}"
        kept = held.good_update if status in (DRIFT, KL) else held.update
        return Result(
            status=status,
            reason=reason,
            updates=held.update,
            kept_update=kept,
            changed=kept > 0,
            pairs=len(self.parts.train),
            held_pairs=sum(map(is_pair, self.parts.held)),
            figures=held.figures,
            seconds=time.monotonic() - begun,
            recorded_difference=self.data.worst,
        )

    def _begin(self) -> states.RunState:
        held = states.load(self.folder / "checkpoints", self.fingerprint)
        self.team.barrier()  # all have read before the first one writes
        if held is None:
            if self.team.first:
                write_lines(self.metrics_path, [])
            weights = self.learner.state()
            return states.RunState(update=0, weights=weights, good=weights, good_update=0)
        self.learner.load_state(held.weights)
        states.restore_moments(self.optimizer, held.moments)
        if held.rng is not None:
            torch.set_rng_state(held.rng)
        if self.team.first:
            # what was written after the checkpoint happens again
            lines = [line for line in read_lines(self.metrics_path) if line["update"] <= held.update]
            write_lines(self.metrics_path, lines)
        return held

    def _write(self, line: dict[str, Any]) -> None:
        if self.team.first:
            append_line(self.metrics_path, line)

    def _checkpoint(self, held: states.RunState) -> None:
        held.weights = self.learner.state()
        held.moments = states.moments_of(self.optimizer)
        held.rng = torch.get_rng_state()
        if self.team.first:
            states.save(self.folder / "checkpoints", held, self.fingerprint)

    def _update(self, number: int, batch: Sequence[Item]) -> dict[str, Any]:
        begun = time.monotonic()
        ids = sorted({name for item in batch for name in item.episodes})
        steps = {name: self.data.steps[name] for name in ids}
        self._add_references(ids)
        metrics, grads, current = self._gradient(batch, ids, steps)
        bad = [item for item, own in zip(batch, metrics, strict=True) if not math.isfinite(own["loss"])]
        if bad:
            raise NonFiniteError(f"the loss of {_names(bad)} is not finite")
        grads = self.team.sum(grads)
        size = tpo.norm(grads)
        if not size < float("inf"):
            raise NonFiniteError(f"update {number}: the gradient is not finite, pairs {_names(batch)}")
        rate = self._step(number, grads, size)
        total = sum(steps.values())
        fallen = sum(float((self.reference[name] - current[name]).sum()) for name in ids)
        return {
            "update": number + 1,
            "updates": len(self.batches),
            **means(metrics),
            # of the recorded actions: KL(reference, policy) as far as these are the reference's own
            "kl_sampled": fallen / total,
            "grad_norm": size,
            "learning_rate": rate,
            "pairs": len(batch),
            "steps": total,
            "seconds": time.monotonic() - begun,
        }

    def _gradient(
        self, batch: Sequence[Item], ids: Sequence[str], steps: Mapping[str, int]
    ) -> tuple[list[Metrics], list[Tensor], dict[str, Tensor]]:
        """The items' metrics, this process's part of the gradient of the batch's loss, all log-probs."""
        mine = self.team.balanced(steps, ids)
        trajectories = [self.data.shelf[name] for name in mine]
        log_probs, chunk, parameters = self.learner.seen_log_probs, self.settings.chunk, self.learner.parameters

        def compare(own: Mapping[str, Tensor]) -> tuple[list[Metrics], Weights, dict[str, Tensor]]:
            current = self.team.log_probs(own, steps, ids)
            return *self.objective.compare(batch, current, self.reference), current

        fixed = self.objective.fixed(batch, steps)
        own: dict[str, Tensor] = {}
        if fixed is not None:
            grads = tpo.gradient(log_probs, trajectories, fixed, parameters, chunk, own)
            metrics, _, current = compare(own)
        elif self.objective.uniform and self._one_pass(len(mine)):
            each = {t.episode_id: tpo.episode_gradient(log_probs, t, parameters, chunk) for t in trajectories}
            metrics, weights, current = compare({name: values for name, (values, _) in each.items()})
            grads = tpo.combine({name: parts for name, (_, parts) in each.items()}, weights, parameters)
        else:
            own = {t.episode_id: tpo.token_log_probs(log_probs, t, chunk) for t in trajectories}
            metrics, weights, current = compare(own)
            grads = tpo.gradient(log_probs, trajectories, weights, parameters, chunk)
        return metrics, grads, current

    def _step(self, number: int, grads: list[Tensor], size: float) -> float:
        settings = self.settings
        scale = min(1.0, settings.clip_norm / (size + 1e-12)) if settings.clip_norm else 1.0
        rate = settings.learning_rate * min(1.0, (number + 1) / max(1, settings.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter, grad in zip(self.learner.parameters, grads, strict=True):
            parameter.grad = (grad * scale).to(parameter.dtype)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return rate

    def _check(self, held: states.RunState) -> tuple[str, str]:
        """Held-out figures into the metrics; the weights become the good ones, or why the run must stop."""
        probe = self.probe
        self._add_references(probe.episodes)
        current = self._log_probs(probe.episodes)
        found = probe.measure(self.learner, self.data.shelf, current, self.reference, self.objective, self.team)
        self._write({"update": held.update, "check": found})
        held.figures["check"] = found
        drift_bound, kl_bound = self.settings.bounds
        if not found["kl"] < float("inf"):
            raise NonFiniteError(f"update {held.update}: KL to the reference is not finite")
        if drift_bound and found["drift_chosen"] < drift_bound:
            return DRIFT, (
                f"update {held.update}: the chosen side of {self.probe.kind} episodes drifted "
                f"{found['drift_chosen']:.3f} nats a step from the reference, bound {drift_bound:g}"
            )
        if kl_bound and found["kl"] > kl_bound:
            return KL, (
                f"update {held.update}: KL to the reference is {found['kl']:.3f} nats a step, bound {kl_bound:g}"
            )
        held.good, held.good_update = self.learner.state(), held.update
        if self.settings.snapshots and self.team.first:
            self.keep(held.update, found)
        return "", ""

    def _one_pass(self, episodes: int) -> bool:
        held = sum(p.numel() for p in self.learner.parameters) * 8 * episodes
        return held <= self.settings.gradient_mb * 2**20

    def _log_probs(self, names: Sequence[str]) -> dict[str, Tensor]:
        steps = {name: self.data.steps[name] for name in names}
        chunk = self.settings.chunk
        own = {
            name: tpo.token_log_probs(self.learner.seen_log_probs, self.data.shelf[name], chunk)
            for name in self.team.balanced(steps, names)
        }
        return self.team.log_probs(own, steps, names)

    def _add_references(self, names: Iterable[str]) -> None:
        missing = sorted(set(names) - set(self.reference))
        if not missing:
            return
        steps = {name: self.data.steps[name] for name in missing}
        own = {
            name: self.data.log_probs.of(self.data.shelf[name], self.data.reference)
            for name in self.team.balanced(steps, missing)
        }
        self.reference |= self.team.log_probs(own, steps, missing)


def _names(items: Sequence[Item]) -> str:
    return ", ".join(item.name for item in items)
