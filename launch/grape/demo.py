"""``grape demo``: the whole loop over real ROS topics in simulation, with figures and a report.

Phases, each resumable by itself: collect, score, pair, train and swap (the align loop over two lock-step stacks of
nodes), a live swap on a real-time stack, the evaluation of both policies on the same fresh states, the report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grape import align, assess, console, demo_report, evaluation, live_swap
from grape.paths import root
from grape.workers import WorldWorkers
from grape_episode import statistics
from grape_sim.tasks import SIM_TASKS
from grape_trainer.loop import AlignConfig, AlignResult
from grape_trainer.registry import Registry
from grape_trainer.settings import settings


@dataclass(frozen=True)
class DemoPlan:
    """Sizes of the demo. ``states``: initial states a task to collect from; ``trials``: fresh states a task to
    evaluate both policies on; ``canary``: states a task that a new adapter must pass, with a ``bound`` so wide that so
    few states catch a collapse and nothing finer (`grape align` asks for more); ``stacks``: of nodes."""

    states: int = 8
    rollouts: int = 4
    trials: int = 25
    canary: int = 10
    bound: float = 0.25
    stacks: int = 2
    updates: int = 0
    seed: int = 0


QUICK = DemoPlan(states=1, rollouts=2, trials=1, canary=0, stacks=1, updates=2)


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


def run_demo(out: Path, model: Path, quick: bool = False) -> dict[str, Any]:
    """Run the demo into the folder ``out``; returns what ``out/summary.json`` holds.

    An interrupted demo in the same folder goes on; a finished one is shown again. Raises DemoError where the folder
    holds a demo of another model or plan."""
    plan = QUICK if quick else DemoPlan()
    out.mkdir(parents=True, exist_ok=True)
    _own(out, model, plan)
    tasks = tuple(SIM_TASKS)
    say = console.console.print
    say(f"demo of {model.name}: {len(tasks)} tasks x {plan.states} states x {plan.rollouts} rollouts, into {out}")

    begun = time.monotonic()
    config = AlignConfig(
        model=model,
        registry=out / "adapters",
        folder=out / "align",
        tasks=tasks,
        states=plan.states,
        rollouts=plan.rollouts,
        variant="clean",
        seed=plan.seed,
        settings=settings("recommended", seed=plan.seed, **({"max_updates": plan.updates} if plan.updates else {})),
    )
    judge = align.CanaryPlan(tasks, plan.canary, plan.bound)
    with align.ros_rigs(model, config.registry, config.folder, plan.stacks) as rig:
        up = time.monotonic() - begun
        result = align.run(config, rig, judge)
    say(f"align: {result.reason}")
    adapter = _trained(result, Registry(config.registry))

    begun = time.monotonic()
    say("live swap: a running real-time stack changes its adapter in the middle of an episode")
    swap = _kept(out / "swap.json", lambda: live_swap.measure(model, adapter, out))
    swap_seconds = time.monotonic() - begun

    begun = time.monotonic()
    sides = ["", str(adapter)] if adapter else [""]
    jobs = evaluation.grid(tasks, range(plan.trials), sides, "clean", plan.seed, 0.0)
    with console.progress("evaluating SFT and aligned") as bar:
        results = evaluation.run(jobs, WorldWorkers(model), out / "evaluation.jsonl", bar)
    evaluate = time.monotonic() - begun

    sft = [r for r in results if r.job.adapter == sides[0]]
    aligned = [r for r in results if r.job.adapter == sides[-1]]
    metrics = evaluation.compare(sft, aligned)
    spent = _phases(result)
    summary: dict[str, Any] = {
        "sft": evaluation.summary(sft),
        "aligned": evaluation.summary(aligned),
        "paired": metrics["success"]["paired"],
        "paired_all": {name: cells["paired"] for name, cells in metrics.items()},
        "pairs": sum(int(i.get("pairs", 0)) for i in result.iterations),
        "swap": swap,
        "seconds": {
            "setup": round(_setup_seconds() + up, 1),
            "collect": spent.get("collect", 0.0),
            "score": round(spent.get("score", 0.0) + spent.get("pair", 0.0), 3),
            "train": spent.get("train", 0.0),
            "swap": round(spent.get("swap", 0.0) + swap_seconds, 3),
            "evaluate": round(evaluate, 3),
        },
        "changed": result.changed,
        "adapter": result.adapter_id,
        "reason": result.reason,
        "agreement": evaluation.agreement(results),
        "plan": asdict(plan),
    }
    summary["words"] = words(summary, result)
    _write(out / "summary.json", summary)
    assess.show({"": sft} | ({sides[-1]: aligned} if adapter else {}))
    for sentence in summary["words"]:
        say(sentence)
    report = demo_report.write(out, result, summary, metrics, sft, aligned)
    say(f"summary: {out / 'summary.json'}\nreport:  {report}")
    return summary


def words(summary: Mapping[str, Any], result: AlignResult) -> list[str]:
    """What the figures say, for people; noise is called noise."""
    said = []
    if not result.changed:
        said.append(f"The old policy was kept: {result.reason}. Both columns are the policy it was tried against.")
    for name, what in (("success", "Success"), ("collision", "Collisions")):
        said.append(statistics.in_words(assess.difference_of(summary["paired_all"][name]), what))
    steps = assess.difference_of(summary["paired_all"]["steps"])
    said.append(statistics.in_words(steps, "Steps an episode", points=False))
    swap = summary["swap"]
    said.append(
        f"Live swap: {swap['lost_ticks']} lost control ticks in {swap['steps']} steps with "
        f"{swap['swaps_within_episodes']} swaps in the middle of an episode."
    )
    return said


def _trained(result: AlignResult, registry: Registry) -> Path | None:
    """The adapter to evaluate: what was trained last, even where the canary kept it from serving."""
    for iteration in reversed(result.iterations):
        if iteration.get("adapter_trained"):
            return registry.path(iteration["adapter_trained"]).resolve()
    return None


def _phases(result: AlignResult) -> dict[str, float]:
    """Seconds by phase over all iterations."""
    spent: dict[str, float] = {}
    for iteration in result.iterations:
        for phase, seconds in iteration.get("seconds", {}).items():
            spent[phase] = round(spent.get(phase, 0.0) + seconds, 3)
    return spent


def _setup_seconds() -> float:
    """What the last `make setup` that did something took, 0 where it left no note."""
    note = root() / ".setup" / "seconds.json"
    try:
        return float(json.loads(note.read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _own(out: Path, model: Path, plan: DemoPlan) -> None:
    from grape_policy.checkpoint import base_hash

    mine = {"model": base_hash(model), "plan": asdict(plan)}
    mark = out / "demo.json"
    if mark.exists() and json.loads(mark.read_text()) != mine:
        raise DemoError(f"{out}: holds a demo of another model or size; remove it or give another --out")
    _write(mark, mine)


def _kept(path: Path, work) -> dict[str, Any]:
    """The JSON at ``path``, made by ``work`` where it is not there."""
    if not path.exists():
        _write(path, work())
    return json.loads(path.read_text())


def _write(path: Path, data: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
