"""The array operations of cost programs, on many instants at once: axis 0 of every array is the instant.

An instant's result must not depend, in any bit, on the instants beside it: live and offline scores are compared by
hash. So sums go from first to last, one array operation a summand, where NumPy's own reductions would order them by
memory layout, and functions that NumPy vectorises differently by memory layout get contiguous arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Kernel = Callable[..., NDArray]
Item = int | tuple[int | None, int | None, int | None]


def aligned(arrays: Sequence[NDArray]) -> list[NDArray]:
    """The arrays with as many axes each, new ones after the instant: broadcasting then works instant by instant."""
    rank = max(array.ndim for array in arrays)
    if all(array.ndim == rank for array in arrays):
        return list(arrays)
    return [a if a.ndim == rank else a.reshape(a.shape[0], *(1,) * (rank - a.ndim), *a.shape[1:]) for a in arrays]


def _elementwise(function: Callable[..., NDArray]) -> Kernel:
    return lambda *arrays: function(*aligned(arrays))


def _transcendental(function: Callable[..., NDArray]) -> Kernel:
    def kernel(*arrays: NDArray) -> NDArray:
        whole = np.broadcast_arrays(*aligned(arrays))
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
    return array[(slice(None), *(slice(*i) if isinstance(i, tuple) else i for i in items))]


def stack(*arrays: NDArray) -> NDArray:
    """Arrays (T, ...) as one (T, n, ...)."""
    instants = max(len(array) for array in arrays)
    return np.stack([np.broadcast_to(array, (instants, *array.shape[1:])) for array in arrays], axis=1)


def _rows(array: NDArray, axis: int | None) -> tuple[NDArray, int]:
    """The array with the axis (of one instant) to be reduced last, and its length."""
    if axis is None:
        array = array.reshape(len(array), math.prod(array.shape[1:]))
        axis = 0
    return np.moveaxis(array, axis + 1, -1), array.shape[axis + 1]


def total(array: NDArray, axis: int | None) -> Values:
    rows, count = _rows(array.astype(np.float64, copy=False), axis)
    if count == 0:
        return np.zeros(rows.shape[:-1])
    return reduce(np.add, (rows[..., i] for i in range(count)))


def mean(array: NDArray, axis: int | None) -> Values:
    return total(array, axis) / _rows(array, axis)[1]


def variance(array: NDArray, axis: int | None) -> Values:
    rows, count = _rows(array.astype(np.float64, copy=False), axis)
    offsets = rows - (total(rows, rows.ndim - 2) / count)[..., None]
    return total(offsets * offsets, rows.ndim - 2) / count


def _pairwise(function: Callable[..., NDArray]) -> Kernel:
    def kernel(array: NDArray, axis: int | None) -> NDArray:
        rows, count = _rows(array, axis)
        return reduce(function, (rows[..., i] for i in range(count)))

    return kernel


def norm(array: Values, axis: int | None, order: int) -> Values:
    if order == 1:
        return total(np.abs(array), axis)
    return np.sqrt(total(array * array, axis))


def dot(a: Values, b: Values) -> Values:
    """(n,) · (n,), or (m, n) · (n,)."""
    return total(a * (b if a.ndim == b.ndim else b[:, None, :]), a.ndim - 2)


def cross(a: Values, b: Values) -> Values:
    """(3,) x (3,)"""
    a, b = np.broadcast_arrays(a, b)
    return np.stack([a[:, i] * b[:, j] - a[:, j] * b[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], axis=1)


def select(test: NDArray, then: NDArray, other: NDArray) -> NDArray:
    """``test`` (T,): an instant takes one of the two, whatever its shape."""
    rank = max(then.ndim, other.ndim)
    return np.where(test.reshape(len(test), *(1,) * (rank - 1)), then, other)


KERNELS: dict[str, Kernel] = {
    "add": _elementwise(np.add),
    "subtract": _elementwise(np.subtract),
    "multiply": _elementwise(np.multiply),
    "divide": _elementwise(np.true_divide),
    "floor_divide": _elementwise(np.floor_divide),
    "remainder": _elementwise(np.remainder),
    "minimum": _elementwise(np.minimum),
    "maximum": _elementwise(np.maximum),
    "less": _elementwise(np.less),
    "less_equal": _elementwise(np.less_equal),
    "greater": _elementwise(np.greater),
    "greater_equal": _elementwise(np.greater_equal),
    "equal": _elementwise(np.equal),
    "not_equal": _elementwise(np.not_equal),
    "where": _elementwise(np.where),
    "and": _elementwise(np.logical_and),
    "or": _elementwise(np.logical_or),
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
    "truncate": lambda array: np.trunc(array.astype(np.float64, copy=False)),
    "round": np.round,
    **{name: _transcendental(getattr(np, name)) for name in ("exp", "expm1", "log", "log1p", "log10", "log2")},
    **{name: _transcendental(getattr(np, name)) for name in ("sin", "cos", "tan", "arcsin", "arccos", "arctan")},
    **{name: _transcendental(getattr(np, name)) for name in ("tanh", "arctan2", "hypot")},
    "power": power,
    "greatest": greatest,
    "least": least,
    "item": item,
    "stack": stack,
    "select": select,
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
