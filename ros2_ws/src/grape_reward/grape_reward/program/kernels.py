"""The array operations of cost programs, on many instants at once: the last axis of every array is the instant.

So arrays of one instant broadcast as they would alone, and every row of numbers lies in one piece of memory.

An instant's result must not depend, in any bit, on the instants beside it: live and offline scores are compared by
hash. So sums go from first to last, one array operation a summand, where NumPy's own reductions would order them by
memory layout, and functions that NumPy vectorises differently by memory layout get contiguous arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Kernel = Callable[..., NDArray]
Item = int | tuple[int | None, int | None, int | None]


def _contiguous(function: Callable[..., NDArray]) -> Kernel:
    def kernel(*arrays: NDArray) -> NDArray:
        whole = arrays if len(arrays) == 1 else np.broadcast_arrays(*arrays)
        return function(*(np.ascontiguousarray(array, np.float64) for array in whole))

    return kernel


def power(base: Values, exponent: float) -> Values:
    """Exponents are constants; those with an exact operation use it, as NumPy does for squares."""
    if exponent == 2:
        return base * base
    if exponent == 0.5:
        return np.sqrt(base)
    return np.power(np.ascontiguousarray(base, np.float64), exponent)


def greatest(a: NDArray, b: NDArray) -> NDArray:
    """Python's ``max(a, b)``: the first of equals, and a NaN never wins."""
    return np.where(b > a, b, a)


def least(a: NDArray, b: NDArray) -> NDArray:
    return np.where(b < a, b, a)


def item(array: NDArray, *items: Item) -> NDArray:
    return array[tuple(slice(*i) if isinstance(i, tuple) else i for i in items)]


def stack(*arrays: NDArray) -> NDArray:
    """Arrays (..., T) as one (n, ..., T)."""
    return np.stack(np.broadcast_arrays(*arrays))


def _rows(array: NDArray, axis: int | None) -> NDArray:
    """The array with the axis to be reduced first; None: all axes but the instant as one."""
    if axis is None:
        return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
    return np.moveaxis(array, axis, 0) if axis else array


def total(array: NDArray, axis: int | None) -> Values:
    rows = _rows(array.astype(np.float64, copy=False), axis)
    return reduce(np.add, rows) if len(rows) else np.zeros(rows.shape[1:])


def mean(array: NDArray, axis: int | None) -> Values:
    return total(array, axis) / len(_rows(array, axis))


def variance(array: NDArray, axis: int | None) -> Values:
    rows = _rows(array.astype(np.float64, copy=False), axis)
    offsets = rows - mean(rows, 0)
    return mean(offsets * offsets, 0)


def _pairwise(function: Callable[..., NDArray]) -> Kernel:
    return lambda array, axis: reduce(function, _rows(array, axis))


def norm(array: Values, axis: int | None, order: int) -> Values:
    if order == 1:
        return total(np.abs(array), axis)
    return np.sqrt(total(array * array, axis))


def dot(a: Values, b: Values) -> Values:
    """(n,) · (n,), or (m, n) · (n,)."""
    return total(a * b, a.ndim - 2)


def cross(a: Values, b: Values) -> Values:
    """(3,) x (3,)"""
    return stack(*(a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))))


KERNELS: dict[str, Kernel] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.true_divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "where": np.where,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "negative": np.negative,
    "positive": np.positive,
    "absolute": np.abs,
    "sqrt": np.sqrt,
    "square": np.square,
    "floor": np.floor,
    "ceil": np.ceil,
    "sign": np.sign,
    "deg2rad": np.deg2rad,
    "rad2deg": np.rad2deg,
    "truth": lambda array: array != 0,
    "real": lambda array: array.astype(np.float64, copy=False),
    "truncate": lambda array: np.trunc(array.astype(np.float64, copy=False)) + 0.0,
    "round": np.round,
    "unsigned": lambda array: array + 0.0,
    **{name: _contiguous(getattr(np, name)) for name in ("exp", "expm1", "log", "log1p", "log10", "log2")},
    **{name: _contiguous(getattr(np, name)) for name in ("sin", "cos", "tan", "arcsin", "arccos", "arctan")},
    **{name: _contiguous(getattr(np, name)) for name in ("tanh", "arctan2", "hypot")},
    "power": power,
    "greatest": greatest,
    "least": least,
    "item": item,
    "stack": stack,
    "select": np.where,
    "norm": norm,
    "dot": dot,
    "cross": cross,
    "sum": total,
    "mean": mean,
    "var": variance,
    "std": lambda array, axis: np.sqrt(variance(array, axis)),
    "max": _pairwise(np.maximum),
    "min": _pairwise(np.minimum),
    "any": lambda array, axis: _pairwise(np.logical_or)(array != 0, axis),
    "all": lambda array, axis: _pairwise(np.logical_and)(array != 0, axis),
}
