"""Collects the array operations of a program's constraints, typed, for one number of keypoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grape_reward.program.kernels import KERNELS
from grape_reward.program.lanes import side_by_side
from grape_reward.program.plan import Output, Plan
from grape_reward.program.steps import CONSTANT, END_EFFECTOR, KEYPOINTS, Kind, Step
from grape_reward.program.tree import At, Refused

MAX_OPERATIONS = 20_000
MAX_ELEMENTS = 1_024


@dataclass(frozen=True)
class Value:
    """What an expression is at compile time: the step that computes it, its shape and kind, and, where all of it is
    known already, its ``constant`` (*shape, 1)."""

    step: int
    shape: tuple[int, ...]
    kind: Kind
    constant: NDArray | None = None

    @property
    def whole(self) -> int | None:
        """The whole number that it is known to be, None otherwise."""
        if self.constant is None or self.kind is not Kind.INT or self.shape:
            return None
        return int(self.constant[0])


class Builder:
    """Collects the steps of a program's constraints; equal operations on equal inputs become one step."""

    def __init__(self, keypoints: int) -> None:
        self.steps: list[Step] = []
        self._known: dict[object, Value] = {}
        self._left = MAX_OPERATIONS
        self.end_effector = self._add(Step(END_EFFECTOR, (), (), (3,), Kind.FLOAT))
        self.keypoints = self._add(Step(KEYPOINTS, (), (), (keypoints, 3), Kind.FLOAT))

    def spend(self, at: At) -> None:
        """Count one piece of work. Raises Refused where a program takes too much of it."""
        self._left -= 1
        if self._left < 0:
            raise Refused(at, f"the comprehensions unroll to more than {MAX_OPERATIONS} operations")

    def number(self, value: bool | int | float, at: At) -> Value:
        self.spend(at)
        kind = Kind.BOOL if isinstance(value, bool) else Kind.INT if isinstance(value, int) else Kind.FLOAT
        return self._constant(np.array([value], bool if kind is Kind.BOOL else np.float64), kind)

    def apply(
        self, operation: str, inputs: tuple[Value, ...], shape: tuple[int, ...], kind: Kind, at: At, params: tuple = ()
    ) -> Value:
        """The value of an operation. What depends on no input is computed at once. Raises Refused."""
        self.spend(at)
        if math.prod(shape) > MAX_ELEMENTS:
            raise Refused(at, f"an array of shape {shape} is too large: at most {MAX_ELEMENTS} numbers")
        key = (operation, tuple(value.step for value in inputs), params)
        if key in self._known:
            return self._known[key]
        constants = [value.constant for value in inputs if value.constant is not None]
        if inputs and len(constants) == len(inputs):
            with np.errstate(all="ignore"):
                result = KERNELS[operation](*constants, *params)
            if not np.all(np.isfinite(result)):
                raise Refused(
                    at, "this is never a finite real number: a division by zero, a root of a negative number?"
                )
            value = self._constant(result, kind)
        else:
            value = self._add(Step(operation, key[1], params, shape, kind))
        self._known[key] = value
        return value

    def _constant(self, array: NDArray, kind: Kind) -> Value:
        key = (CONSTANT, array.tobytes(), array.shape, kind)
        if key not in self._known:
            added = self._add(Step(CONSTANT, (), (), array.shape[:-1], kind, array))
            self._known[key] = Value(added.step, added.shape, kind, array)
        return self._known[key]

    def _add(self, step: Step) -> Value:
        self.steps.append(step)
        return Value(len(self.steps) - 1, step.shape, step.kind)

    def plan(self, results: Sequence[Value]) -> Plan:
        """The steps that the results need, in order."""
        needed = [self._needed(result.step) for result in results]
        order = sorted(set().union(*needed))
        place = {old: new for new, old in enumerate(order)}
        steps = [
            Step(s.operation, tuple(place[i] for i in s.inputs), s.params, s.shape, s.kind, s.value)
            for s in (self.steps[index] for index in order)
        ]
        merged, moved = side_by_side(steps)
        outputs = tuple(
            Output(moved(place[result.step]), self.end_effector.step in own, self._keypoints_read(own, result))
            for result, own in zip(results, needed, strict=True)
        )
        return Plan(tuple(merged), outputs)

    def _needed(self, last: int) -> set[int]:
        needed = {last}
        for index in range(last, -1, -1):
            if index in needed:
                needed.update(self.steps[index].inputs)
        return needed

    def _keypoints_read(self, needed: set[int], result: Value) -> tuple[int, ...]:
        source = self.keypoints.step
        every = range(self.keypoints.shape[0])
        read = set(every) if result.step == source else set()
        for step in (self.steps[index] for index in needed):
            if source in step.inputs:
                first = step.params[0] if step.operation == "item" else (None, None, None)
                read.update(every[slice(*first)] if isinstance(first, tuple) else (first,))
        return tuple(sorted(read))
