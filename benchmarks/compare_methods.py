"""What the methods make of the same rollouts: SFT, filtered BC, success-only pairs, step-wise DPO, TPO as printed, TPO.

    python benchmarks/compare_methods.py --out runs/comparison

Rollouts of the base model are collected once, in worlds of this machine's processes, in lock-step. Each method learns
from them by its own pairs, as grape_trainer defines them, for the same number of updates, once a training seed. Then
every policy is tried, greedy, on the same fresh states. No adapter is promoted and no canary is asked.

What was finished is kept in OUT, bag by bag, checkpoint by checkpoint, trial by trial: the same command goes on, and
with more --seeds or --states it adds to what is there. Writes OUT/comparison.json and prints it, with the wall time by
phase, as one JSON object; exits 0 when the comparison is complete: it states figures, not a measure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import _paths
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from grape import console
from grape.compare import Comparison, Tell
from grape.compare_plan import Plan, read_arms
from grape.workers import WorldWorkers
from grape.world_rig import WorldRig
from grape_sim.tasks import SIM_TASKS
from grape_trainer.run_training import in_own_process


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--out", type=Path, default=_paths.ROOT / "runs/comparison", help="an unfinished one goes on")
    parser.add_argument("--seeds", type=int, default=3, help="training runs of each method")
    parser.add_argument("--rollout-states", type=int, default=16, help="initial states a task that are learnt from")
    parser.add_argument("--rollouts", type=int, default=4, help="rollouts of each of them")
    parser.add_argument("--temperature", type=float, default=1.0, help="at which they are drawn")
    parser.add_argument("--variant", default="clean", help="of the world, for rollouts and trials")
    parser.add_argument("--updates", type=int, default=30, help="of every training run")
    parser.add_argument("--states", type=int, default=50, help="fresh initial states a task that policies are tried on")
    parser.add_argument("--first-state", type=int, default=0, help="id of the first of them")
    parser.add_argument("--workers", type=int, default=0, help="processes at a time; 0: one a core")
    parser.add_argument("--preset", default="default", help="of all methods but TPO as printed")
    parser.add_argument("--arms", type=Path, help="YAML file of the policies to compare instead")
    parser.add_argument("--policy", action="append", default=[], help="only this one, e.g. 'TPO balanced'; repeatable")
    parser.add_argument("--set", type=json.loads, default={}, help="settings of every preset, a JSON object")
    return parser.parse_args()


def show(found: dict) -> None:
    """The rows and what is said of the differences, on stderr."""
    grid = Table(title="greedy, 95 % intervals", title_justify="left", box=None)
    for name in ("policy", "success, %", "collision, %", "steps", "trials"):
        grid.add_column(name, justify="left" if name == "policy" else "right")
    for row in found["rows"]:
        rates = [row[name] for name in ("success", "collision")]
        cells = [f"{100 * r['rate']:.1f} ({100 * r['low']:.1f} to {100 * r['high']:.1f})" for r in rates]
        grid.add_row(row["policy"], *cells, f"{row['steps']['rate']:.1f}", str(row["success"]["trials"]))
    console.errors.print(grid)
    for difference in found["differences"]:
        console.errors.print(difference["words"], soft_wrap=True)


@contextmanager
def progress() -> Iterator[Tell]:
    """A bar a phase on stderr; where that is no terminal, a line at each tenth."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    words = TextColumn("{task.fields[said]}")
    rows: dict[str, TaskID] = {}
    tenths: dict[str, int] = {}
    live = console.errors.is_terminal
    with Progress(*columns, TimeRemainingColumn(), words, console=console.errors, disable=not live) as bar:

        def tell(phase: str, done: int, total: int, said: str) -> None:
            if phase not in rows:
                rows[phase] = bar.add_task(phase, said="")
            bar.update(rows[phase], completed=done, total=total, said=said[:60])
            if not live and tenths.get(phase) != (tenth := 10 * done // max(1, total)):
                tenths[phase] = tenth
                console.errors.print(f"{phase} {done}/{total}  {said}", soft_wrap=True)

        yield tell


def main(told: argparse.Namespace) -> None:
    workers = told.workers or len(os.sched_getaffinity(0))
    plan = Plan(
        model=told.model,
        out=told.out,
        tasks=tuple(SIM_TASKS),
        seeds=told.seeds,
        rollout_states=told.rollout_states,
        rollouts=told.rollouts,
        updates=told.updates,
        states=told.states,
        workers=workers,
        preset=told.preset,
        overrides=told.set,
        names=tuple(told.policy),
        arms=read_arms(told.arms) if told.arms else (),
        first_state=told.first_state,
        temperature=told.temperature,
        variant=told.variant,
    )
    with progress() as tell:
        comparison = Comparison(
            plan,
            lambda bags: WorldRig(plan.model, bags, workers),
            WorldWorkers(plan.model, workers),
            in_own_process,
            tell,
        )
        found = comparison.run()
    show(found)
    print(json.dumps({**found, "seconds": comparison.seconds, "workers": workers}))


if __name__ == "__main__":
    asked = options()
    sys.exit(console.guarded(lambda: main(asked)))
