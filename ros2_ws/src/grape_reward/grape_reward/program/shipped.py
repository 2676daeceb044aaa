"""The cost programs of the shipped tasks: text in the paper's format, compiled like anybody's."""

from __future__ import annotations

from pathlib import Path

from grape_reward.costs import CostProgram
from grape_reward.errors import CostError
from grape_reward.program.compiler import load_program

FOLDER = Path(__file__).resolve().parents[1] / "tasks"
PROGRAM = "program.txt"


def shipped_names() -> tuple[str, ...]:
    """The names of the shipped programs, sorted."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{PROGRAM}")))


def shipped_path(name: str) -> Path:
    """The file of the shipped program of that name. Raises CostError listing those there are."""
    if name not in shipped_names():
        raise CostError(f"no cost program {name!r} is shipped: there are {', '.join(shipped_names())}")
    return FOLDER / name / PROGRAM


def shipped_program(name: str) -> CostProgram:
    """The shipped program of that name. Raises CostError listing those there are."""
    return load_program(shipped_path(name))
