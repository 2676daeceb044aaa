"""Cost programs: which costs a task has, stage by stage, each a function of one instant (paper 002, Appendix E.2).

A cost is ``stageN_{target,path,collision,grasp}_constraintM(end_effector, keypoints) -> float``, ``end_effector`` (3,)
and ``keypoints`` (K, 3), metres in the robot's base frame: keypoints[0] the object, [1] the target, [2:] obstacles.
``grape_reward.program`` makes a ``CostProgram`` of a text; nothing of the text is ever run as Python.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from grape_reward.errors import CostError
from grape_reward.program.body import KINDS
from grape_reward.program.builder import Builder
from grape_reward.program.plan import Plan
from grape_reward.program.tree import Function, Refused
from grape_reward.program.typed import typed

Array = NDArray[np.float64]

__all__ = ["KINDS", "CostProgram", "CostTerm", "canonical_ast", "canonical_source", "sha256"]


@dataclass(frozen=True)
class CostTerm:
    """One constraint: its ``name``, its ``kind`` (which decides how it is reduced over time) and its expression."""

    name: str
    kind: str
    function: Function


@dataclass(frozen=True)
class CostProgram:
    """The constraints of each stage, and the ``canonical`` text that the program's hash is taken of."""

    name: str
    stages: tuple[tuple[CostTerm, ...], ...]
    canonical: str
    _plans: dict[int, dict[int | None, Plan]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        # plans hold functions, which do not travel between processes, and are quickly made anew
        return {**self.__dict__, "_plans": {}}

    @property
    def terms(self) -> tuple[CostTerm, ...]:
        return tuple(term for stage in self.stages for term in stage)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 hex of the canonical text: what an approval names."""
        return sha256(self.canonical)

    def evaluate(self, stage: int, end_effector: Array, keypoints: Array) -> tuple[float, ...]:
        """The raw costs of 0-based ``stage`` at one instant, one a constraint.

        ``end_effector`` (3,) and ``keypoints`` (K, 3), metres. Raises CostError naming a cost that is not finite, or
        that needs a position which is not, and a K that the program is not made for."""
        one, points = self._checked(np.asarray(end_effector)[None], np.asarray(keypoints)[None])
        plan = self._plan(points.shape[1], stage)
        costs = plan.run(one, points)
        self._check(self.stages[stage], plan, costs, one, points, where="")
        return tuple(costs[:, 0].tolist())

    def evaluate_all(self, end_effector: Array, keypoints: Array) -> dict[str, Array]:
        """The raw costs (T,) of every constraint over a whole trajectory, by name, in the program's order.

        ``end_effector`` (T, 3) and ``keypoints`` (T, K, 3), metres. Equal to ``evaluate`` instant by instant, in every
        bit. Raises CostError as that does, naming the instant."""
        path, points = self._checked(end_effector, keypoints)
        plan = self._plan(points.shape[1], None)
        costs = plan.run(path, points)
        self._check(self.terms, plan, costs, path, points, where=" at instant {}")
        return {term.name: values for term, values in zip(self.terms, costs, strict=True)}

    def _checked(self, end_effector: Array, keypoints: Array) -> tuple[Array, Array]:
        path = np.asarray(end_effector, np.float64)
        points = np.asarray(keypoints, np.float64)
        if path.ndim != 2 or points.ndim != 3 or path.shape[1] != 3 or points.shape[::2] != (len(path), 3):
            raise CostError(
                f"{self.name}: end_effector {path.shape} and keypoints {points.shape}, expected (T, 3) and (T, K, 3)"
            )
        return path, points

    def _plan(self, keypoints: int, stage: int | None) -> Plan:
        """The plan of a stage, or of all, for K keypoints, made once."""
        plans = self._plans.get(keypoints)
        if plans is None:
            builder, results = Builder(keypoints), []
            for term in self.terms:
                try:
                    results.append(typed(term.function, builder))
                except Refused as refused:
                    place = f"line {refused.at.line}, column {refused.at.column}"
                    raise CostError(f"{self.name}: {term.name}: {place}: {refused.message}") from None
            plans = {None: builder.plan(results)}
            rest = iter(results)
            for index, terms in enumerate(self.stages):
                plans[index] = builder.plan([next(rest) for _ in terms])
            self._plans[keypoints] = plans
        return plans[stage]

    def _check(
        self, terms: tuple[CostTerm, ...], plan: Plan, costs: Array, path: Array, points: Array, where: str
    ) -> None:
        """A cost of positions that are not known would be a guess, even where it is a finite number."""
        if np.isfinite(costs).all() and np.isfinite(path).all() and np.isfinite(points).all():
            return
        for term, output, values in zip(terms, plan.outputs, costs, strict=True):
            read = points[:, output.keypoints_read]
            known = np.asarray(np.isfinite(read).all(axis=(1, 2)))
            if output.end_effector_read:
                known = known & np.isfinite(path).all(axis=1)
            bad = np.flatnonzero(~(known & np.isfinite(values)))
            if not len(bad):
                continue
            first = int(bad[0])
            named, instant = f"{self.name}: {term.name}", where.format(first)
            if known[first]:
                raise CostError(f"{named} is {values[first]}{instant}")
            lost = [n for n in output.keypoints_read if not np.isfinite(points[first, n]).all()]
            raise CostError(
                f"{named} needs {f'keypoint {lost[0]}' if lost else 'end_effector'}, which is not finite{instant}"
            )


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
