"""`grape tasks`: the tasks there are, and whether a task file can be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from grape.console import CommandError, console, table
from grape.score_cli import TasksFolder

app = typer.Typer(help="Tasks: stages, success, and the numbers of their costs.", no_args_is_help=True)


@app.command("list")
def tasks_list(tasks: TasksFolder = None) -> None:
    """List the tasks, and whether their cost programs are approved. Exit 1 where one cannot be used."""
    from grape_reward.errors import RewardError
    from grape_reward.tasks import library

    known, rows, wrong = library(tasks), [], []
    for name in known:
        try:
            task, approved = known.cleared(name, unapproved=True)
        except RewardError as error:
            wrong.append(str(error))
            continue
        rows.append(
            [name, str(len(task.stages)), "yes" if approved else "no", task.program_hash[:12], task.task_hash[:12]]
        )
    table("tasks", ["task", "stages", "approved", "program", "task file"], rows)
    for line in wrong:
        print(f"grape: {line}", file=sys.stderr)
    if wrong:
        raise CommandError(f"{len(wrong)} of {len(known)} tasks cannot be used")


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="A task's folder, or its task.yaml.")]) -> None:
    """Say whether a task can be used, and if not, which field of its file is wrong."""
    from grape_reward.task_file import load_task

    task = load_task(folder)
    console.print(f"{task.name}: {task.instruction}", markup=False)
    console.print(f"stages: {'; '.join(task.stages)}", markup=False)
    console.print(f"keypoints: {', '.join(task.keypoints)}{', then obstacles' if task.obstacles else ''}", markup=False)
    console.print(f"objectives: {', '.join(task.objectives)}", markup=False)
    rows = []
    for term in task.program.terms:
        numbers = task.constraints[term.name]
        rows.append([term.name, f"{numbers.tau:g}", f"{numbers.beta:g}", f"{numbers.worst:g}", numbers.over_time])
    table(f"constraints, program {task.program_hash[:12]}", ["constraint", "tau", "beta", "worst", "over time"], rows)
