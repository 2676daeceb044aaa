"""Which of the cheap figures of a training run tells how the policy will act?

    python benchmarks/instruments.py runs/search --first-state 70000 --states 25

Takes the training runs of a comparison that kept snapshots (setting `snapshots`), tries every snapshot greedy on the
same states, and sets its success, less that of the base model, beside the figures that its check wrote: KL to the
reference, entropy, drift of both sides, held-out accuracy and preference loss. What was tried is kept in
FOLDER/instruments.jsonl: the same command goes on.

Prints one JSON object: `snapshots`, a row each, and for every figure Spearman's rank correlation with the gain over all
snapshots that have it, with a 95 % interval by a bootstrap over training runs (snapshots of one run are alike).
Exits with 1 where there is no snapshot.
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
from grape_trainer.files import read_lines
from grape_trainer.result import SNAPSHOTS

FIGURES = ("kl", "kl_reverse", "entropy", "drift_chosen", "drift_rejected", "accuracy", "preference_loss", "margin")


def snapshots(folder: Path) -> list[dict[str, Any]]:
    """Of every run: its name, the update, the adapter's folder and the figures of its check."""
    found = []
    for run in sorted((folder / "train").iterdir()):
        checks = {line["update"]: line["check"] for line in read_lines(run / "metrics.jsonl") if "check" in line}
        for adapter in sorted((run / SNAPSHOTS).glob("*")):
            update = int(adapter.name)
            figures = {name: checks[update][name] for name in FIGURES if name in checks.get(update, {})}
            found.append({"run": run.name, "update": update, "adapter": str(adapter.resolve()), **figures})
    return found


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
    rows = snapshots(told.folder)
    if not rows:
        print(f"error: {told.folder}: no training run kept snapshots", file=sys.stderr)
        return 1
    states = range(told.first_state, told.first_state + told.states)
    sides = ["", *(row["adapter"] for row in rows)]
    jobs = [job for side in sides for job in evaluation.grid(tuple(SIM_TASKS), states, [side], "clean", 0, 0.0)]
    with console.progress("trials") as bar:
        results = evaluation.run(jobs, WorldWorkers(told.model, told.workers), told.folder / "instruments.jsonl", bar)
    rate = {side: float(np.mean([r.success for r in results if r.job.adapter == side])) for side in sides}
    for row in rows:
        row["success"], row["gain"] = rate[row["adapter"]], rate[row["adapter"]] - rate[""]
        row["adapter"] = Path(row["adapter"]).name
    found = {name: correlation(rows, name) for name in FIGURES}
    print(json.dumps({"base": rate[""], "trials": len(states) * len(SIM_TASKS), "figures": found, "snapshots": rows}))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of benchmarks/compare_methods.py")
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--first-state", type=int, default=70_000)
    parser.add_argument("--states", type=int, default=25, help="a task")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    sys.exit(main(parser.parse_args()))
