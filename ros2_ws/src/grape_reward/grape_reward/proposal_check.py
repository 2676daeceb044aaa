"""What the proposer and its commands ask of the compiler."""

from __future__ import annotations

from pathlib import Path

from grape_reward.program.compiler import compile_program, read_text
from grape_reward.program.functions import CONSTANTS, FUNCTIONS
from grape_reward.propose import PROGRAM, Checked


def compile_check(text: str, keypoints: int) -> Checked:
    """The canonical hash and the kinds of constraints of a program's text. Raises ProgramError, CostError."""
    program = compile_program(text, PROGRAM, keypoints)
    return Checked(program.hash, tuple(frozenset(term.kind for term in stage) for stage in program.stages))


def read_program(path: Path, keypoints: int | None) -> tuple[str, str]:
    """Text and canonical hash of a program's file, read once: what is shown is what is hashed.

    Raises CostError naming a file that cannot be read, ProgramError for one that does not compile."""
    text = read_text(path)
    return text, compile_program(text, str(path), keypoints).hash


def allowed_functions() -> tuple[str, ...]:
    """The names that a program may call or use, as the compiler has them."""
    return (*FUNCTIONS, *CONSTANTS)
