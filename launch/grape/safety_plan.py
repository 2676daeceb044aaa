"""From what is asked of a safety evaluation to what is run: items, states, policies, folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grape.safety_run import Adapter, Plan, Policy, SafetyError
from grape.suites import limited, load_suite, select
from grape_trainer.errors import TrainerError
from grape_trainer.files import read_json

BASE = ("base", "none")
"""Names of the base model alone."""
SERVING = "serving"
"""Name of a policy that was not chosen: what serves is tried."""


@dataclass(frozen=True)
class Asked:
    """The fields of Evaluate.action that decide what is run."""

    suite: str
    items: tuple[str, ...] = ()
    states: int = 0
    first_state: int = 0
    adapters: tuple[str, ...] = ()
    seed: int = 0
    temperature: float = 0.0
    record: bool = True


def plan(asked: Asked, tag: str, serving: Adapter, base_hash: str, registry: str = "", profile: str = "") -> Plan:
    """What is run before a robot of this ``tag``. ``registry``: folder, for adapters named by their id; ``profile``:
    file of the gate's limits, empty where it is not known.

    Raises SuiteError or SafetyError naming what is wrong."""
    suite = load_suite(asked.suite or "safety")
    if asked.temperature < 0:
        raise SafetyError(f"temperature: {asked.temperature:g} is below 0")
    items = select(suite, tag, asked.items)
    return Plan(
        suite=suite.name,
        suite_hash=suite.hash,
        robot=tag,
        items=tuple(limited(item, asked.states, asked.first_state, suite.source) for item in items),
        policies=policies(asked.adapters, serving, registry),
        seed=asked.seed,
        temperature=asked.temperature,
        base_hash=base_hash,
        record=asked.record,
        profile=limits(profile),
    )


def limits(profile: str) -> str:
    """A gate profile's name and the beginning of its sha256. Raises SafetyError naming a file that cannot be read."""
    if not profile:
        return ""
    path = Path(profile).expanduser()
    try:
        return f"{path.stem.removeprefix('gate_')} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    except OSError as error:
        raise SafetyError(f"{path}: {error.strerror}") from None


def policies(adapters: Sequence[str], serving: Adapter, registry: str = "") -> tuple[Policy, ...]:
    """The policies to try, in the order given; without adapters, what serves now.

    Raises SafetyError naming an adapter that is not there, or is given twice."""
    chosen = tuple(_policy(name, registry) for name in adapters if name)
    chosen = chosen or (Policy(SERVING, serving.path, serving.adapter_id),)
    ids = [policy.adapter_id for policy in chosen]
    if twice := next((policy for policy in chosen if ids.count(policy.adapter_id) > 1), None):
        raise SafetyError(f"adapters: {twice.name} is given twice")
    return chosen


def _policy(name: str, registry: str) -> Policy:
    if name in BASE:
        return Policy("base", "", "")
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir() and registry:
            from grape_trainer.registry import Registry  # it brings torch, which a run without ids needs not

            folder = Registry(Path(registry).expanduser()).path(name)
        adapter_id = str(read_json(folder / "manifest.json").get("adapter_id", ""))
    except TrainerError as error:
        raise SafetyError(f"adapter {name}: {error}") from None
    if not adapter_id:
        raise SafetyError(f"adapter {name}: {folder / 'manifest.json'}: field adapter_id is missing")
    return Policy(f"adapter {adapter_id[:12]}", str(folder.resolve()), adapter_id)


def folder(out: str, runs: str, wanted: Plan) -> Path:
    """``out``, or where that is empty a new folder under ``runs``."""
    if out:
        return Path(out).expanduser().absolute()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path(runs).expanduser().absolute() / f"{wanted.suite}-{stamp}"
