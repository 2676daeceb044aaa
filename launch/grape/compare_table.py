"""The table of a comparison: a row a policy, differences with intervals over states and training seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grape import evaluation
from grape.clustered import clustered
from grape.evaluation import Result
from grape_episode import statistics

SFT = "SFT"
"""The base model: the policy as supervised fine-tuning left it."""
SUITE, DECODING = "in-domain", "greedy"

Results = Mapping[tuple[str, int], Sequence[Result]]
"""(policy, training seed) -> trials, those of every key on the same states in the same order."""


@dataclass(frozen=True)
class TrainedPolicy:
    """``adapter``: its folder; ``figures``: how its training ended."""

    policy: str
    method: str
    preset: str
    seed: int
    adapter: str
    figures: Mapping[str, Any]


def table(tasks: Sequence[str], results: Results, trained: Sequence[TrainedPolicy]) -> dict[str, Any]:
    """``rows``, ``differences`` and ``training``, as plain JSON; what could not be measured is null.

    Every policy is set against SFT, and the last one against each of the others."""
    names = list(dict.fromkeys(name for name, _ in results))
    against = [(name, SFT) for name in names[1:]] + [(names[-1], name) for name in names[1:-1]]
    training = [
        {"policy": t.policy, "method": t.method, "preset": t.preset, "seed": t.seed, **t.figures} for t in trained
    ]
    found = {
        "rows": [row(name, tasks, results) for name in names],
        "differences": [difference(name, other, results) for name, other in against],
        "training": training,
    }
    return plain(found)


def row(name: str, tasks: Sequence[str], results: Results) -> dict[str, Any]:
    """A policy's figures over all its training seeds: Wilson intervals of rates, Student's of means.

    Both take the trials as independent; that seeds share states is taken into account in the differences alone."""
    seeds = [list(own) for (policy, _), own in results.items() if policy == name]
    trials = [result for own in seeds for result in own]
    figures = evaluation.summary(trials)
    return {
        "policy": name,
        "suite": SUITE,
        "decoding": DECODING,
        "success": figures["success"],
        "collision": figures["collision"],
        "grasp": figures["grasp"],
        "steps": figures["steps"],
        "success_steps": figures["success steps"],
        "errors": sum(result.end_reason.startswith("error") for result in trials),
        "tasks": {
            task: statistics.proportion([r.success for r in trials if r.job.task == task]).as_dict() for task in tasks
        },
        "seeds": [statistics.proportion([r.success for r in own]).as_dict() for own in seeds],
    }


def difference(name: str, other: str, results: Results) -> dict[str, Any]:
    """``name`` minus ``other``; ``noise`` is true where the interval holds zero. Points are percentage points;
    ``success_steps`` is over the states in which both succeed."""

    def matrix(policy: str, value: Callable[[Result], float]) -> np.ndarray:
        return np.array([[value(r) for r in own] for (key, _), own in results.items() if key == policy], np.float64)

    def steps_of_success(result: Result) -> float:
        return float(result.steps) if result.success else math.nan

    longest = float(max(r.steps for own in results.values() for r in own))

    def compared(value: Callable[[Result], float], scale: float, unit: str, span: float) -> dict[str, Any]:
        gap = clustered(matrix(other, value), matrix(name, value), span=span)
        return {
            unit: scale * gap.difference,
            "low": scale * gap.low,
            "high": scale * gap.high,
            "trials": gap.trials,
            "noise": not gap.beyond_noise,
        }

    success = compared(lambda r: float(r.success), 100.0, "points", 1.0)
    return {
        "policy": name,
        "against": other,
        "suite": SUITE,
        "decoding": DECODING,
        **success,
        "words": in_words(name, other, success),
        "collision": compared(lambda r: float(r.collision), 100.0, "points", 1.0),
        "steps": compared(lambda r: float(r.steps), 1.0, "steps", longest),
        "success_steps": compared(steps_of_success, 1.0, "steps", longest),
    }


def in_words(name: str, other: str, success: Mapping[str, Any]) -> str:
    """One line that says whether the difference is more than noise."""
    points, low, high = success["points"], success["low"], success["high"]
    verdict = "noise" if success["noise"] else ("better" if points > 0 else "worse")
    return f"{name} against {other}: {points:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}: {verdict}"


def plain(value: Any) -> Any:
    """The value as JSON can hold it: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
