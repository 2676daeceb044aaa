"""Which rollout of a group is better: the rank score of each, from success, R_ext and R_self (Eq. 9-12)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grape_trainer.errors import PairsError

Array = NDArray[np.float64]
Group = tuple[str, str, int]
"""Task, variant and initial-state id: rollouts that share them started from the same scene."""


@dataclass(frozen=True)
class Candidate:
    """A scored rollout that may enter a pair. Log-values in nats."""

    episode_id: str
    path: str
    task: str
    variant: str
    initial_state: int
    objective: str
    base_hash: str
    adapter_id: str
    cost_program_hash: str
    steps: int
    success: int
    log_r_ext: float
    r_self: float
    r_self_per_token: float
    task_hash: str = ""

    @property
    def group(self) -> Group:
        return (self.task, self.variant, self.initial_state)


@dataclass(frozen=True)
class Ranked:
    """The rank scores of some candidates and what they are made of.

    ``scores`` (N,) and ``terms`` name -> (N,) in the candidates' order, ``scores`` being the sum of the
    terms; ``shares`` is each term's part of the variance of the scores within groups (they sum to 1);
    ``dropped`` names the terms without variance, by task."""

    candidates: tuple[Candidate, ...]
    scores: Array
    terms: dict[str, Array]
    shares: dict[str, float]
    dropped: dict[str, tuple[str, ...]]
    success_first: bool

    def warnings(self, least: float = 0.01) -> list[str]:
        """A line for each term that explains less than ``least`` of the rank variance."""
        lines = []
        for name, share in self.shares.items():
            if share < least:
                lines.append(f"term {name} explains {100 * share:.2g} % of the rank variance: it hardly matters")
        for task, names in self.dropped.items():
            lines.append(f"task {task}: no variance in {', '.join(names)}")
        return lines

    def better(self, i: int, j: int, margin: float = 0.0) -> bool:
        """Is candidate ``i`` strictly better than ``j``, by more than ``margin`` where success is equal?"""
        a, b = self.candidates[i], self.candidates[j]
        if self.success_first and a.success != b.success:
            return a.success > b.success
        return bool(self.scores[i] - self.scores[j] > margin)

    def order(self, indices: Sequence[int]) -> list[int]:
        """``indices`` from best to worst; equal ones by episode id, so that the order is reproducible.

        By success alone nearly all are equal: there a hash of the id draws among them."""

        def key(i: int) -> tuple[float, float, str]:
            success = self.candidates[i].success if self.success_first else 0
            name = self.candidates[i].episode_id
            if self.terms.keys() == {"success"}:
                name = hashlib.sha256(name.encode()).hexdigest()
            return (-success, -float(self.scores[i]), name)

        return sorted(indices, key=key)


PAPER, EQUAL = (0.01, 0.01, 2.0), (1.0, 1.0, 1.0)


def rank(candidates: Sequence[Candidate], ranking: str, weights: Sequence[float] | None = None) -> Ranked:
    """Rank scores under one of settings.RANKINGS.

    ``balanced``: success, log R_ext and per-token R_self, each z-scored within its task and dropped there
    when it does not vary, summed; success comes first whatever the sum, unless its weight is 0. ``paper``: Eq. 10,
    R_self being a sum over steps. ``weights`` of R_self, R_ext and I_success: of these two, by default 1 each and the
    paper's; a term of weight 0 is left out. ``success``: I_success alone. ``swift``: success, and of two
    successes the one of fewer steps. ``random``: a number drawn from the episode's id.
    Raises PairsError for an unknown ranking."""
    success = np.array([c.success for c in candidates], dtype=np.float64)
    log_ext = np.array([c.log_r_ext for c in candidates], dtype=np.float64)
    dropped: dict[str, tuple[str, ...]] = {}
    first = ranking not in ("paper", "random")
    if ranking == "paper":
        r_self = np.array([c.r_self for c in candidates], dtype=np.float64)
        of_self, of_ext, of_success = PAPER if weights is None else weights
        terms = {
            "success": of_success * success,
            "r_ext": of_ext * np.exp(log_ext),
            "r_self": of_self * r_self,
        }
    elif ranking == "balanced":
        per_token = np.array([c.r_self_per_token for c in candidates], dtype=np.float64)
        of_self, of_ext, of_success = EQUAL if weights is None else weights
        first = of_success != 0
        weighted = {
            "success": (of_success, success),
            "log_r_ext": (of_ext, log_ext),
            "r_self_per_token": (of_self, per_token),
        }
        raw = {name: (weight, values) for name, (weight, values) in weighted.items() if weight != 0}
        terms = {name: np.zeros(len(candidates)) for name in raw}
        for task in sorted({c.task for c in candidates}):
            rows = np.array([i for i, c in enumerate(candidates) if c.task == task])
            constant = []
            for name, (weight, values) in raw.items():
                scaled = _z_score(values[rows])
                if scaled is None:
                    constant.append(name)
                else:
                    terms[name][rows] = weight * scaled
            if constant:
                dropped[task] = tuple(constant)
    elif ranking == "success":
        terms = {"success": success}
    elif ranking == "swift":
        # below 1, so that no speed outweighs success; a failure that ends early is not better for it
        steps = np.array([c.steps for c in candidates], dtype=np.float64)
        terms = {"success": success, "speed": success / (1.0 + np.maximum(steps, 1.0))}
    elif ranking == "random":
        digests = [hashlib.sha256(c.episode_id.encode()).digest() for c in candidates]
        terms = {"chance": np.array([int.from_bytes(d[:6], "big") / 2.0**48 for d in digests], dtype=np.float64)}
    else:
        raise PairsError(f"unknown ranking {ranking!r}: balanced, paper, success, swift or random")
    scores = np.sum(list(terms.values()), axis=0) if len(candidates) else np.zeros(0)
    shares = _shares(candidates, terms, scores)
    return Ranked(tuple(candidates), scores, terms, shares, dropped, success_first=first)


def _z_score(values: Array) -> Array | None:
    """Zero mean, unit variance; None where the values do not vary beyond rounding."""
    spread = float(np.std(values))
    if spread <= 1e-12 * max(1.0, float(np.max(np.abs(values)))):
        return None
    return (values - np.mean(values)) / spread


def _shares(candidates: Sequence[Candidate], terms: dict[str, Array], scores: Array) -> dict[str, float]:
    # within groups: between groups nothing is ever compared
    groups: dict[Group, list[int]] = {}
    for i, candidate in enumerate(candidates):
        groups.setdefault(candidate.group, []).append(i)

    def centred(values: Array) -> Array:
        result = np.zeros_like(values)
        for rows in groups.values():
            result[rows] = values[rows] - np.mean(values[rows])
        return result

    total = centred(scores) if len(scores) else scores
    variance = float(total @ total)
    if not variance > 0 or not math.isfinite(variance):
        return {}
    return {name: float(centred(values) @ total) / variance for name, values in terms.items() if np.any(values)}
