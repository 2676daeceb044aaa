"""From text to a ``CostProgram``: the one way in, for shipped programs, proposed ones and a person's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grape_reward.costs import CostProgram, CostTerm
from grape_reward.errors import CostError, Finding, ProgramError
from grape_reward.program.builder import Builder
from grape_reward.program.plan import Plan
from grape_reward.program.repair import repair
from grape_reward.program.scan import decode
from grape_reward.program.syntax import read
from grape_reward.program.tree import Function, Refused, canonical_program
from grape_reward.program.typed import typed

MAX_KEYPOINTS = 64
_GUESSES = (3, 8, 24, MAX_KEYPOINTS)
_TRIALS = 64


def compile_program(text: str, where: str, keypoints: int | None = None) -> CostProgram:
    """The cost program that ``text`` is; nothing of it is ever run as Python.

    ``where``, its file, names it in errors and gives the program its name. ``keypoints``: K of the task; None where it
    is not known: then the program must make sense for some K up to 64, and is typed for the K of its inputs when it
    is evaluated.
    Raises ProgramError, every finding with its line and column, CostError for a K out of range."""
    if keypoints is not None and not 1 <= keypoints <= MAX_KEYPOINTS:
        raise CostError(f"{where}: {keypoints} keypoints: a program has from 1 to {MAX_KEYPOINTS}")
    count, functions = read(text, where)
    if keypoints is None:
        keypoints, plan = _guess(functions, where)
    else:
        plan = _typed(functions, keypoints, where)
    _try(functions, plan, keypoints, where)
    stages = tuple(
        tuple(CostTerm(f.name, f.kind, f) for f in functions if f.stage == stage) for stage in range(1, count + 1)
    )
    return CostProgram(program_name(where), stages, canonical_program(functions))


def program_name(where: str) -> str:
    """What a program is called: its file's stem, or its folder's name for a task's ``program.txt``."""
    path = Path(where)
    return path.parent.name if path.stem == "program" and path.parent.name else path.stem


def load_program(path: Path, keypoints: int | None = None) -> CostProgram:
    """The cost program in a file. Raises CostError for a file that cannot be read, else as ``compile_program``."""
    return compile_program(read_text(path), str(path), keypoints)


def read_text(path: Path) -> str:
    """The text of a program's file. Raises CostError naming it."""
    try:
        with path.open("rb") as file:
            data = file.read(1 << 20)
    except OSError as error:
        raise CostError(f"{path}: {error.strerror or error}") from None
    try:
        return decode(data)
    except Refused as refused:
        raise ProgramError(str(path), (Finding(refused.at.line, refused.at.column, refused.message),)) from None


def repaired(text: str, where: str, keypoints: int | None = None) -> str | None:
    """For a text that is refused because it lost its indentation: one that compiles. None where there is none."""
    better = repair(text)
    if better is None:
        return None
    try:
        compile_program(better, where, keypoints)
    except CostError:
        return None
    return better


def _typed(functions: tuple[Function, ...], keypoints: int, where: str) -> Plan:
    try:
        return _plan(functions, keypoints, where)
    except _Untypable as untypable:
        raise untypable.error from None


def _plan(functions: tuple[Function, ...], keypoints: int, where: str) -> Plan:
    builder, results, refusals = Builder(keypoints), [], []
    for function in functions:
        try:
            results.append(typed(function, builder))
        except Refused as refused:
            refusals.append(refused)
    if refusals:
        findings = [Finding(r.at.line, r.at.column, r.message) for r in refusals]
        ordered = tuple(sorted(findings, key=lambda f: (f.line, f.column)))
        raise _Untypable(ProgramError(where, ordered), all(r.scarce for r in refusals))
    return builder.plan(results)


class _Untypable(Exception):
    """``scarce``: with more keypoints all of it might be mended."""

    def __init__(self, error: ProgramError, scarce: bool) -> None:
        super().__init__(str(error))
        self.error, self.scarce = error, scarce


def _guess(functions: tuple[Function, ...], where: str) -> tuple[int, Plan]:
    """The first number of keypoints for which the program can be typed."""
    for keypoints in _GUESSES:
        try:
            return keypoints, _plan(functions, keypoints, where)
        except _Untypable as untypable:
            if not untypable.scarce or keypoints == MAX_KEYPOINTS:
                raise untypable.error from None
    raise AssertionError("no guess at the number of keypoints")


def _try(functions: tuple[Function, ...], plan: Plan, keypoints: int, where: str) -> None:
    """Refuses a constraint that is not a finite number at any of some positions within a metre of the base."""
    generator = np.random.default_rng(0)
    end_effector = generator.uniform(-1.0, 1.0, (_TRIALS, 3))
    costs = plan.run(end_effector, generator.uniform(-1.0, 1.0, (_TRIALS, keypoints, 3)))
    findings = []
    for function, values in zip(functions, costs, strict=True):
        if not np.isfinite(values).any():
            at = function.result.at
            message = f"{function.name} is not a finite number at any of {_TRIALS} positions tried"
            findings.append(Finding(at.line, at.column, message))
    if findings:
        raise ProgramError(where, tuple(findings))
