"""A constraint typed for a number of keypoints: a list of array operations, each on the results of earlier ones.

A list in which nothing is computed twice, instead of a nested tree: shared local variables cost once, and no program
can make the evaluation recurse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from grape_reward.program.kernels import KERNELS
from grape_reward.program.tree import At, Refused

MAX_OPERATIONS = 20_000
MAX_ELEMENTS = 1_024
CHUNK_ELEMENTS = 2_000_000

END_EFFECTOR, KEYPOINTS, CONSTANT = "end_effector", "keypoints", "constant"


class Kind(Enum):
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


@dataclass(frozen=True)
class Step:
    """One operation: ``inputs`` are the numbers of earlier steps. ``shape`` of one instant, () for a number."""

    operation: str
    inputs: tuple[int, ...]
    params: tuple
    shape: tuple[int, ...]
    kind: Kind
    value: NDArray | None = None


@dataclass(frozen=True)
class Value:
    """What an expression is at compile time: the step that computes it, its shape and kind, and, where all of it is
    known already, its ``constant`` (1, *shape)."""

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


class Budget:
    """The work that typing one program may take."""

    def __init__(self) -> None:
        self._left = MAX_OPERATIONS

    def spend(self, at: At) -> None:
        self._left -= 1
        if self._left < 0:
            raise Refused(at, f"the comprehensions unroll to more than {MAX_OPERATIONS} operations")


class Builder:
    """Collects the steps of one constraint; equal operations on equal inputs become one step."""

    def __init__(self, keypoints: int, budget: Budget) -> None:
        self.steps: list[Step] = []
        self._known: dict[object, Value] = {}
        self.budget = budget
        self.end_effector = self._add(Step(END_EFFECTOR, (), (), (3,), Kind.FLOAT))
        self.keypoints = self._add(Step(KEYPOINTS, (), (), (keypoints, 3), Kind.FLOAT))

    def number(self, value: bool | int | float, at: At) -> Value:
        self.budget.spend(at)
        kind = Kind.BOOL if isinstance(value, bool) else Kind.INT if isinstance(value, int) else Kind.FLOAT
        return self._constant(np.array([value], bool if kind is Kind.BOOL else np.float64), kind)

    def apply(
        self, operation: str, inputs: tuple[Value, ...], shape: tuple[int, ...], kind: Kind, at: At, params: tuple = ()
    ) -> Value:
        """The value of an operation. What depends on no input is computed at once. Raises Refused."""
        self.budget.spend(at)
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
            added = self._add(Step(CONSTANT, (), (), array.shape[1:], kind, array))
            self._known[key] = Value(added.step, added.shape, kind, array)
        return self._known[key]

    def _add(self, step: Step) -> Value:
        self.steps.append(step)
        return Value(len(self.steps) - 1, step.shape, step.kind)

    def plan(self, result: Value) -> Plan:
        """The steps that the result needs, in order."""
        needed = {result.step}
        for index in range(result.step, -1, -1):
            if index in needed:
                needed.update(self.steps[index].inputs)
        order = sorted(needed)
        place = {old: new for new, old in enumerate(order)}
        steps = tuple(
            Step(s.operation, tuple(place[i] for i in s.inputs), s.params, s.shape, s.kind, s.value)
            for s in (self.steps[index] for index in order)
        )
        return Plan(steps, _uses_end_effector(steps), _keypoints_read(steps))


def _uses_end_effector(steps: tuple[Step, ...]) -> bool:
    return any(step.operation == END_EFFECTOR for step in steps)


def _keypoints_read(steps: tuple[Step, ...]) -> tuple[int, ...]:
    """0-based numbers of the keypoints that the steps look at."""
    read: set[int] = set()
    for index, source in enumerate(steps):
        if source.operation != KEYPOINTS:
            continue
        every = range(source.shape[0])
        for step in steps:
            if index in step.inputs:
                first = step.params[0] if step.operation == "item" else (None, None, None)
                read.update(every[slice(*first)] if isinstance(first, tuple) else (first,))
        if index == len(steps) - 1:
            read.update(every)
    return tuple(sorted(read))


@dataclass(frozen=True)
class Plan:
    """``steps``, of which the last is the cost; which inputs it looks at."""

    steps: tuple[Step, ...]
    end_effector_read: bool
    keypoints_read: tuple[int, ...]

    def run(self, end_effector: NDArray[np.float64], keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
        """The cost (T,) of end effectors (T, 3) and keypoints (T, K, 3); NaN where it is not a number.

        Every instant's cost is the same in every bit, however many are evaluated at once."""
        instants = len(end_effector)
        chunk = max(1, CHUNK_ELEMENTS // sum(math.prod(step.shape) or 1 for step in self.steps))
        costs = np.empty(instants)
        for start in range(0, instants, chunk):
            end = min(instants, start + chunk)
            costs[start:end] = self._chunk(end_effector[start:end], keypoints[start:end])
        return costs

    def _chunk(self, end_effector: NDArray[np.float64], keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
        values: list[NDArray] = []
        faults: list[NDArray | None] = []
        with np.errstate(all="ignore"):
            for step in self.steps:
                if step.operation == END_EFFECTOR:
                    values.append(end_effector)
                elif step.operation == KEYPOINTS:
                    values.append(keypoints)
                elif step.value is not None:
                    values.append(step.value)
                else:
                    values.append(KERNELS[step.operation](*(values[i] for i in step.inputs), *step.params))
                faults.append(_faults(step, values, faults))
        fault = faults[-1]
        return values[-1] if fault is None else np.where(fault, np.nan, values[-1])


def _faults(step: Step, values: list[NDArray], faults: list[NDArray | None]) -> NDArray | None:
    """(T,) where Python would have raised, for a whole number of what is not finite; None: nowhere.

    It must be carried along: a comparison or a ``max`` would swallow a NaN."""
    if step.operation == "select":
        test, then, other = (faults[i] for i in step.inputs)
        if test is None and then is None and other is None:
            return None
        no = np.zeros(1, bool)
        taken = np.where(values[step.inputs[0]], no if then is None else then, no if other is None else other)
        return taken if test is None else test | taken
    fault: NDArray | None = None
    for index in step.inputs:
        more = faults[index]
        if more is not None:
            fault = more if fault is None else fault | more
    if step.operation in ("truncate", "round"):
        own = ~np.isfinite(values[step.inputs[0]])
        if own.ndim == 1 and own.any():
            fault = own if fault is None else fault | own
    return fault
