"""``grape eval --suite NAME --policies A,B``: worlds in this machine's processes, a table, JSON, Parquet and HTML."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape import console, evaluation, worlds_film, worlds_report
from grape.assess import own
from grape.evaluation import Result
from grape.suites import load_suite
from grape.worlds import BASE, Plan, WorldsError, flat, jobs, read_policies, table
from grape_policy.adapters import read_adapter
from grape_policy.checkpoint import base_hash

RESULTS, TABLE, TRIALS, FILM = "results.jsonl", "table.json", "trials.parquet", "film"


@dataclass(frozen=True)
class Request:
    """What is asked for, as the command line has it: ``suites``, ``policies`` and ``temperatures`` by comma; ``states``
    of every item, 0 for all; ``workers``: processes, 0 for one a core; ``film``: whether the report has strips."""

    model: Path
    suites: str
    policies: str
    temperatures: str
    states: int
    seed: int
    workers: int
    out: Path
    film: bool = True


def evaluate_worlds(asked: Request) -> dict[str, Any]:
    """Run what the folder does not hold yet, and write table, trials and report of all that was asked for; the table.

    Raises WorldsError, SuiteError, AdapterError or EvaluationError naming what is wrong before anything is run."""
    plan = read_plan(asked)
    mine = base_hash(asked.model)
    served = {
        adapter: read_adapter(Path(adapter), mine).manifest.adapter_id
        for policy in plan.policies
        for adapter in policy.adapters
        if adapter
    }
    own(asked.out, asked.model)
    held = evaluation.read_results(asked.out / RESULTS)
    same_adapters(held, served, asked.out / RESULTS)
    wanted = jobs(plan)
    new = len({job.key for job in wanted} - {result.job.key for result in held})
    began = time.monotonic()
    with console.progress("evaluating") as progress:
        from grape.workers import WorldWorkers

        results = evaluation.run(wanted, WorldWorkers(asked.model, asked.workers), asked.out / RESULTS, progress)
    told = {"model": asked.model.name, "base_hash": mine, **table(plan, results)}
    told["seconds"] = round(time.monotonic() - began, 1)
    (asked.out / TABLE).write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_trials(asked.out / TRIALS, flat(plan, results))
    show(told)
    facts = {"this run": f"{new:,} new rollouts in {told['seconds']:.0f} s", "command": command(asked)}
    path = worlds_report.write(asked.out, told, plan, results, films(asked, plan, results), facts)
    for written in (asked.out / TABLE, path):
        console.console.print(f"{written}", markup=False, soft_wrap=True)
    return told


def films(asked: Request, plan: Plan, results: Sequence[Result]) -> list[worlds_film.Film]:
    """The report's film strips: those that are not kept from an earlier run are rolled out again."""
    if not asked.film:
        return []

    def start() -> worlds_film.Repeats:
        from grape.closed_loop import ClosedLoop

        return loops.enter_context(ClosedLoop(asked.model))

    with ExitStack() as loops, console.progress("filming") as progress:
        return worlds_film.films(worlds_film.cells(plan, results), asked.out / FILM, start, progress)


def same_adapters(held: Sequence[Result], served: Mapping[str, str], path: Path) -> None:
    """Raises WorldsError where ``path`` holds trials of another adapter from a folder of ``served`` (folder -> id)."""
    for result in held:
        now = served.get(result.job.adapter, "")
        if now and result.adapter_id and result.adapter_id != now:
            raise WorldsError(
                f"{path}: {result.job.adapter} was tried as adapter {result.adapter_id[:12]} and is now {now[:12]}: "
                "give another --out"
            )


def command(asked: Request) -> str:
    """The command that was given, with every option that decides what is run."""
    words = ["grape", "eval", "--model", str(asked.model), "--suite", asked.suites]
    words += ["--policies", asked.policies or BASE, "--temperatures", asked.temperatures, "--seed", str(asked.seed)]
    if asked.states:
        words += ["--states", str(asked.states)]
    return shlex.join([*words, "--out", str(asked.out)])


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
