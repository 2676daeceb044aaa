"""The array operations against NumPy on one instant at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from grape_reward.program.kernels import KERNELS

finite = st.floats(-1e3, 1e3, allow_nan=False, width=64)
matrices = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 4)), elements=finite
)
REDUCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "std": np.std, "var": np.var}


def instants(values: np.ndarray) -> np.ndarray:
    """(T, ...) in the kernels' order."""
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))


@settings(max_examples=60)
@given(matrices, st.sampled_from(sorted(REDUCTIONS)), st.sampled_from([None, 0, 1]))
def test_reductions_are_numpys(values: np.ndarray, name: str, axis: int | None) -> None:
    ours = np.moveaxis(KERNELS[name](instants(values), axis), -1, 0)
    expected = np.array([REDUCTIONS[name](one, axis=axis) for one in values])
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(matrices, st.sampled_from([None, 0, 1]), st.sampled_from([1, 2]))
def test_norms_are_numpys(values: np.ndarray, axis: int | None, order: int) -> None:
    if axis is None and order == 1:
        values = values[:, :, 0]
    ours = np.moveaxis(KERNELS["norm"](instants(values), axis, order), -1, 0)
    expected = [np.linalg.norm(one, axis=axis, ord=None if axis is None and one.ndim == 2 else order) for one in values]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(arrays.arrays(np.float64, (3, 2, 3), elements=finite), arrays.arrays(np.float64, (3, 3), elements=finite))
def test_products_are_numpys(many: np.ndarray, one: np.ndarray) -> None:
    a, b = instants(many), instants(one)
    np.testing.assert_allclose(KERNELS["dot"](a, b).T, [m @ o for m, o in zip(many, one, strict=True)], atol=1e-6)
    expected = [np.cross(m[0], o) for m, o in zip(many, one, strict=True)]
    np.testing.assert_allclose(KERNELS["cross"](a[0], b).T, expected, atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.0, -0.0), (-0.0, 0.0), (1.0, np.nan), (np.nan, 1.0), (2.0, 1.0), (1.0, 2.0)])
def test_max_and_min_choose_as_python_does(a: float, b: float) -> None:
    one, two = np.array([a]), np.array([b])
    for name, choose in (("greatest", max), ("least", min)):
        ours, expected = KERNELS[name](one, two), np.array([choose(a, b)])
        assert ours.tobytes() == expected.tobytes()


def test_sums_are_from_first_to_last_whatever_the_layout() -> None:
    values = np.random.default_rng(0).normal(size=(40, 7))
    expected = values[0]
    for row in values[1:]:
        expected = expected + row
    assert (KERNELS["sum"](values, 0) == expected).all()
    assert (KERNELS["sum"](np.asfortranarray(values), None) == expected).all()
    assert KERNELS["sum"](np.zeros((0, 7)), 0).tolist() == [0.0] * 7


def test_powers_and_items() -> None:
    base = np.array([2.0, 3.0])
    assert [KERNELS["power"](base, e).tolist() for e in (2.0, 0.5, 3.0)] == [[4.0, 9.0], [2**0.5, 3**0.5], [8.0, 27.0]]
    cube = np.arange(24.0).reshape(2, 3, 4)
    assert (KERNELS["item"](cube, 1, (0, 2, None)) == cube[1, 0:2]).all()
    assert KERNELS["stack"](np.ones(1), np.arange(3.0)).tolist() == [[1, 1, 1], [0, 1, 2]]
