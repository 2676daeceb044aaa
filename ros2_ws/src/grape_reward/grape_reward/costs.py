"""Cost programs: which costs a task has, stage by stage, each a function of one instant (paper 002, Appendix E.2).

A cost is ``stageN_{target,path,collision,grasp}_constraintM(end_effector, keypoints) -> float``, ``end_effector`` (3,)
and ``keypoints`` (K, 3), metres in the robot's base frame: keypoints[0] the object, [1] the target, [2:] obstacles.

The reducer sees a program only as ``CostProgram``: today its functions come from a reviewed module of this package,
a parsed and compiled program takes their place by filling in the same three fields.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from grape_episode.geometry import Array
from grape_reward.errors import CostError

KINDS = ("target", "path", "collision", "grasp")
CostFunction = Callable[[Array, Array], float]
_NAME = re.compile(r"stage([1-9]\d*)_(target|path|collision|grasp)_constraint([1-9]\d*)")


@dataclass(frozen=True)
class CostTerm:
    """One constraint: its ``name``, its ``kind`` (which decides how it is reduced over time) and its ``function``."""

    name: str
    kind: str
    function: CostFunction


@dataclass(frozen=True)
class CostProgram:
    """The constraints of each stage, and the ``canonical`` text that the program's hash is taken of."""

    name: str
    stages: tuple[tuple[CostTerm, ...], ...]
    canonical: str

    @property
    def terms(self) -> tuple[CostTerm, ...]:
        return tuple(term for stage in self.stages for term in stage)

    def evaluate(self, stage: int, end_effector: Array, keypoints: Array) -> tuple[float, ...]:
        """The raw costs of 0-based ``stage`` at one instant, one a constraint.

        ``end_effector`` (3,) and ``keypoints`` (K, 3), metres. Raises CostError naming a cost that is not finite."""
        values = []
        for term in self.stages[stage]:
            value = float(term.function(end_effector, keypoints))
            if not math.isfinite(value):
                raise CostError(f"{self.name}: {term.name} is {value}")
            values.append(value)
        return tuple(values)


def program_from_module(module: ModuleType) -> CostProgram:
    """The cost program that a module of functions is: ``num_stages`` and the functions named as in Appendix E.2.

    Raises CostError naming the module and what is amiss: no ``num_stages``, a stage beyond it or without constraints,
    a public function under any other name, other parameters than ``(end_effector, keypoints)``."""
    name = module.__name__
    count = getattr(module, "num_stages", None)
    if not isinstance(count, int) or count < 1:
        raise CostError(f"{name}: num_stages is {count!r}, expected a positive whole number")
    stages: list[dict[tuple[int, int], CostTerm]] = [{} for _ in range(count)]
    for label, function in inspect.getmembers(module, inspect.isfunction):
        match = _NAME.fullmatch(label)
        if match is None:
            raise CostError(f"{name}: {label} is not named stageN_{{{','.join(KINDS)}}}_constraintM")
        if list(inspect.signature(function).parameters) != ["end_effector", "keypoints"]:
            raise CostError(f"{name}: {label} does not take (end_effector, keypoints)")
        stage, kind, number = int(match[1]), match[2], int(match[3])
        if stage > count:
            raise CostError(f"{name}: {label} belongs to no stage, num_stages is {count}")
        stages[stage - 1][(KINDS.index(kind), number)] = CostTerm(label, kind, function)
    for index, stage_terms in enumerate(stages):
        if not stage_terms:
            raise CostError(f"{name}: stage {index + 1} has no constraint")
    ordered = tuple(tuple(terms[key] for key in sorted(terms)) for terms in stages)
    return CostProgram(name.rpartition(".")[2], ordered, canonical_source(module))


def canonical_source(module: ModuleType) -> str:
    """The canonical syntax tree of a module's source. Raises CostError where the source is not at hand."""
    try:
        return canonical_ast(inspect.getsource(module))
    except (OSError, TypeError) as error:
        raise CostError(f"{module.__name__}: no source to hash: {error}") from None


def canonical_ast(source: str) -> str:
    """A text that is the same for sources that differ only in layout, comments and docstrings, on any Python version.

    Raises CostError for text that is not Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise CostError(f"line {error.lineno}: {error.msg}") from None
    return _dump(tree)


def sha256(*texts: str) -> str:
    """Hex digest over texts, each preceded by its length so that no two lists collide."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _dump(node: object) -> str:
    # ast.dump spells new and empty fields differently from one Python version to the next: name only what is there.
    if isinstance(node, ast.AST):
        parts = []
        for field, value in ast.iter_fields(node):
            if field in ("type_comment", "kind", "ctx") or value is None or value == []:
                continue
            if field == "body" and isinstance(value, list) and _has_docstring(node):
                value = value[1:]
            parts.append(f"{field}={_dump(value)}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(_dump(item) for item in node)}]"
    return repr(node)


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
