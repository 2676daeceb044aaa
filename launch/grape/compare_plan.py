"""What is compared: the policies, each a method with settings, and the budget that they share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from grape.compare_table import SFT
from grape_policy.checkpoint import base_hash
from grape_reward.spec import DEFAULT_OBJECTIVE, OBJECTIVES
from grape_trainer.errors import SettingsError
from grape_trainer.settings import Settings, settings

FIRST_ROLLOUT_STATE = 100_000
"""Initial-state ids of the rollouts are from here on; those of the trials lie below."""


class CompareError(Exception):
    """A comparison cannot be run; the text names what is wrong."""


@dataclass(frozen=True)
class Policy:
    """What is trained: a name for the tables, a method and a preset of grape_trainer, ``overrides`` of the preset, and
    the ``objective`` that rollouts are scored towards."""

    name: str
    method: str
    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    objective: str = DEFAULT_OBJECTIVE

    @property
    def slug(self) -> str:
        """The name as part of a path."""
        return re.sub(r"[^a-z0-9.+-]+", "_", self.name.lower())

    @property
    def pairs_file(self) -> str:
        """Policies whose pairs are chosen alike share a file."""
        own = any(
            name in self.overrides for name in ("ranking", "m", "lambdas", "balance", "min_margin", "equal_success")
        )
        return f"pairs_{self.slug if own or self.objective != DEFAULT_OBJECTIVE else self.preset}.json"


def policies(preset: str = "default") -> tuple[Policy, ...]:
    """What is compared with SFT. All but TPO as printed share ``preset``, so that they differ in method alone; the last
    is the one that the others are set against."""
    return (
        Policy("filtered BC", "filtered_bc", preset),
        Policy("success-only pairs", "success_only", preset),
        Policy("step-wise DPO", "step_dpo", preset),
        Policy("TPO paper", "tpo", "paper"),
        Policy("TPO balanced" if preset == "default" else f"TPO {preset}", "tpo", preset),
    )


def read_arms(path: Path) -> tuple[Policy, ...]:
    """Policies from a YAML list of {name, method, preset, set, objective}, all but the name optional.

    Raises CompareError naming the file and the entry."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CompareError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise CompareError(f"{path}: expected a list of policies")
    arms: list[Policy] = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise CompareError(f"{where}: expected a policy with a name")
        unknown = set(entry) - {"name", "method", "preset", "set", "objective"}
        if unknown or not isinstance(entry.get("set", {}), dict):
            raise CompareError(f"{where} ({entry['name']}): {', '.join(sorted(unknown)) or 'set'} is not understood")
        arm = Policy(
            entry["name"],
            entry.get("method", "tpo"),
            entry.get("preset", "default"),
            entry.get("set", {}),
            entry.get("objective", DEFAULT_OBJECTIVE),
        )
        if arm.name == SFT or arm.slug in (other.slug for other in arms):
            raise CompareError(f"{where}: a second policy {arm.name!r}")
        if arm.objective not in OBJECTIVES:
            raise CompareError(f"{where} ({arm.name}): objective {arm.objective!r}: one of {', '.join(OBJECTIVES)}")
        try:
            settings(arm.preset, **{**arm.overrides, "method": arm.method})
        except SettingsError as error:
            raise CompareError(f"{where} ({arm.name}): {error}") from None
        arms.append(arm)
    return tuple(arms)


@dataclass(frozen=True)
class Plan:
    """``rollout_states``: initial states a task, with ``rollouts`` each; ``updates``: of every training run, ``seeds``
    runs a policy; ``states``: trials a task, policy and seed; ``workers``: training runs at a time. ``preset``: see
    :func:`policies`; ``arms``: other policies instead of those; ``names``: of the policies wanted, empty: all;
    ``overrides``: of every preset; ``first_state``: of the trials; ``temperature``: of the rollouts; ``variant``: of
    the world, for rollouts and trials."""

    model: Path
    out: Path
    tasks: tuple[str, ...]
    seeds: int = 3
    rollout_states: int = 16
    rollouts: int = 4
    updates: int = 30
    states: int = 50
    workers: int = 1
    preset: str = "default"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    arms: tuple[Policy, ...] = ()
    first_state: int = 0
    temperature: float = 1.0
    variant: str = "clean"

    def __post_init__(self) -> None:
        known = [policy.name for policy in self.arms or policies(self.preset)]
        for name in self.names:
            if name not in known:
                raise CompareError(f"no policy {name!r} to compare; there are {', '.join(known)}")
        for name in ("seeds", "rollout_states", "rollouts", "updates", "states", "workers"):
            least = 2 if name == "rollouts" else 1
            if getattr(self, name) < least:
                raise CompareError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        if self.preset == "paper":
            raise CompareError("preset: TPO with preset paper is compared in any case; give another one for the rest")
        if not 0 <= self.first_state <= FIRST_ROLLOUT_STATE - self.states:
            raise CompareError(
                f"states: must end before {FIRST_ROLLOUT_STATE}: from there on are those of the rollouts"
            )

    @property
    def policies(self) -> tuple[Policy, ...]:
        known = self.arms or policies(self.preset)
        return tuple(policy for policy in known if not self.names or policy.name in self.names)

    def told(self, policy: Policy, seed: int) -> Settings:
        """The settings of one training run: the preset's, with the shared budget of updates."""
        # as many epochs as updates: enough whatever an epoch gives
        budget = {"max_updates": self.updates, "epochs": self.updates}
        own = {**self.overrides, **budget, **policy.overrides}
        return settings(policy.preset, **{**own, "method": policy.method, "seed": seed})

    @property
    def trial_states(self) -> range:
        return range(self.first_state, self.first_state + self.states)

    @property
    def fixed(self) -> dict[str, Any]:
        """What a folder is held to. More seeds, states or policies may be asked of a folder that is there."""
        names = ("rollout_states", "rollouts", "temperature", "variant", "updates", "preset")
        return {
            "base_hash": base_hash(self.model),
            "tasks": list(self.tasks),
            **{name: getattr(self, name) for name in names},
            "overrides": dict(self.overrides),
        }
