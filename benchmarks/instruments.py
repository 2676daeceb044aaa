"""Which of the cheap figures of a training run tells how the policy will act?

    python benchmarks/instruments.py runs/table_a runs/search --kept
    python benchmarks/instruments.py runs/search --first-state 70000 --states 25

With --kept it takes the finished training runs of comparisons, the figures of the check whose adapter each kept, and
the trials that the comparison made of it: nothing is rolled out. Without, it takes the runs of one comparison that kept
snapshots (setting `snapshots`) and tries every snapshot greedy on the same states; what was tried is kept in
FOLDER/instruments.jsonl, and the same command goes on. Success, less that of the base model in the same states, is set
beside the figures that the check wrote: KL to the reference, entropy, drift of both sides, held-out accuracy,
preference loss and margin, and by how much the supervised loss fell since the run's first check.

Prints one JSON object: `snapshots`, a row each, and for every figure Spearman's rank correlation with the gain over all
of them that have it, with a 95 % interval by a bootstrap over training runs (snapshots of one run are alike).
Exits with 1 where there is nothing to set beside each other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _paths
import numpy as np
from scipy.stats import spearmanr

from grape import console, evaluation
from grape.workers import WorldWorkers
from grape_sim.tasks import SIM_TASKS
from grape_trainer.errors import TrainingError
from grape_trainer.files import read_json, read_lines
from grape_trainer.result import SNAPSHOTS

CHECKED = ("kl", "kl_reverse", "entropy", "drift_chosen", "drift_rejected", "accuracy", "preference_loss", "margin")
FELL = "supervised_loss_fell"
FIGURES = (*CHECKED, FELL)


def checks_of(run: Path) -> dict[int, dict[str, Any]]:
    """The checks of a training run by their updates."""
    return {line["update"]: line["check"] for line in read_lines(run / "metrics.jsonl") if "check" in line}


def figures_of(run: Path, checks: dict[int, dict[str, Any]], update: int) -> dict[str, Any]:
    """Name of the run, update, and the figures of the check at that update, as far as it has them."""
    check, first = checks.get(update, {}), checks[min(checks)] if checks else {}
    figures = {name: check[name] for name in CHECKED if name in check}
    if "supervised_loss" in check and update > min(checks):
        figures[FELL] = first["supervised_loss"] - check["supervised_loss"]
    return {"run": f"{run.parents[1].name}/{run.name}", "update": update, **figures}


def snapshots(folder: Path) -> list[dict[str, Any]]:
    """Of every run its snapshots: the adapter's folder and the figures of its check."""
    return [
        {**figures_of(run, checks, int(adapter.name)), "adapter": str(adapter.resolve())}
        for run in sorted((folder / "train").iterdir())
        for checks in [checks_of(run)]
        for adapter in sorted((run / SNAPSHOTS).glob("*"))
    ]


def kept(folder: Path) -> list[dict[str, Any]]:
    """Of every finished run that the comparison has tried: the figures of the check it kept, success and gain."""
    greedy = [trial for trial in evaluation.read_results(folder / "trials.jsonl") if trial.job.temperature == 0]
    base = {_where(trial): trial.success for trial in greedy if not trial.job.adapter}
    rows = []
    for result in sorted((folder / "train").glob("*/result.json")):
        run = result.parent
        own = [t for t in greedy if t.job.adapter and Path(t.job.adapter).parent.name == run.name]
        known = [trial for trial in own if _where(trial) in base]
        if known:
            success, before = (
                float(np.mean(side)) for side in ([t.success for t in known], [base[_where(t)] for t in known])
            )
            told = figures_of(run, checks_of(run), read_json(result, TrainingError)["kept_update"])
            rows.append({**told, "trials": len(known), "success": success, "gain": success - before})
    return rows


def _where(trial: evaluation.Result) -> tuple[str, str, int]:
    return trial.job.task, trial.job.variant, trial.job.initial_state


def spearman(one: Sequence[float], two: Sequence[float]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN where one side does not vary."""
    if not (np.ptp(one) and np.ptp(two)):
        return float("nan")
    return float(spearmanr(one, two).statistic)


def correlation(rows: Sequence[dict[str, Any]], figure: str, resamples: int = 2000) -> dict[str, Any]:
    """Of ``figure`` with ``gain``; the interval draws training runs."""
    known = [row for row in rows if figure in row]
    runs = sorted({row["run"] for row in known})
    by_run = [[row for row in known if row["run"] == run] for run in runs]
    whole = spearman([row[figure] for row in known], [row["gain"] for row in known]) if known else float("nan")
    random, drawn = np.random.default_rng(0), []
    for _ in range(resamples if len(runs) > 1 else 0):
        some = [row for i in random.integers(len(runs), size=len(runs)) for row in by_run[i]]
        drawn.append(spearman([row[figure] for row in some], [row["gain"] for row in some]))
    finite = [value for value in drawn if np.isfinite(value)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (None, None)
    return {"spearman": whole if np.isfinite(whole) else None, "low": low, "high": high, "snapshots": len(known)}


def main(told: argparse.Namespace) -> int:
    if told.kept:
        rows = [row for folder in told.folder for row in kept(folder)]
    else:
        rows = tried(told, told.folder[0]) if len(told.folder) == 1 else []
    if not rows:
        wanted = "finished run with trials" if told.kept else "training run kept snapshots; one folder at a time"
        print(f"error: {', '.join(map(str, told.folder))}: no {wanted}", file=sys.stderr)
        return 1
    print(json.dumps({"figures": {name: correlation(rows, name) for name in FIGURES}, "snapshots": rows}))
    return 0


def tried(told: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The snapshots of a folder with their success, after what is missing was rolled out."""
    rows = snapshots(folder)
    if not rows:
        return []
    states = range(told.first_state, told.first_state + told.states)
    sides = ["", *(row["adapter"] for row in rows)]
    jobs = [job for side in sides for job in evaluation.grid(tuple(SIM_TASKS), states, [side], "clean", 0, 0.0)]
    with console.progress("trials") as bar:
        results = evaluation.run(jobs, WorldWorkers(told.model, told.workers), folder / "instruments.jsonl", bar)
    rate = {side: float(np.mean([r.success for r in results if r.job.adapter == side])) for side in sides}
    for row in rows:
        row["success"], row["gain"] = rate[row["adapter"]], rate[row["adapter"]] - rate[""]
        row["adapter"], row["trials"] = Path(row["adapter"]).name, len(states) * len(SIM_TASKS)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+", help="of benchmarks/compare_methods.py")
    parser.add_argument("--kept", action="store_true", help="the runs' own adapters and trials, nothing new")
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--first-state", type=int, default=70_000)
    parser.add_argument("--states", type=int, default=25, help="a task")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    sys.exit(main(parser.parse_args()))
