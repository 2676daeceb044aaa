"""``grape eval --suite NAME --policies A,B``: worlds in this machine's processes, a table, JSON and Parquet."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape import console, evaluation
from grape.assess import own
from grape.suites import load_suite
from grape.worlds import BASE, Plan, WorldsError, flat, jobs, read_policies, table
from grape_policy.adapters import read_adapter
from grape_policy.checkpoint import base_hash

RESULTS, TABLE, TRIALS = "results.jsonl", "table.json", "trials.parquet"


@dataclass(frozen=True)
class Request:
    """What is asked for, as the command line has it: ``suites``, ``policies`` and ``temperatures`` by comma; ``states``
    of every item, 0 for all; ``workers``: processes, 0 for one a core."""

    model: Path
    suites: str
    policies: str
    temperatures: str
    states: int
    seed: int
    workers: int
    out: Path


def evaluate_worlds(asked: Request) -> dict[str, Any]:
    """Run what the folder does not hold yet; the table. Raises WorldsError, SuiteError, AdapterError or
    EvaluationError naming what is wrong before anything is run."""
    plan = read_plan(asked)
    mine = base_hash(asked.model)
    for policy in plan.policies:
        for adapter in policy.adapters:
            if adapter:
                read_adapter(Path(adapter), mine)
    own(asked.out, asked.model)
    wanted = jobs(plan)
    began = time.monotonic()
    with console.progress("evaluating") as progress:
        from grape.workers import WorldWorkers

        results = evaluation.run(wanted, WorldWorkers(asked.model, asked.workers), asked.out / RESULTS, progress)
    told = {"model": asked.model.name, "base_hash": mine, **table(plan, results)}
    told["seconds"] = round(time.monotonic() - began, 1)
    (asked.out / TABLE).write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_trials(asked.out / TRIALS, flat(plan, results))
    show(told)
    console.console.print(f"{asked.out / TABLE}", markup=False)
    return told


def read_plan(asked: Request) -> Plan:
    """Raises WorldsError or SuiteError naming the option or the suite."""
    names = [name.strip() for name in asked.suites.split(",") if name.strip()]
    if not names:
        raise WorldsError("--suite: at least one is needed")
    suites = tuple(load_suite(name) for name in names)
    if twice := next((suite.name for suite in suites if [s.name for s in suites].count(suite.name) > 1), ""):
        raise WorldsError(f"--suite: {twice} is given twice")
    for suite in suites:
        for item in suite.items:
            if "sim" not in item.tags or item.instruction:
                raise WorldsError(f"{suite.source}: item {item.name}: only for an evaluation over topics")
    policies, temperatures = read_policies(asked.policies or BASE), _temperatures(asked.temperatures)
    plan = Plan(suites, policies, temperatures, asked.states, asked.seed)
    for suite in suites:
        plan.items(suite)
    return plan


def _temperatures(words: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in words.split(","))
    except ValueError:
        raise WorldsError(f"--temperatures: {words!r}: numbers by comma are needed") from None
    if any(not 0.0 <= one < 100.0 for one in found) or len(set(found)) < len(found):
        raise WorldsError(f"--temperatures: {words!r}: from 0 to 100, each once")
    return found


def write_trials(path: Path, rows: list[dict[str, Any]]) -> None:
    """A row a trial as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


def show(told: dict[str, Any]) -> None:
    """The tables on the terminal."""
    for suite in told["suites"]:
        rows = []
        for row in told["rows"]:
            if row["suite"] == suite:
                cells = [f"{row['policy']}, {row['decoding']}"]
                for name in ("success", "grasp", "collision"):
                    f = row[name]
                    cells.append(f"{100 * f['rate']:.1f} % ({100 * f['low']:.1f} to {100 * f['high']:.1f})")
                steps = row["success_steps"]["rate"]
                rows.append([*cells, "-" if steps is None else f"{steps:.1f}", str(row["success"]["trials"])])
        columns = ["policy", "success", "grasp", "collision", "steps of successes", "trials"]
        console.table(f"{suite}, 95 % intervals", columns, rows)
    for gap in told["differences"]:
        console.console.print(f"{gap['suite']}, {gap['decoding']}: {gap['words']}", markup=False)
