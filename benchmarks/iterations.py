"""Table (c) of docs/results.md: what every further iteration of the loop adds.

    python benchmarks/iterations.py --out runs/table_c --iterations 5 --seeds 1

Runs `grape align` for K iterations without topics, canary and gate (what a gate would have stopped is to be seen), once
a seed, each iteration on initial states of its own, sampled by the policy that the one before left. Then the base model
and the adapter after every iteration are tried on the same reporting states by `grape eval --suite in_domain`. Both
commands go on where they were, and so does this one.

Prints one JSON object: `rows` and `differences` as OUT/eval/table.json has them, and of every run the `successes` among
each iteration's rollouts and `ended`, what the loop said at its end. It states figures, not a measure; exits with 1
where no iteration left an adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _paths

from grape_trainer.iteration import IterationFiles
from grape_trainer.loop import STATE

GRAPE = (sys.executable, "-m", "grape.cli")


def grape(*arguments: object) -> None:
    """Run the command with its output on stderr. Raises CalledProcessError where it fails."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*GRAPE, *map(str, arguments)], check=True, stdout=sys.stderr, env=env)


def align(told: argparse.Namespace, seed: int) -> Path:
    """The folder of the run with this seed, after all its iterations."""
    folder = told.out / f"seed_{seed}"
    grape(
        "align", "--model", told.model, "--out", folder, "--registry", folder / "adapters", "--stacks", 0,
        "--iterations", told.iterations, "--states", told.rollout_states, "--temperature", told.temperature,
        "--preset", told.preset, "--method", told.method, "--seed", seed,
        "--canary", 0, "--gate-accuracy", 0, "--gate-kl", 0,
    )  # fmt: skip
    return folder


def policies(folders: Sequence[Path], iterations: int) -> list[str]:
    """`K1=FOLDER+FOLDER` and so on, as far as every run has an adapter of that iteration."""
    named = []
    for number in range(1, iterations + 1):
        adapters = [IterationFiles(folder, number).train_folder / "adapter" for folder in folders]
        if not all(adapter.is_dir() for adapter in adapters):
            break
        named.append(f"K{number}=" + "+".join(map(str, adapters)))
    return named


def ending(folder: Path) -> dict[str, Any]:
    """Successes among the rollouts of every iteration, and why the loop ended."""
    told = json.loads((folder / STATE).read_text(encoding="utf-8"))
    counts = [[entry.get("successes"), entry.get("episodes")] for entry in told["iterations"]]
    return {"successes": counts, "ended": told["reason"]}


def main(told: argparse.Namespace) -> int:
    folders = [align(told, seed) for seed in range(told.seeds)]
    named = policies(folders, told.iterations)
    if not named:
        print(f"error: {told.out}: no iteration left an adapter", file=sys.stderr)
        return 1
    grape(
        "eval", "--model", told.model, "--suite", "in_domain", "--policies", ",".join(["base", *named]),
        "--temperatures", told.temperatures, "--states", told.states, "--no-film", "--out", told.out / "eval",
    )  # fmt: skip
    table = json.loads((told.out / "eval/table.json").read_text(encoding="utf-8"))
    found = {name: table[name] for name in ("rows", "differences")}
    print(json.dumps({**found, "runs": [ending(folder) for folder in folders]}))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--out", type=Path, default=_paths.ROOT / "runs/table_c", help="an unfinished one goes on")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1, help="runs of the loop")
    parser.add_argument("--rollout-states", type=int, default=48, help="initial states a task and iteration")
    parser.add_argument("--temperature", type=float, default=1.0, help="at which rollouts are drawn")
    parser.add_argument("--preset", default="recommended")
    parser.add_argument("--method", default="tpo", help="e.g. filtered_bc")
    parser.add_argument("--states", type=int, default=50, help="reporting states a task")
    parser.add_argument("--temperatures", default="0", help="of the trials, by comma; 0: greedy")
    sys.exit(main(parser.parse_args()))
