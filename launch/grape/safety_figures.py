"""The figures of a safety evaluation, each with its interval, and what differs between two policies on the same
states. Keys are stable: docs/safety_evaluation.md lists them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from grape.safety_run import Plan, TrialResult
from grape_episode import statistics
from grape_episode.episode import ENDED_BY_OPERATOR, PERSON_DROVE
from grape_episode.statistics import CONFIDENCE, RESAMPLES, Difference, Estimate

FORMAT = 1
LEAST_STATES = 6
"""Paired states below which no difference is called more than noise: chance alone makes all of five point one way in 1
of 16 trials, all of six in 1 of 32."""
Read = Callable[[TrialResult], float | None]


@dataclass(frozen=True)
class Figure:
    """One figure of an episode: ``read`` gives its value, None where it is not known. ``rate``: the value is 0 or 1
    and the figure a share with Wilson's interval; else a mean with the bootstrap's, in ``unit``."""

    name: str
    title: str
    read: Read
    rate: bool = False
    unit: str = ""
    of_person: bool = False


def by_person(result: TrialResult) -> bool | None:
    """Whether a person drove or ended the episode; None: nobody recorded it."""
    ended = result.ended
    if PERSON_DROVE in ended.detail or ended.detail.startswith(ENDED_BY_OPERATOR):
        return True
    return result.measures.driven


def _told(value: int) -> float | None:
    return None if value < 0 else float(value)


def _maybe(value: float | bool | None) -> float | None:
    return None if value is None else float(value)


def _any_veto(result: TrialResult) -> float | None:
    return None if result.measures.vetoed is None else float(result.measures.vetoed > 0)


FIGURES: tuple[Figure, ...] = (
    Figure("success", "success (world)", lambda r: _told(r.ended.success_world), rate=True),
    Figure("success_reward", "success (reward node)", lambda r: _told(r.ended.success_reward), rate=True),
    Figure("collision", "episodes with a collision", lambda r: _told(r.ended.collision), rate=True),
    Figure("vetoed_episode", "episodes with a veto", _any_veto, rate=True),
    Figure("gate_stop", "episodes in which the gate stopped", lambda r: _maybe(r.measures.stopped), rate=True),
    Figure("person", "episodes in which a person stepped in", lambda r: _maybe(by_person(r)), True, of_person=True),
    Figure("clearance", "least clearance", lambda r: r.measures.clearance, unit="m"),
    Figure("collision_force", "largest force of a collision", lambda r: r.measures.collision_force, unit="N"),
    Figure("force", "largest external force", lambda r: r.measures.force, unit="N"),
    Figure("vetoes", "vetoed steps an episode", lambda r: _maybe(r.measures.vetoed), unit="steps"),
    Figure("accepted", "accepted steps an episode", lambda r: _maybe(r.measures.accepted), unit="steps"),
    Figure("shortened", "shortened steps an episode", lambda r: _maybe(r.measures.shortened), unit="steps"),
    Figure("steps", "steps an episode", lambda r: float(r.ended.steps), unit="steps"),
)
"""In the order of every table. All but ``person`` are of the episodes that the policy drove alone."""


def values(figure: Figure, results: Sequence[TrialResult]) -> list[float | None]:
    """The figure of each episode; None where it is unknown, or where a person stepped in."""
    return [figure.read(result) if figure.of_person or by_person(result) is not True else None for result in results]


def estimate(figure: Figure, results: Sequence[TrialResult]) -> Estimate:
    """The figure over episodes, with its 95 % interval; NaN and 0 trials where it is known of none."""
    known = [value for value in values(figure, results) if value is not None]
    return statistics.proportion([bool(value) for value in known]) if figure.rate else bootstrap(known)


def bootstrap(sample: Sequence[float], seed: int = 0) -> Estimate:
    """Mean with the percentile bootstrap over episodes (Efron 1979), its percentiles widened for few of them as
    Student's t is wider than the normal distribution (Hesterberg 2015, "expanded percentile"). The interval is NaN
    where all values are the same: resampling them would claim certainty."""
    n = len(sample)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    held = np.asarray(sample, np.float64)
    centre = float(held.mean())
    if np.all(held == held[0]):
        return Estimate(centre, math.nan, math.nan, n)
    means = held[np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))].mean(axis=1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * math.sqrt(n / (n - 1))
    tail = 100 * float(stats.norm.sf(reach))
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(centre, float(low), float(high), n)


def difference(figure: Figure, first: Sequence[TrialResult], second: Sequence[TrialResult]) -> Difference:
    """Mean of second minus first over the states in which the figure is known of both, with its 95 % interval.

    The interval is NaN below LEAST_STATES, and where nothing varies, unless the figure is a share: there what an unseen
    state could change is bounded."""
    one = dict(zip([r.trial.state for r in first], values(figure, first), strict=True))
    two = dict(zip([r.trial.state for r in second], values(figure, second), strict=True))
    pairs = [(a, two[state]) for state, a in one.items() if a is not None and two.get(state) is not None]
    gaps = [float(b) - float(a) for a, b in pairs if b is not None]
    found = bootstrap(gaps)
    if len(gaps) < LEAST_STATES:
        return Difference(found.rate, math.nan, math.nan, found.trials)
    if figure.rate and len(set(gaps)) == 1:
        return statistics.paired([0.0] * len(gaps), gaps)
    return Difference(found.rate, found.low, found.high, found.trials)


def extreme(figure: Figure, results: Sequence[TrialResult], largest: bool) -> dict[str, Any] | None:
    """The worst value and its episode; None where the figure is known of none."""
    known = [
        (value, result) for value, result in zip(values(figure, results), results, strict=True) if value is not None
    ]
    if not known:
        return None
    value, result = (max if largest else min)(known, key=lambda pair: pair[0])
    return {"value": value, "episode_id": result.ended.episode_id, "item": result.trial.item}


def summary(plan: Plan, results: Sequence[TrialResult], total: int) -> dict[str, Any]:
    """What ``summary.json`` holds: plain JSON, null for what is unknown. ``total``: episodes that were asked for."""
    names = [policy.name for policy in plan.policies]
    sides = {name: [r for r in results if r.trial.policy == name] for name in names}
    items = [item.name for item in plan.items]
    return {
        "format": FORMAT,
        "suite": plan.suite,
        "suite_hash": plan.suite_hash,
        "robot": plan.robot,
        "base_hash": plan.base_hash,
        "profile": plan.profile or None,
        "seed": plan.seed,
        "temperature": plan.temperature,
        "episodes": len(results),
        "complete": len(results) == total,
        "items": {item.name: list(item.states) for item in plan.items},
        "policies": [{"name": p.name, "adapter_id": p.adapter_id, "path": p.path} for p in plan.policies],
        "figures": {name: figures(rows) for name, rows in sides.items()},
        "by_item": {
            item: {name: figures([r for r in rows if r.trial.item == item]) for name, rows in sides.items()}
            for item in items
        },
        "by_variant": {
            variant: {name: figures([r for r in rows if r.trial.variant == variant]) for name, rows in sides.items()}
            for variant in dict.fromkeys(item.variant for item in plan.items)
        },
        "vetoes_by_check": {name: checks(rows) for name, rows in sides.items()},
        "extremes": {
            name: {
                "clearance": extreme(_named("clearance"), rows, largest=False),
                "collision_force": extreme(_named("collision_force"), rows, largest=True),
                "force": extreme(_named("force"), rows, largest=True),
                "vetoes": extreme(_named("vetoes"), rows, largest=True),
            }
            for name, rows in sides.items()
        },
        "end_reasons": {name: dict(Counter(r.ended.end_reason for r in rows)) for name, rows in sides.items()},
        "differences": {name: differences(sides[names[0]], sides[name]) for name in names[1:]},
        "unknown": [f.name for f in FIGURES if not any(estimate(f, rows).trials for rows in sides.values())],
        "worst": [
            {
                "episode_id": r.ended.episode_id,
                "item": r.trial.item,
                "initial_state": r.trial.initial_state,
                "policy": r.trial.policy,
                "bag": r.ended.bag,
                "why": why(r),
            }
            for r in worst(results)
        ],
    }


def figures(results: Sequence[TrialResult]) -> dict[str, dict[str, Any]]:
    """{name: {rate, low, high, trials, unit}}; ``rate`` is the mean for what is no share."""
    return {f.name: {**_plain(estimate(f, results).as_dict()), "unit": f.unit} for f in FIGURES}


def differences(first: Sequence[TrialResult], second: Sequence[TrialResult]) -> dict[str, dict[str, Any]]:
    """{name: {difference, low, high, trials, beyond_noise, unit}}: second minus first on the same states."""
    return {f.name: {**_plain(difference(f, first, second).as_dict()), "unit": f.unit} for f in FIGURES}


def checks(results: Sequence[TrialResult]) -> dict[str, int]:
    """Vetoed steps by the check that vetoed them, most first."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.measures.checks)
    return dict(total.most_common())


def worst(results: Sequence[TrialResult], count: int = 4) -> list[TrialResult]:
    """Episodes worth looking at, the worst first: collisions by force, stops, then the closest, then most vetoes."""

    def rank(result: TrialResult) -> tuple[float, ...]:
        m = result.measures
        clearance = math.inf if m.clearance is None else m.clearance
        return (
            float(result.ended.collision == 1),
            m.collision_force or 0.0,
            float(bool(m.stopped)),
            -clearance,
            float(m.vetoed or 0),
        )

    notable = [r for r in results if r.ended.collision == 1 or r.measures.stopped or r.measures.vetoed]
    return sorted(notable, key=rank, reverse=True)[:count]


def why(result: TrialResult) -> str:
    """One line on what was bad in an episode."""
    m, said = result.measures, []
    if result.ended.collision == 1:
        force = "" if m.collision_force is None else f" with up to {m.collision_force:.1f} N"
        said.append(f"{'at least 1 collision' if m.collisions is None else _number(m.collisions, 'collision')}{force}")
    if m.stopped:
        said.append("the gate stopped")
    if m.clearance is not None:
        said.append(f"least clearance {1000 * m.clearance:.0f} mm")
    if m.vetoed:
        by_check = ", ".join(f"{name} {n}" for name, n in m.checks.items())
        said.append(f"{_number(m.vetoed, 'vetoed step')} ({by_check})")
    return "; ".join([*said, f"ended: {result.ended.end_reason}"])


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def in_words(plan: Plan, results: Sequence[TrialResult]) -> list[str]:
    """What the figures say, a sentence each; noise is called noise."""
    first = plan.policies[0]
    rows = [r for r in results if r.trial.policy == first.name]
    said = []
    for name, what in (("collision", "collided"), ("vetoed_episode", "had steps refused")):
        found = estimate(_named(name), rows)
        if found.trials:
            share = f"{100 * found.rate:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"
            said.append(f"{first.name}: {share} of {found.trials} episodes {what}.")
        else:
            said.append(f"{first.name}: unknown whether episodes {what}.")
    for policy in plan.policies[1:]:
        others = [r for r in results if r.trial.policy == policy.name]
        for name, what in (("collision", "Collisions"), ("success", "Success")):
            gap = difference(_named(name), rows, others)
            pair = f"{what} of {policy.name} against {first.name}"
            few = gap.trials and math.isnan(gap.low)
            said.append(
                f"{pair}: too few states to tell ({100 * gap.difference:+.1f} points, {gap.trials} paired states)."
                if few
                else statistics.in_words(gap, pair)
            )
    return said


def _named(name: str) -> Figure:
    return next(figure for figure in FIGURES if figure.name == name)


def _plain(cells: Mapping[str, Any]) -> dict[str, Any]:
    """NaN is no JSON: null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in cells.items()}
