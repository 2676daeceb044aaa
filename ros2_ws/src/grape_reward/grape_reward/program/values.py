"""Compile-time values beside arrays: lists of values; and the shape rules that they and arrays share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grape_reward.program.builder import Builder, Value
from grape_reward.program.steps import Kind
from grape_reward.program.tree import At, Refused


@dataclass(frozen=True)
class Items:
    """A list, tuple or generator, item by item. ``conditions``: an item counts only where its condition (a number of
    kind BOOL) holds; None: always. ``lazy``: a generator, which no array function takes."""

    items: tuple[Typed, ...]
    conditions: tuple[Value | None, ...]
    lazy: bool = False

    @property
    def filtered(self) -> bool:
        return any(condition is not None for condition in self.conditions)


Typed = Value | Items


def listed(items: tuple[Typed, ...]) -> Items:
    return Items(items, (None,) * len(items))


def told(value: Typed) -> str:
    """A value in words."""
    if isinstance(value, Items):
        return f"a list of {len(value.items)}"
    return f"an array of shape {value.shape}" if value.shape else "a number"


class Shapes:
    """Typing of what does not depend on the syntax: element by element, indexing, truth, lists as arrays."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def elementwise(self, operation: str, values: tuple[Typed, ...], kind: Kind, at: At) -> Value:
        arrays = tuple(self.array(value, at) for value in values)
        try:
            shape = np.broadcast_shapes(*(array.shape for array in arrays))
        except ValueError:
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise Refused(at, f"arrays of shapes {shapes} do not fit together") from None
        return self.builder.apply(operation, arrays, shape, kind, at)

    def numeric(self, operation: str, values: tuple[Typed, ...], at: At, whole: bool = False) -> Value:
        """Arithmetic: at least one operand must be more than true or false. ``whole``: whole numbers stay whole."""
        arrays = tuple(self.array(value, at) for value in values)
        kinds = {array.kind for array in arrays}
        if kinds == {Kind.BOOL}:
            raise Refused(at, "this calculates with true and false: write 1.0 if test else 0.0")
        kind = Kind.FLOAT if Kind.FLOAT in kinds or not whole else Kind.INT
        return self.unsigned(self.elementwise(operation, arrays, kind, at), at)

    def unsigned(self, value: Value, at: At) -> Value:
        """Whole numbers, which have no negative zero, though here they are kept as floats."""
        if value.kind is not Kind.INT:
            return value
        return self.builder.apply("unsigned", (value,), value.shape, Kind.INT, at)

    def array(self, value: Typed, at: At) -> Value:
        """A list of equal shapes as an array; an array as it is."""
        if isinstance(value, Value):
            return value
        if value.lazy:
            raise Refused(at, "a generator is no array: put [ ] around it")
        if value.filtered:
            raise Refused(at, "a list with `if` has no fixed length: use it in sum, min, max, any or all")
        if not value.items:
            raise Refused(at, "an empty list is no array", scarce=True)
        arrays = tuple(self.array(item, at) for item in value.items)
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise Refused(at, f"the items of this list differ in shape: {', '.join(map(str, sorted(shapes)))}")
        kind = merged(*(array.kind for array in arrays))
        return self.builder.apply("stack", arrays, (len(arrays), *arrays[0].shape), kind, at)

    def scalar(self, value: Typed, at: At, what: str) -> Value:
        if isinstance(value, Items) or value.shape:
            raise Refused(at, f"{what} must be a number, this is {told(value)}")
        return value

    def truth(self, value: Typed, at: At) -> Value:
        """Whether a number is not zero."""
        if isinstance(value, Items) or value.shape:
            raise Refused(at, f"{told(value)} is neither true nor false: use np.all(...) or np.any(...)")
        if value.kind is Kind.BOOL:
            return value
        return self.builder.apply("truth", (value,), (), Kind.BOOL, at)

    def select(self, test: Value, then: Typed, other: Typed, at: At) -> Value:
        """``then`` where ``test`` holds, ``other`` elsewhere."""
        one, two = self.array(then, at), self.array(other, at)
        if one.shape != two.shape:
            raise Refused(at, f"both sides must have one shape, these are {told(one)} and {told(two)}")
        return self.builder.apply("select", (test, one, two), one.shape, merged(one.kind, two.kind), at)

    def item(self, value: Value, items: tuple[int | tuple[int | None, int | None, int | None], ...], at: At) -> Value:
        """``value[items]``, indices and slices in order of the axes."""
        if len(items) > len(value.shape):
            raise Refused(at, f"{told(value)} has no {len(items)} indices")
        shape: list[int] = []
        params: list[object] = []
        for axis, (item, size) in enumerate(zip(items, value.shape, strict=False)):
            if isinstance(item, tuple):
                params.append(item)
                shape.append(len(range(size)[slice(*item)]))
                continue
            if not -size <= item < size:
                if value.step == self.builder.keypoints.step and axis == 0:
                    last = f"K = {size}, the last one is keypoints[{size - 1}]"
                    raise Refused(at, f"keypoints[{item}] does not exist: {last}", scarce=True)
                raise Refused(at, f"index {item} does not exist: this has {size} entries, 0 to {size - 1}", scarce=True)
            params.append(item % size)
        return self.builder.apply("item", (value,), (*shape, *value.shape[len(items) :]), value.kind, at, tuple(params))

    def iterate(self, value: Typed, at: At) -> Items:
        """The items of a list, or of an array along its first axis."""
        if isinstance(value, Items):
            return value
        if not value.shape:
            raise Refused(at, "a number cannot be gone through item by item: loop over keypoints[...] or a list")
        return listed(tuple(self.item(value, (index,), at) for index in range(value.shape[0])))


def merged(*kinds: Kind) -> Kind:
    """The kind of a value that is one or the other."""
    return max(kinds, key=list(Kind).index)
