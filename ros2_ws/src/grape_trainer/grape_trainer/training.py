"""The updates of a TPO run: bounded, checked against held-out steps, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from grape_trainer.pairs import Pair, PairSet
from grape_trainer.result import DRIFT, FINISHED, KL, TIME, Result
from grape_trainer.settings import Settings
from grape_trainer.trajectories import Library, Trajectory


class Training:
    """One run over ``pairs``. ``folder`` gets metrics.jsonl and checkpoints; ``progress`` is called with
    (updates done, updates, metrics of the last one)."""

    def __init__(
        self,
        learner: Learner,
        library: Library,
        pairs: PairSet,
        settings: Settings,
        folder: Path,
        fingerprint: str,
        progress: Callable[[int, int, dict[str, Any]], None] = lambda done, total, metrics: None,
    ) -> None:
        if not pairs.pairs:
            raise TrainingError("the pairs file holds no pair: there is nothing to learn from")
        self.learner, self.library, self.settings, self.folder = learner, library, settings, folder
        self.fingerprint, self.progress = fingerprint, progress
        self.metrics_path = folder / "metrics.jsonl"
        self.loss = tpo.Loss(settings.beta, settings.beta_mode, settings.supervised_weight)
        self.parts = split(pairs.pairs, settings)
        self.batches = schedule(self.parts.train, settings)
        self.reference: dict[str, Tensor] = {}
        self.probe = Probe(pairs, self.parts, settings)
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
            if self.settings.max_seconds and time.monotonic() - begun > self.settings.max_seconds:
                status, reason = TIME, f"{self.settings.max_seconds:g} s are over after {held.update} updates"
                break
            metrics = self._update(held.update, self.batches[held.update])
            bound = self.settings.drift_bound
            if bound and metrics["drift_chosen"] < bound:
                status = DRIFT
                reason = (
                    f"update {held.update}: the chosen side drifted {metrics['drift_chosen']:.3f} nats a step "
                    f"from the reference, bound {bound:g}"
                )
                break
            held.update += 1
            held.figures |= metrics
            append_line(self.metrics_path, metrics)
            if held.update % self.settings.check_every == 0 or held.update == len(self.batches):
                status_now, reason_now = self._check(held)
                if status_now:
                    status, reason = status_now, reason_now
                    break
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
            held_pairs=len(self.parts.held),
            figures=held.figures,
            seconds=time.monotonic() - begun,
        )

    def _begin(self) -> states.RunState:
        held = states.load(self.folder / "checkpoints", self.fingerprint)
        if held is None:
            write_lines(self.metrics_path, [])
            weights = self.learner.state()
            return states.RunState(update=0, weights=weights, good=weights, good_update=0)
        self.learner.load_state(held.weights)
        states.restore_moments(self.optimizer, held.moments)
        if held.rng is not None:
            torch.set_rng_state(held.rng)
        # what was written after the checkpoint happens again
        lines = [line for line in read_lines(self.metrics_path) if line["update"] <= held.update]
        write_lines(self.metrics_path, lines)
        return held

    def _checkpoint(self, held: states.RunState) -> None:
        held.weights = self.learner.state()
        held.moments = states.moments_of(self.optimizer)
        held.rng = torch.get_rng_state()
        states.save(self.folder / "checkpoints", held, self.fingerprint)

    def _update(self, number: int, batch: Sequence[Pair]) -> dict[str, Any]:
        begun = time.monotonic()
        ids = sorted({side for pair in batch for side in (pair.chosen, pair.rejected)})
        trajectories = self.library.get(ids)
        self._add_references(trajectories)
        sides = [(pair.chosen, pair.rejected) for pair in batch]
        log_probs, chunk, parameters = self.learner.log_probs, self.settings.chunk, self.learner.parameters
        if self._one_pass(len(ids)):
            each = {t.episode_id: tpo.episode_gradient(log_probs, t, parameters, chunk) for t in trajectories}
            current = {name: values for name, (values, _) in each.items()}
            figures, coefficients = self._compare(batch, sides, current)
            grads = tpo.combine({name: parts for name, (_, parts) in each.items()}, coefficients)
        else:
            current = {t.episode_id: tpo.token_log_probs(log_probs, t, chunk) for t in trajectories}
            figures, coefficients = self._compare(batch, sides, current)
            grads = tpo.gradient(log_probs, trajectories, coefficients, parameters, chunk)
        size = tpo.norm(grads)
        if not size < float("inf"):
            raise NonFiniteError(f"update {number}: the gradient is not finite, pairs {_names(batch)}")
        rate = self._step(number, grads, size)
        mean = _mean
        return {
            "update": number + 1,
            "updates": len(self.batches),
            "loss": tpo.batch_loss(figures, self.loss),
            "preference_loss": mean(f.preference_loss for f in figures),
            "supervised_loss": mean(f.supervised_loss for f in figures),
            "reward_chosen": mean(f.reward_chosen for f in figures),
            "reward_rejected": mean(f.reward_rejected for f in figures),
            "margin": mean(f.margin for f in figures),
            "accuracy": mean(float(f.margin > 0) for f in figures),
            "drift_chosen": mean(f.drift_chosen for f in figures),
            "drift_rejected": mean(f.drift_rejected for f in figures),
            "grad_norm": size,
            "learning_rate": rate,
            "pairs": len(batch),
            "steps": sum(len(t) for t in trajectories),
            "seconds": time.monotonic() - begun,
        }

    def _compare(
        self, batch: Sequence[Pair], sides: list[tuple[str, str]], current: dict[str, Tensor]
    ) -> tuple[list[tpo.PairFigures], dict[str, float]]:
        figures, coefficients = tpo.compare(sides, current, self.reference, self.loss)
        bad = [pair for pair, figure in zip(batch, figures, strict=True) if not figure.finite]
        if bad:
            raise NonFiniteError(f"the loss of {_names(bad)} is not finite")
        return figures, coefficients

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
        self._add_references(self.library.get(self.probe.episodes))
        found = self.probe.measure(self.learner, self.library, self.reference, self.loss)
        line = {"update": held.update, "check": found}
        append_line(self.metrics_path, line)
        held.figures["check"] = found
        settings = self.settings
        if not found["kl"] < float("inf"):
            raise NonFiniteError(f"update {held.update}: KL to the reference is not finite")
        if settings.drift_bound and found["drift_chosen"] < settings.drift_bound:
            return DRIFT, (
                f"update {held.update}: the chosen side of {self.probe.kind} pairs drifted "
                f"{found['drift_chosen']:.3f} nats a step from the reference, bound {settings.drift_bound:g}"
            )
        if settings.kl_bound and found["kl"] > settings.kl_bound:
            return KL, (
                f"update {held.update}: KL to the reference is {found['kl']:.3f} nats a step, "
                f"bound {settings.kl_bound:g}"
            )
        held.good, held.good_update = self.learner.state(), held.update
        return "", ""

    def _one_pass(self, episodes: int) -> bool:
        held = sum(p.numel() for p in self.learner.parameters) * 8 * episodes
        return held <= self.settings.gradient_mb * 2**20

    def _add_references(self, trajectories: Sequence[Trajectory]) -> None:
        with self.learner.reference():
            for t in trajectories:
                if t.episode_id not in self.reference:
                    values = tpo.token_log_probs(self.learner.log_probs, t, self.settings.chunk)
                    if not bool(torch.isfinite(values).all()):
                        raise NonFiniteError(f"{t.path}: log-probs under the reference are not finite")
                    self.reference[t.episode_id] = values


def _mean(values: Any) -> float:
    held = list(values)
    return sum(held) / len(held)


def _names(pairs: Sequence[Pair]) -> str:
    return ", ".join(pair.name for pair in pairs)
