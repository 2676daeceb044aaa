"""What the align loop is told and what it tells."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape_trainer.errors import SettingsError
from grape_trainer.gate import Bounds, Verdict
from grape_trainer.settings import Settings


@dataclass(frozen=True)
class AlignConfig:
    """One run of the loop. ``model``: checkpoint folder of the policy that the rig serves; ``folder``: of the run,
    an unfinished one in it is gone on with; initial states are ``first_state`` on, others in each iteration. ``gate``:
    what a new adapter must show; ``bags``: the rollouts of the only iteration, where they were collected elsewhere."""

    model: Path
    registry: Path
    folder: Path
    tasks: tuple[str, ...]
    iterations: int = 1
    states: int = 8
    rollouts: int = 4
    first_state: int = 100_000
    objective: str = "task_completion"
    variant: str = ""
    temperature: float = 1.0
    step_limit: int = 0
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    gate: Bounds = field(default_factory=Bounds)
    bags: tuple[str, ...] = ()
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    in_process: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        if self.settings.method == "sft":
            raise SettingsError("setting method: sft learns from demonstrations, not from rollouts: use grape train")
        if not self.tasks and not self.bags:
            raise SettingsError("tasks: at least one task must be given")
        if self.bags and self.iterations != 1:
            raise SettingsError(f"iterations: bags are for one iteration, not {self.iterations}")
        for name, least in (
            ("iterations", 1),
            ("states", 1),
            ("rollouts", 2),
            ("first_state", 0),
            ("threads", 0),
            ("processes", 1),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"{name}: must be at least {least}, not {getattr(self, name)}")

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the result."""
        told = dataclasses.asdict(self)
        for name in ("folder", "registry", "in_process", "processes", "threads", "device"):
            del told[name]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Progress:
    """``fraction`` of the phase, 0 to 1."""

    iteration: int
    phase: str
    fraction: float
    message: str


@dataclass(frozen=True)
class AlignResult:
    """``adapter_id`` serves at the end (empty: the base model); ``changed``: another one than at the start."""

    changed: bool
    adapter_id: str
    reason: str
    folder: Path
    iterations: tuple[dict[str, Any], ...]


Canary = Callable[[Path], Verdict]
"""Judges an adapter's folder before it is swapped in. It may load it into the rig: the loop loads what serves."""
