"""Constraints typed for a number of keypoints: a list of array operations, each on the results of earlier ones.

A list in which nothing is computed twice, instead of nested trees: what variables or constraints share costs once, and
no program can make the evaluation recurse."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grape_reward.program.kernels import KERNELS, Kernel
from grape_reward.program.steps import END_EFFECTOR, GATHER, KEYPOINTS, LANE, Step

CHUNK_ELEMENTS = 8_192
"""Numbers in the largest array of a chunk of instants: what stays in a core's cache, and in the allocator's hands."""

WHOLE_NUMBER = frozenset({"truncate", "round"})


@dataclass(frozen=True)
class Output:
    """A cost: the number of its step, and what it looks at: the end effector or not, and which keypoints."""

    step: int
    end_effector_read: bool
    keypoints_read: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """``steps``, and which of them are costs. What no cost needs is not in it."""

    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]

    def run(self, end_effector: NDArray[np.float64], keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
        """The costs (N, T) of end effectors (T, 3) and keypoints (T, K, 3), one row an output; NaN for no number.

        Every instant's costs are the same in every bit, however many are evaluated at once."""
        instants = len(end_effector)
        path = np.ascontiguousarray(end_effector.T)
        points = np.ascontiguousarray(keypoints.transpose(1, 2, 0))
        chunks = math.ceil(instants * self._widest / CHUNK_ELEMENTS)
        chunk = math.ceil(instants / max(1, chunks))
        costs = np.empty((len(self.outputs), instants))
        for start in range(0, instants, max(1, chunk)):
            now = slice(start, start + chunk)
            self._chunk(path[:, now], points[:, :, now], costs[:, now])
        return costs

    @functools.cached_property
    def _widest(self) -> int:
        return max(step.lanes * (math.prod(step.shape) or 1) for step in self.steps if step.operation != KEYPOINTS)

    @functools.cached_property
    def _kernels(self) -> list[tuple[Step, Kernel | None]]:
        return [(step, KERNELS.get(step.operation)) for step in self.steps]

    def _chunk(self, path: NDArray[np.float64], points: NDArray[np.float64], costs: NDArray[np.float64]) -> None:
        instants = path.shape[1]
        values: list[NDArray] = []
        faults: dict[int, NDArray] = {}
        with np.errstate(all="ignore"):
            for index, (step, kernel) in enumerate(self._kernels):
                if kernel is not None:
                    values.append(kernel(*[values[i] for i in step.inputs], *step.params))
                elif step.value is not None:
                    values.append(step.value)
                elif step.operation == GATHER:
                    values.append(np.concatenate([_full(values[i], instants) for i in step.inputs], axis=-1))
                elif step.operation == LANE:
                    (lane,) = step.params
                    values.append(values[step.inputs[0]][..., lane * instants : (lane + 1) * instants])
                else:
                    values.append(path if step.operation == END_EFFECTOR else points)
                if faults or step.operation in WHOLE_NUMBER:
                    fault = _fault(step, values, faults, instants)
                    if fault is not None:
                        faults[index] = fault
        for row, output in zip(costs, self.outputs, strict=True):
            row[:] = values[output.step]
            if output.step in faults:
                row[faults[output.step]] = np.nan


def _full(array: NDArray, instants: int) -> NDArray:
    """A constant at every instant; anything else as it is."""
    return array if array.shape[-1] == instants else np.broadcast_to(array, (*array.shape[:-1], instants))


def _fault(step: Step, values: list[NDArray], faults: dict[int, NDArray], instants: int) -> NDArray | None:
    """(T,) where Python would have raised, for a whole number of what is not finite; None: nowhere.

    It must be carried along: a comparison or a ``max`` would swallow a NaN."""
    known = [faults.get(index) for index in step.inputs]
    if step.operation == "select":
        test, then, other = known
        if then is not None or other is not None:
            none = np.zeros(1, bool)
            taken = np.where(values[step.inputs[0]], none if then is None else then, none if other is None else other)
            return taken if test is None else taken | test
    elif step.operation == GATHER:
        if all(fault is None for fault in known):
            return None
        return np.concatenate([np.zeros(instants, bool) if fault is None else fault for fault in known])
    elif step.operation == LANE and known[0] is not None:
        (lane,) = step.params
        return known[0][lane * instants : (lane + 1) * instants]
    elif step.operation in WHOLE_NUMBER:
        known.append(~np.isfinite(values[step.inputs[0]]))
    found = [fault for fault in known if fault is not None and fault.any()]
    return np.logical_or.reduce(found) if found else None
