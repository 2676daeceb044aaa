"""``grape eval --suite``: a safety evaluation on nodes that are up, or on a stack of its own in lock-step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape import console, domains
from grape.paths import known_model, root
from grape.safety_figures import FIGURES
from grape.safety_plan import BASE
from grape.safety_run import SafetyError
from grape.suites import load_suite, select
from grape.up import Stack, StackConfig, StackError

NODES = ("sim", "gate", "reward", "recorder", "policy", "evaluate")
SHOWN = ("success", "collision", "vetoed_episode", "gate_stop", "clearance", "force", "vetoes", "steps")
STACK_DOMAINS = (60, 99)


@dataclass(frozen=True)
class Request:
    """What the command was asked for. ``domain``: None for a stack of its own; ``out``: None for runs/safety/SUITE."""

    suite: str
    items: tuple[str, ...]
    states: int
    first_state: int
    adapters: tuple[str, ...]
    seed: int
    temperature: float
    out: Path | None
    model: Path
    registry: Path
    profile: str
    domain: int | None


def run_suite(asked: Request) -> dict[str, Any]:
    """Run it, show the figures; the summary. Raises SuiteError, SafetyError, StackError or NoAnswerError."""
    suite = load_suite(asked.suite)
    if asked.domain is None:
        select(suite, "sim", asked.items)  # what is wrong is said before anything starts
    out = (asked.out or root() / "runs" / "safety" / suite.name).expanduser().absolute()
    goal = {
        "suite": suite.source,
        "items": list(asked.items),
        "states": asked.states,
        "first_state": asked.first_state,
        "adapters": [_absolute(name) for name in asked.adapters],
        "seed": asked.seed,
        "temperature": asked.temperature,
        "record": True,
        "out": str(out),
    }
    with ExitStack() as held:
        domain, check = asked.domain, _nothing
        if domain is None:
            domain = held.enter_context(domains.reserve(*STACK_DOMAINS))
            console.console.print(f"starting {', '.join(NODES)} in ROS domain {domain}; logs in {out / 'logs'}")
            check = _watch(held.enter_context(Stack(_stack(asked, out, domain))))
        from grape.ros import evaluate

        with console.progress(f"suite {suite.name}") as bar:
            result = evaluate(domain, goal, bar, check)
    told = json.loads(result.summary)
    if "problem" in told:
        raise SafetyError(told["problem"])
    show(told)
    console.console.print(f"summary: {out / 'summary.json'}\nreport:  {result.report}")
    return told


def show(told: Mapping[str, Any]) -> None:
    """The table on the terminal."""
    names = [policy["name"] for policy in told["policies"]]
    rows = []
    for figure in FIGURES:
        if figure.name in SHOWN:
            rows.append([figure.title, *(_cell(told["figures"][name][figure.name], figure.rate) for name in names)])
    console.table(f"suite {told['suite']}: {told['episodes']} episodes, 95 % intervals", ["figure", *names], rows)


def _cell(cells: Mapping[str, Any], rate: bool) -> str:
    if not cells["trials"]:
        return "unknown"
    scale, unit = (100.0, " %") if rate else (1000.0, " mm") if cells["unit"] == "m" else (1.0, "")
    shown = f"{scale * cells['rate']:.1f}{unit}"
    return shown if cells["low"] is None else f"{shown} ({scale * cells['low']:.1f} to {scale * cells['high']:.1f})"


def _stack(asked: Request, out: Path, domain: int) -> StackConfig:
    return StackConfig(
        domain=domain,
        log_dir=out / "logs",
        lock_step=True,
        model=known_model(asked.model),
        registry=asked.registry.expanduser().absolute(),
        episodes_root=out / "episodes",
        nodes=NODES,
        profile=asked.profile,
    )


def _watch(stack: Stack) -> Callable[[], None]:
    def check() -> None:
        if problem := stack.failed():
            raise StackError(problem)

    return check


def _nothing() -> None:
    """Nodes that others have started are not watched."""


def _absolute(name: str) -> str:
    """A folder by its whole path, for a node with another working folder; names as they are."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if name not in BASE and folder.is_dir() else name
