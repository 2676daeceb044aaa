"""What an adapter must show before it may serve: preferences it has not seen, nearness to the reference, a canary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grape_trainer.errors import SettingsError

Z = 1.959963984540054
"""Of the 95 % interval."""


@dataclass(frozen=True)
class Bounds:
    """``accuracy``: held-out preference accuracy, refused where the upper end of its 95 % interval lies below;
    ``kl``: KL(policy, reference) on held-out steps, nats a step, refused above. 0: no such bound."""

    accuracy: float = 0.5
    kl: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise SettingsError(f"gate accuracy: must be in [0, 1], not {self.accuracy}")
        if not self.kl >= 0:
            raise SettingsError(f"gate kl: must be at least 0, not {self.kl}")


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a new adapter. ``figures`` and ``checks`` go into the manifest."""

    accepted: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)
    checks: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "checks": list(self.checks)}


def judge(metrics: Mapping[str, Any], held_pairs: int, probed: int, bounds: Bounds, canary: Verdict | None) -> Verdict:
    """The gate's verdict. ``metrics``: those of the adapter's manifest, ``metrics["check"]`` the last look at what
    training has not seen; ``held_pairs``: pairs held out, of which at most ``probed`` entered the accuracy; ``canary``:
    None where no world is at hand.

    Accepted where no check fails; what could not be measured is said and does not fail."""
    found = metrics.get("check") or {}
    checks = [_accuracy(found, min(held_pairs, probed), bounds), _kl(found, bounds)]
    if canary is None:
        checks.append(_check("canary", None, "no canary: no world at hand"))
    else:
        checks.append(_check("canary", canary.accepted, canary.reason, **canary.figures))
    failed = [check for check in checks if check["passed"] is False]
    shown = failed or checks
    reason = "; ".join(check["words"].rstrip(".") for check in shown)
    return Verdict(not failed, reason, dict(canary.figures) if canary else {}, tuple(checks))


def _accuracy(found: Mapping[str, Any], pairs: int, bounds: Bounds) -> dict[str, Any]:
    name, value = "held-out preference accuracy", found.get("accuracy")
    if value is None or not pairs:
        return _check(name, None, f"{name} not measured: no pair was held out")
    low, high = wilson(float(value) * pairs, pairs)
    words = f"{name} {100 * value:.0f} % of {pairs} pairs (95 % interval {100 * low:.0f} to {100 * high:.0f})"
    passed = None if not bounds.accuracy else bool(high >= bounds.accuracy)
    if passed is False:
        words += f", below {100 * bounds.accuracy:.0f} %"
    return _check(name, passed, words, value=value, low=low, high=high, pairs=pairs, bound=bounds.accuracy)


def _kl(found: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    name, value = "KL to the reference", found.get("kl")
    if value is None or not found.get("kl_steps"):
        return _check(name, None, f"{name} not measured: no step was held out")
    # NaN fails
    passed = None if not bounds.kl else bool(value <= bounds.kl)
    words = f"{name} {value:.4f} nats a step"
    if passed is False:
        words += f", above {bounds.kl:g}"
    return _check(name, passed, words, value=value, steps=found["kl_steps"], bound=bounds.kl)


def _check(name: str, passed: bool | None, words: str, **figures: Any) -> dict[str, Any]:
    return {"name": name, "passed": passed, "words": words, "figures": figures}


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of a proportion, 95 %."""
    share, z2 = successes / trials, Z * Z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)
