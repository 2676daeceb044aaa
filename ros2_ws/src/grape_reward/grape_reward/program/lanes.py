"""Puts equal operations of a plan side by side: one array operation on all obstacles instead of one on each.

A comprehension over obstacles is one expression a keypoint. Equal operations at an equal distance from the inputs
become one, on arrays that hold the instants of the first expression, then those of the second, and so on: *lanes*. The
operations know nothing of it, as the instants are independent of each other; so no bit of a result changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from grape_reward.program.steps import CONSTANT, END_EFFECTOR, GATHER, KEYPOINTS, LANE, Step

LEAST = 3
"""Fewer equal operations than this are not worth gathering their inputs."""

_APART = {END_EFFECTOR, KEYPOINTS, CONSTANT, "item"}


def side_by_side(steps: Sequence[Step]) -> tuple[list[Step], Callable[[int], int]]:
    """The merged steps, and for the number of an old step that of the new one with its value.

    Asking for a number may add a step to the list: ask for all before using it."""
    merger = _Merger(steps)
    return merger.merged, merger.plain


class _Merger:
    def __init__(self, steps: Sequence[Step]) -> None:
        self.merged: list[Step] = []
        self._old = steps
        self._plain: dict[int, int] = {}
        self._lane: dict[int, tuple[int, int]] = {}
        self._gathered: dict[tuple[int, ...], int] = {}
        levels: dict[int, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
        depth: list[int] = []
        for index, step in enumerate(steps):
            depth.append(1 + max((depth[i] for i in step.inputs), default=-1))
            alone = step.operation in _APART
            levels[depth[index]][index if alone else self._sort_of(step)].append(index)
        for _, sorts in sorted(levels.items()):
            for members in sorts.values():
                if len(members) < LEAST:
                    for index in members:
                        self._keep(index)
                else:
                    self._merge(members)

    def plain(self, index: int) -> int:
        """The new number of an old step, on its own."""
        if index not in self._plain:
            step, (source, lane) = self._old[index], self._lane[index]
            self._plain[index] = self._add(Step(LANE, (source,), (lane,), step.shape, step.kind))
        return self._plain[index]

    def _sort_of(self, step: Step) -> object:
        shapes = tuple(self._old[i].shape for i in step.inputs)
        constants = tuple(i if self._old[i].operation == CONSTANT else None for i in step.inputs)
        return step.operation, step.params, step.shape, step.kind, shapes, constants

    def _keep(self, index: int) -> None:
        step = self._old[index]
        inputs = tuple(self.plain(i) for i in step.inputs)
        self._plain[index] = self._add(Step(step.operation, inputs, step.params, step.shape, step.kind, step.value))

    def _merge(self, members: list[int]) -> None:
        """One step for all; in the order of its inputs' lanes, so that these need not be gathered again."""
        members = sorted(members, key=lambda m: [self._lane.get(i, (0, 0)) for i in self._old[m].inputs])
        first = self._old[members[0]]
        inputs = tuple(
            self._together([self._old[m].inputs[position] for m in members]) for position in range(len(first.inputs))
        )
        count = len(members)
        number = self._add(Step(first.operation, inputs, first.params, first.shape, first.kind, lanes=count))
        for lane, member in enumerate(members):
            self._lane[member] = (number, lane)

    def _together(self, indices: list[int]) -> int:
        """The values of old steps as lanes of one new step."""
        if self._old[indices[0]].operation == CONSTANT and len(set(indices)) == 1:
            return self.plain(indices[0])
        lanes = [self._lane.get(index) for index in indices]
        source = lanes[0][0] if lanes[0] is not None else -1
        if lanes == [(source, lane) for lane in range(len(indices))] and self.merged[source].lanes == len(indices):
            return source
        inputs = tuple(self.plain(index) for index in indices)
        if inputs not in self._gathered:
            step = self._old[indices[0]]
            self._gathered[inputs] = self._add(Step(GATHER, inputs, (), step.shape, step.kind, lanes=len(inputs)))
        return self._gathered[inputs]

    def _add(self, step: Step) -> int:
        self.merged.append(step)
        return len(self.merged) - 1
