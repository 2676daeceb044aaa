"""``grape eval``: policies on the same initial states, a table on the terminal, JSON and an HTML report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grape import charts, console, evaluation, report
from grape.evaluation import EvaluationError, Result
from grape.workers import WorldWorkers
from grape_episode import statistics


def label(adapter: str) -> str:
    """How a policy is called in tables: the base model is the policy as supervised fine-tuning left it."""
    if not adapter:
        return "SFT"
    from grape_policy.adapters import AdapterError, read_manifest

    try:
        return f"adapter {read_manifest(Path(adapter)).adapter_id[:12]}"
    except AdapterError:
        return f"adapter {Path(adapter).name[:12]}"


def assess(
    model: Path,
    adapters: Sequence[str],
    tasks: Sequence[str],
    states: Sequence[int],
    variant: str,
    seed: int,
    temperature: float,
    workers: int,
    out: Path,
) -> dict[str, Any]:
    """Evaluate; the first of ``adapters`` is what the others are compared with. Results go to ``out/results.jsonl``
    as they come, the figures to ``out/summary.json``, and to ``out/report.html`` where there are two policies.

    Raises EvaluationError where the folder holds an evaluation of another model."""
    own(out, model)
    jobs = evaluation.grid(tasks, states, adapters, variant, seed, temperature)
    with console.progress("evaluating") as progress:
        results = evaluation.run(jobs, WorldWorkers(model, workers), out / "results.jsonl", progress)
    sides = {adapter: [r for r in results if r.job.adapter == adapter] for adapter in adapters}
    summary: dict[str, Any] = {
        "model": Path(model).name,
        "variant": variant,
        "temperature": temperature,
        "policies": {label(adapter): evaluation.summary(rows) for adapter, rows in sides.items()},
        "agreement of success_reward with success_world": evaluation.agreement(results),
        "differences": {},
    }
    show(sides)
    for adapter in adapters[1:]:
        metrics = evaluation.compare(sides[adapters[0]], sides[adapter])
        gap = metrics["success"]["paired"]
        words = statistics.in_words(difference_of(gap), f"success of {label(adapter)} against {label(adapters[0])}")
        console.console.print(words)
        summary["differences"][label(adapter)] = {name: cells["paired"] for name, cells in metrics.items()}
        write_report(out / "report.html", (adapters[0], adapter), sides, metrics, [words], summary)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def own(out: Path, model: Path) -> None:
    """Mark a run's folder as this model's. Raises EvaluationError where it is another model's."""
    from grape_policy.checkpoint import base_hash

    out.mkdir(parents=True, exist_ok=True)
    mark, mine = out / "model.txt", base_hash(Path(model))
    if mark.exists() and mark.read_text().strip() != mine:
        raise EvaluationError(f"{out}: holds a run of another model ({mark.read_text()[:12]}); give another --out")
    mark.write_text(mine + "\n")


def difference_of(cells: dict[str, Any]) -> statistics.Difference:
    """The record behind ``Difference.as_dict()``."""
    return statistics.Difference(**{name: cells[name] for name in ("difference", "low", "high", "trials")})


def show(sides: dict[str, list[Result]]) -> None:
    """The table on the terminal."""
    rows = []
    for adapter, results in sides.items():
        figures = evaluation.summary(results)
        cells = [label(adapter)]
        for name in ("success", "grasp", "collision"):
            f = figures[name]
            cells.append(f"{100 * f['rate']:.1f} % ({100 * f['low']:.1f} to {100 * f['high']:.1f})")
        steps = figures["steps"]
        rows.append([*cells, f"{steps['rate']:.1f} ({steps['low']:.1f} to {steps['high']:.1f})", str(len(results))])
    console.table("evaluation, 95 % intervals", ["policy", "success", "grasp", "collision", "steps", "trials"], rows)


def success_by_task(first: Sequence[Result], second: Sequence[Result], names: tuple[str, str]) -> report.Chart:
    """The chart of success a task."""
    one, two = evaluation.by_task(first), evaluation.by_task(second)
    groups = {
        task: (evaluation.summary(one[task])["success"], evaluation.summary(two[task])["success"]) for task in one
    }
    return report.Chart("Success by task", "Whiskers: 95 % intervals (Wilson).", svg=charts.rates(groups, names))


def write_report(
    path: Path,
    pair: tuple[str, str],
    sides: dict[str, list[Result]],
    metrics: dict[str, Any],
    words: list[str],
    facts: dict[str, Any],
) -> None:
    """The HTML report of a comparison of two policies."""
    names = (label(pair[0]), label(pair[1]))
    told = {name: json.dumps(value) for name, value in facts.items() if not isinstance(value, dict)}
    report.write(
        report.Report(
            title="Evaluation",
            subtitle=f"{names[1]} against {names[0]} on {len(sides[pair[0]])} initial states",
            words=words,
            names=names,
            metrics=metrics,
            figures=[success_by_task(sides[pair[0]], sides[pair[1]], names)],
            facts=told,
        ),
        path,
    )
