"""How much faster is an evaluation on worlds with several processes, and does it find the same?

    python benchmarks/eval_speedup.py [--workers N] [--states N] [--suite NAME]

Rolls the base model out, greedy, from the first states of every item of a suite, with one worker and with several, in
this order: a start of either alone (a step each), the jobs with several, the jobs with one. Prints one JSON object:
``ratio`` is of the whole times, start included, as a user of ``grape eval`` waits; ``ratio_running`` of what is left
without the start, which a long evaluation comes near to. Measure: every trial ends the same, to the hash of its tokens;
exit 1 where one does not. Times mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _paths

from grape.evaluation import Job, Result, Runner
from grape.suites import load_suite
from grape.workers import WorldWorkers
from grape.worlds import Plan, Policy, jobs

SUITE = "tuning_in_domain"


def timed(runner: Runner, wanted: Sequence[Job]) -> tuple[float, dict[str, Result]]:
    """Seconds until all is there, and the results by their job's key."""
    began = time.monotonic()
    found = {result.job.key: result for result in runner.run(wanted)}
    return time.monotonic() - began, found


def differing(one: dict[str, Result], many: dict[str, Result]) -> list[str]:
    """The jobs that ended otherwise, or at one side only."""
    keys = sorted(one.keys() | many.keys())
    return [key for key in keys if one.get(key) != many.get(key)]


def measure(wanted: Sequence[Job], workers: int, runner: Callable[[int], Runner]) -> dict[str, Any]:
    """``runner``: gives one with so many workers. ``starting`` is the time of a step in each of them."""
    starts = {n: timed(runner(n), [replace(job, step_limit=1) for job in wanted[:n]])[0] for n in (1, workers)}
    several, many = timed(runner(workers), wanted)
    alone, one = timed(runner(1), wanted)
    running = alone - starts[1], several - starts[workers]
    return {
        "rollouts": len(wanted),
        "steps": sum(result.steps for result in one.values()),
        "seconds": {"one": round(alone, 2), "several": round(several, 2)},
        "starting": {"one": round(starts[1], 2), "several": round(starts[workers], 2)},
        "ratio": round(alone / several, 3),
        # on a busy machine a start may take longer than all the rest: then there is nothing to say
        "ratio_running": round(running[0] / running[1], 3) if min(running) > 0 else None,
        "differing": differing(one, many),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--suite", default=SUITE, help="a suite of worlds")
    parser.add_argument("--states", type=int, default=2, help="initial states of every item")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes, at least 2")
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("--workers: at least 2 are needed to compare with one")
    plan = Plan((load_suite(options.suite),), (Policy("base", ("",)),), (0.0,), options.states)
    found = measure(jobs(plan), options.workers, lambda workers: WorldWorkers(options.model, workers))
    ok = not found["differing"]
    cores = len(os.sched_getaffinity(0))
    told = {"benchmark": "eval_speedup", "suite": options.suite, "cores": cores, "workers": options.workers}
    print(json.dumps({**told, **found, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
