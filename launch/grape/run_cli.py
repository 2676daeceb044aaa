"""``grape run``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run_command(
    instruction: Annotated[str, typer.Argument(help='What the robot should do, e.g. "put the carrot on the plate".')],
    task: Annotated[str, typer.Option(help="Task that rewards it. Default: the one with this instruction.")] = "",
    tasks: Annotated[
        Path | None, typer.Option(help="Folder of task folders of your own; the shipped tasks come after them.")
    ] = None,
    state: Annotated[int, typer.Option(min=0, help="Initial-state id.")] = 0,
    variant: Annotated[str, typer.Option(help="Variant of the world.")] = "clean",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    record: Annotated[bool, typer.Option(help="Record a bag.")] = True,
    demonstration: Annotated[
        bool,
        typer.Option("--demonstrate", "--demonstration", help="A person drives by teleop; the policy decides nothing."),
    ] = False,
    steps: Annotated[
        int, typer.Option(min=0, help="Control periods after which it ends; 0: the policy node's own limit.")
    ] = 0,
    domain: Annotated[int, typer.Option("--domain", min=0, max=101, help="ROS domain of the nodes.")] = 0,
) -> None:
    """Run one episode on the nodes that are up."""
    from grape.serve import run_once, task_of

    goal = {
        "task": task_of(instruction, task, tasks),
        "instruction": instruction,
        "variant": variant,
        "initial_state": state,
        "seed": seed,
        "temperature": temperature,
        "record": record,
        "demonstration": demonstration,
        "step_limit": steps,
    }
    run_once(goal, domain)
