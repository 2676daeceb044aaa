"""`grape costs`: check, evaluate, show and list cost programs. None is ever run as Python."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from grape.console import CommandError, console

if TYPE_CHECKING:
    from grape_reward.costs import CostProgram
    from grape_reward.errors import ProgramError

app = typer.Typer(help="Cost programs: what a task's rollouts are scored by.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="File of a cost program, or the name of a shipped one.")]
Keypoints = Annotated[
    int | None,
    typer.Option(
        "--keypoints", min=1, max=64, help="K: how many keypoints there are. Default: the task file's; else any."
    ),
]


@app.command()
def check(
    file: File,
    keypoints: Keypoints = None,
    repair: Annotated[
        Path | None,
        typer.Option("--repair", help="Write the repaired program to this new file instead of printing it."),
    ] = None,
) -> None:
    """Say whether a cost program can be used, and if not, where and why.

    Where a task.yaml beside it names it as its program, the task's keypoints are held against it.

    For a text that lost its indentation, print it repaired: grape costs check FILE > REPAIRED"""
    from grape_reward.errors import ProgramError
    from grape_reward.program.compiler import compile_program, read_text, repaired

    path = known(file)
    keypoints = keypoints or task_keypoints(path)
    text = read_text(path)
    try:
        program = compile_program(text, str(path), keypoints)
    except ProgramError as error:
        better = repaired(text, str(path), keypoints)
        if better is None:
            refuse(error)
        _report(error)
        if repair is None:
            print(better, end="" if better.endswith("\n") else "\n")
            print(f"grape: {path}: its indentation was lost; the repaired program stands above", file=sys.stderr)
        else:
            _write_new(repair, better)
            print(f"grape: {path}: its indentation was lost; {repair} is the repaired program", file=sys.stderr)
        raise typer.Exit(1) from None
    kinds = ", ".join(sorted({term.kind for term in program.terms}))
    counted = f"{len(program.stages)} stages, {len(program.terms)} constraints ({kinds})"
    console.print(f"{path}: {counted}, hash {program.hash}", markup=False, soft_wrap=True)


@app.command("eval")
def evaluate(
    file: File,
    inputs: Annotated[
        Path, typer.Option("--inputs", help="npz with end_effector (T, 3) and keypoints (T, K, 3), metres.")
    ],
    json: Annotated[str, typer.Option("--json", help="Where the JSON object goes; -: to the terminal.")] = "-",
) -> None:
    """Evaluate every constraint at every instant: one JSON object, function name to list of T costs."""
    from grape_reward.program.inputs import read_inputs

    end_effector, keypoints = read_inputs(inputs)
    costs = compiled(known(file), keypoints.shape[1]).evaluate_all(end_effector, keypoints)
    text = json_format.dumps({name: values.tolist() for name, values in costs.items()}, allow_nan=False)
    if json == "-":
        print(text)
    else:
        try:
            Path(json).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{json}: {error.strerror}") from None


@app.command()
def show(file: File, keypoints: Keypoints = None) -> None:
    """Show a cost program's stages and constraints, its hash, and the canonical text that the hash is taken of."""
    path = known(file)
    program = compiled(path, keypoints or task_keypoints(path))
    grid = Table(title=f"{program.name}: {len(program.stages)} stages", title_justify="left")
    grid.add_column("constraint", no_wrap=True)
    grid.add_column("in its author's words")
    for number, stage in enumerate(program.stages):
        if number:
            grid.add_section()
        for term in stage:
            grid.add_row(term.name, Text(term.function.summary))
    console.print(grid)
    console.print(f"hash {program.hash}, of this text:\n", markup=False, soft_wrap=True)
    console.print(program.canonical, markup=False, soft_wrap=True, end="")


@app.command("list")
def programs() -> None:
    """List the shipped cost programs, and who approved them."""
    from grape_reward.approvals import approved
    from grape_reward.program.shipped import shipped_names, shipped_path

    grid = Table(title="shipped cost programs", title_justify="left")
    for column in ("program", "constraints", "hash", "approved by"):
        grid.add_column(column, justify="right" if column == "constraints" else "left", no_wrap=column == "program")
    for name in shipped_names():
        path = shipped_path(name)
        program = compiled(path, None)
        approval = approved(path.parent, program.hash)
        who = approval.who if approval else "not approved"
        grid.add_row(name, str(len(program.terms)), program.hash[:12], Text(who))
    console.print(grid)


def known(file: Path) -> Path:
    """The file itself, or that of the shipped program of this name. Raises CommandError naming what is neither."""
    from grape_reward.program.shipped import shipped_names, shipped_path

    if file.exists():
        return file
    if str(file) in shipped_names():
        return shipped_path(str(file))
    raise CommandError(f"{file}: no such file, and no shipped program ({', '.join(shipped_names())})")


def task_keypoints(program: Path) -> int | None:
    """How many keypoints the task has whose file lies beside its program; None where there is none."""
    file = program.parent / "task.yaml"
    if not file.is_file():
        return None
    from grape_reward.errors import TaskError
    from grape_reward.yaml_file import read_yaml

    told = read_yaml(file, TaskError)
    if not isinstance(told, dict) or told.get("program") != program.name:
        return None
    return len(told["keypoints"]) if isinstance(told.get("keypoints"), list) else None


def compiled(path: Path, keypoints: int | None) -> CostProgram:
    """The compiled program; for a refused one every finding on a line of its own, and exit 1."""
    from grape_reward.errors import ProgramError
    from grape_reward.program.compiler import load_program

    try:
        return load_program(path, keypoints)
    except ProgramError as error:
        refuse(error)


def refuse(error: ProgramError) -> NoReturn:
    """Print the findings and end with exit code 1."""
    _report(error)
    raise typer.Exit(1)


def _report(error: ProgramError) -> None:
    for line in error.lines:
        print(f"grape: {line}", file=sys.stderr)


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
