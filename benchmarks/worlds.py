"""Is every world of the suites solvable? A scripted expert, which sees the true state, tries them.

    python benchmarks/worlds.py [--states N] [--suite NAME ...] [--workers N]

Prints one JSON object as its last line: success of the expert by suite, kind and task with Wilson's interval, over the
first N states of every item of the suites for tuning (the ids for reporting stay untouched). Measure: the expert
succeeds in at least ``--measure`` of every suite; exit 1 where it does not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence

import _paths  # noqa: F401

from grape.suites import limited, load_suite
from grape.worlds import IN_DOMAIN, UNSEEN_SUITES
from grape_episode import statistics
from grape_sim.demos import demonstrate
from grape_sim.world import World, WorldConfig

SUITES = tuple(f"tuning_{name}" for name in (IN_DOMAIN, *UNSEEN_SUITES, "avoidance"))
Trial = tuple[str, str, str, int]
"""suite, task, variant, initial state"""


def trials(suites: Sequence[str], states: int) -> list[Trial]:
    """The first states of every item; the suites in turn, so that a part of the list speaks of all."""
    found = []
    for name in suites:
        for item in load_suite(name).items:
            found += [(name, item.task, item.variant, state) for state in limited(item, states).states]
    return sorted(found, key=lambda trial: trial[3] % 1000)


def attempt(share: Sequence[Trial]) -> list[dict]:
    """The expert's tries; nobody looks at the pictures, so they are small."""
    rows = []
    with World(WorldConfig(image_size=8)) as world:
        for suite, task, variant, state in share:
            began = time.perf_counter()
            shown = demonstrate(world, task, variant, state)
            rows.append({
                "suite": suite, "task": task, "kind": world.scene.kind, "state": state, "success": shown.success,
                "collision": shown.collision, "mistaken": world.judge.mistaken, "steps": len(shown.actions),
                "seconds": time.perf_counter() - began,
            })  # fmt: skip
    return rows


def share_of(rows: Sequence[dict], field: str, **only: str) -> dict:
    chosen = [row[field] for row in rows if all(row[name] == value for name, value in only.items())]
    return statistics.proportion(chosen).as_dict()


def figures(rows: Sequence[dict], suites: Sequence[str]) -> dict:
    """By suite: success, collision and mistakes, and success by kind and by task."""
    found = {}
    for suite in suites:
        own = [row for row in rows if row["suite"] == suite]
        found[suite] = {
            "success": share_of(own, "success"),
            "collision": share_of(own, "collision"),
            "mistaken": share_of(own, "mistaken"),
            "kinds": {kind: share_of(own, "success", kind=kind) for kind in sorted({r["kind"] for r in own} - {""})},
            "tasks": {task: share_of(own, "success", task=task) for task in sorted({r["task"] for r in own})},
            "failures": [f"{r['task']} {r['state']} {r['kind']}".strip() for r in own if not r["success"]],
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="The scripted expert's success in every suite's worlds.")
    parser.add_argument("--states", type=int, default=12, help="initial states of every item, at most 50")
    parser.add_argument("--suite", action="append", choices=SUITES, help="default: all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--measure", type=float, default=0.9, help="least success of a suite")
    options = parser.parse_args()
    suites, began = tuple(options.suite or SUITES), time.perf_counter()
    wanted = trials(suites, options.states)
    shares = [wanted[worker :: options.workers] for worker in range(options.workers)]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        rows = [row for part in pool.map(attempt, [share for share in shares if share], 1) for row in part]
    found = figures(rows, suites)
    seconds = time.perf_counter() - began
    missed = [s for s in suites if found[s]["success"]["rate"] < options.measure]
    print(json.dumps({
        "benchmark": "worlds", "states": options.states, "workers": options.workers, "seconds": round(seconds, 1),
        "episodes": len(rows), "suites": found, "measure": options.measure, "missed": missed,
    }))  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
