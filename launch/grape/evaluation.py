"""Evaluation: the same initial states for every policy, results kept as they come, figures with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from grape_episode import statistics


class EvaluationError(Exception):
    """An evaluation cannot be run or read; the text names what is wrong."""


REWARD, WORLD = "reward", "world"


@dataclass(frozen=True)
class Job:
    """One rollout to run. ``adapter``: folder of a LoRA adapter, or empty for the base model alone. ``ends_by``: whose
    success ends it, the REWARD's or the WORLD's; ``step_limit``: 0 for the task's own."""

    task: str
    variant: str
    initial_state: int
    seed: int
    temperature: float
    adapter: str
    ends_by: str = REWARD
    step_limit: int = 0

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Result:
    """How a job ended. ``success``, ``grasp``, ``collision`` are the world's judgement, and so is ``mistaken``: the
    wrong one of two candidates was taken. ``reward_success`` is the reward node's (1, 0, -1 unknown)."""

    job: Job
    success: bool
    grasp: bool
    collision: bool
    steps: int
    reward_success: int
    end_reason: str
    tokens_hash: str = ""
    adapter_id: str = ""
    bag: str = ""
    mistaken: bool = False


class Runner(Protocol):
    """Something that runs jobs: worlds in this machine's processes, or stacks of ROS nodes."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Results in any order, as they come."""


Progress = Callable[[int, int, str], None]


def grid(
    tasks: Sequence[str],
    states: Iterable[int],
    adapters: Sequence[str],
    variant: str,
    seed: int,
    temperature: float,
) -> list[Job]:
    """Every task x state x adapter; the adapters of one state share its seed."""
    return [
        Job(task, variant, state, seed + state, temperature, adapter)
        for state in states
        for task in tasks
        for adapter in adapters
    ]


def read_results(path: Path) -> list[Result]:
    """Results of a JSONL file; a last line that was cut off is left out. Missing file: none."""
    if not path.exists():
        return []
    results = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            results.append(Result(**{**row, "job": Job(**row["job"])}))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no newline behind it: the write was cut off
                continue
            raise EvaluationError(f"{path}: line {number} is no result of an evaluation ({error})") from None
    return results


def run(jobs: Sequence[Job], runner: Runner, path: Path, progress: Progress | None = None) -> list[Result]:
    """Run the jobs that ``path`` (JSONL) does not hold yet; append each result; return all, in the jobs' order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {result.job.key: result for result in read_results(path)}
    todo = [job for job in jobs if job.key not in done]
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        path.write_text("".join(json.dumps(asdict(result)) + "\n" for result in done.values()), encoding="utf-8")
    finished = len(jobs) - len(todo)
    with path.open("a", encoding="utf-8") as out:
        for result in runner.run(todo) if todo else ():
            out.write(json.dumps(asdict(result)) + "\n")
            out.flush()
            done[result.job.key] = result
            finished += 1
            if progress:
                progress(finished, len(jobs), f"{result.job.task} {result.job.initial_state}: {result.end_reason}")
    missing = [job for job in jobs if job.key not in done]
    if missing:
        raise EvaluationError(f"{path}: {len(missing)} of {len(jobs)} rollouts gave no result, the first {missing[0]}")
    return [done[job.key] for job in jobs]


def summary(results: Sequence[Result]) -> dict[str, dict[str, float | int]]:
    """Figure name -> estimate with its interval, of one policy."""
    return {
        "success": statistics.proportion([r.success for r in results]).as_dict(),
        "grasp": statistics.proportion([r.grasp for r in results]).as_dict(),
        "collision": statistics.proportion([r.collision for r in results]).as_dict(),
        "steps": statistics.mean([float(r.steps) for r in results]).as_dict(),
        "success steps": statistics.mean([float(r.steps) for r in results if r.success]).as_dict(),
    }


def compare(first: Sequence[Result], second: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Figure name -> {first, second, paired}; the states are matched by (task, variant, initial state, seed).

    ``success steps`` compares the states in which both sides succeed. Raises EvaluationError where the two sides
    were not run from the same states."""

    def by_state(results: Sequence[Result]) -> dict[str, Result]:
        return {replace(r.job, adapter="").key: r for r in results}

    one, two = by_state(first), by_state(second)
    if one.keys() != two.keys():
        raise EvaluationError(f"the two sides share only {len(one.keys() & two.keys())} of {len(one)} initial states")
    states = list(one)
    both = [s for s in states if one[s].success and two[s].success]
    read: dict[str, tuple[Callable[[Result], float], list[str]]] = {
        "success": (lambda r: float(r.success), states),
        "grasp": (lambda r: float(r.grasp), states),
        "collision": (lambda r: float(r.collision), states),
        "steps": (lambda r: float(r.steps), states),
        "success steps": (lambda r: float(r.steps), both),
    }
    left, right = summary(first), summary(second)
    return {
        name: {
            "first": left[name],
            "second": right[name],
            "paired": statistics.paired([value(one[s]) for s in keys], [value(two[s]) for s in keys]).as_dict(),
        }
        for name, (value, keys) in read.items()
    }


def agreement(results: Sequence[Result]) -> dict[str, float | int]:
    """How often the reward node's success is the world's, where it decided at all."""
    decided = [r for r in results if r.reward_success >= 0]
    return statistics.proportion([bool(r.reward_success) == r.success for r in decided]).as_dict()


def by_task(results: Sequence[Result]) -> Mapping[str, list[Result]]:
    """Results grouped by task, in order of first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.job.task, []).append(result)
    return groups
