"""What a batch is optimised for: TPO, step-wise DPO or cloning, behind one face, so that all of them share the rest.

An objective says which steps' log-probs are to grow and by how much: the gradient of its loss is, for every episode
of the batch, a weight (one, or one a step) times the gradient of the log-probs of the recorded tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from grape_trainer import step_dpo, tpo
from grape_trainer.ranking import Candidate, Group
from grape_trainer.settings import Settings

LogProbs = Mapping[str, Tensor]
"""Episode id -> (T, 7) log-probs, nats, float64."""
Metrics = dict[str, float]
Weights = Mapping[str, tpo.Weight]


class Item(Protocol):
    """What a batch is made of: a pair of episodes, or one episode to imitate."""

    @property
    def group(self) -> Group: ...
    @property
    def name(self) -> str: ...
    @property
    def episodes(self) -> tuple[str, ...]: ...


def is_pair(item: Item) -> bool:
    """A pair of episodes, not one to imitate."""
    return len(item.episodes) > 1


def means(metrics: Sequence[Metrics]) -> Metrics:
    """Each figure's mean over the items that have it."""
    names = dict.fromkeys(name for own in metrics for name in own)
    found = {name: [own[name] for own in metrics if name in own] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


@dataclass(frozen=True)
class Clone:
    """An episode to imitate, and the initial state it began from."""

    episode_id: str
    group: Group

    @property
    def name(self) -> str:
        return self.episode_id

    @property
    def episodes(self) -> tuple[str, ...]:
        return (self.episode_id,)


class Objective(Protocol):
    """``uniform``: every weight is one number an episode. ``compare`` gives the metrics of each item, in order, and
    the derivative of the batch's loss by the log-probs of each episode; ``fixed`` the same derivative where it does
    not depend on the log-probs (None where it does), from the episodes' numbers of steps."""

    uniform: bool

    def compare(self, items: Sequence[Item], current: LogProbs, reference: LogProbs) -> tuple[list[Metrics], Weights]:
        """Raises KeyError where an item's episode has no log-probs."""

    def fixed(self, items: Sequence[Item], steps: Mapping[str, int]) -> Weights | None: ...


class Preference:
    """TPO (Eq. 5-6), or step-wise DPO where ``window`` is above 0. Metrics: those of ``tpo.PairFigures``.

    An item of one episode has the supervised term alone, with the weight of a pair's."""

    def __init__(self, loss: tpo.Loss, window: int = 0) -> None:
        self.loss, self.window, self.uniform = loss, window, window == 0

    def compare(self, items: Sequence[Item], current: LogProbs, reference: LogProbs) -> tuple[list[Metrics], Weights]:
        sides = [(item.episodes[0], item.episodes[1]) for item in items if is_pair(item)]
        figures: list[tpo.PairFigures]
        weights: Weights
        if self.window:
            figures, weights = step_dpo.compare(sides, current, reference, self.loss, self.window)
        else:
            figures, weights = tpo.compare(sides, current, reference, self.loss)
        of_pairs = iter(self._pair_metrics(figures))
        metrics = [next(of_pairs) if is_pair(item) else self._lone(item, current, reference) for item in items]
        return metrics, self._with_lone(items, current, weights, len(sides))

    def _pair_metrics(self, figures: Sequence[tpo.PairFigures]) -> list[Metrics]:
        return [
            {
                "loss": f.preference_loss + self.loss.supervised * f.supervised_loss,
                "preference_loss": f.preference_loss,
                "supervised_loss": f.supervised_loss,
                "reward_chosen": f.reward_chosen,
                "reward_rejected": f.reward_rejected,
                "margin": f.margin,
                "accuracy": f.accuracy,
                "drift_chosen": f.drift_chosen,
                "drift_rejected": f.drift_rejected,
            }
            for f in figures
        ]

    def _lone(self, item: Item, current: LogProbs, reference: LogProbs) -> Metrics:
        name = item.episodes[0]
        supervised = -float(current[name].mean())
        drift = float((current[name] - reference[name]).sum()) / len(current[name])
        return {"loss": self.loss.supervised * supervised, "supervised_loss": supervised, "drift_chosen": drift}

    def _with_lone(self, items: Sequence[Item], current: LogProbs, weights: Weights, pairs: int) -> Weights:
        """Weights of the mean over the items, given those of the mean over the pairs among them."""
        if pairs == len(items):
            return weights
        share = pairs / len(items)
        mixed = {name: weight * share for name, weight in weights.items()}
        for item in items:
            if not is_pair(item):
                name = item.episodes[0]
                mixed[name] = mixed.get(name, 0.0) - self.loss.supervised / current[name].numel() / len(items)
        return mixed

    def fixed(self, items: Sequence[Item], steps: Mapping[str, int]) -> Weights | None:
        return None


class Cloning:
    """Eq. 1: minus the log-likelihood of the episodes' actions, every step of the batch with the same weight, divided
    by the number of tokens. Metrics: the mean token cross-entropy and the drift from the reference."""

    uniform = True

    def compare(self, items: Sequence[Item], current: LogProbs, reference: LogProbs) -> tuple[list[Metrics], Weights]:
        names = [item.episodes[0] for item in items]
        steps = {name: len(current[name]) for name in names}
        mean = sum(steps[name] for name in names) / len(names)
        metrics: list[Metrics] = []
        for name in names:
            loss = -float(current[name].mean())
            # so that the mean over the items is the mean over the steps
            share = steps[name] / mean
            drift = float((current[name] - reference[name]).sum()) / steps[name]
            metrics.append({"loss": share * loss, "supervised_loss": share * loss, "drift_chosen": share * drift})
        return metrics, self.fixed(items, steps)

    def fixed(self, items: Sequence[Item], steps: Mapping[str, int]) -> Weights:
        names = [item.episodes[0] for item in items]
        tokens = 7 * sum(steps[name] for name in names)
        return {name: -names.count(name) / tokens for name in names}


def objective(settings: Settings) -> Objective:
    """The objective of a run's method and loss."""
    if settings.clones:
        return Cloning()
    loss = tpo.Loss(
        settings.beta,
        settings.beta_mode,
        settings.supervised_weight,
        settings.loss == "length_normalised",
        settings.positive_anchor,
    )
    return Preference(loss, settings.window if settings.method == "step_dpo" else 0)


def clone_of(candidate: Candidate) -> Clone:
    """A scored rollout as an episode to imitate."""
    return Clone(candidate.episode_id, candidate.group)
