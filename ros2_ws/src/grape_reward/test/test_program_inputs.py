"""Trajectories from npz files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from grape_reward.errors import CostError
from grape_reward.program import inputs
from grape_reward.program.inputs import read_inputs

GOOD = {"end_effector": np.zeros((4, 3)), "keypoints": np.ones((4, 2, 3), np.float32)}


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def test_both_arrays_come_back_as_float64(tmp_path: Path) -> None:
    end_effector, keypoints = read_inputs(saved(tmp_path, **GOOD))
    assert end_effector.shape == (4, 3) and keypoints.shape == (4, 2, 3)
    assert end_effector.dtype == keypoints.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": None}, r"no array keypoints \(T, K, 3\)"),
        ({"end_effector": np.zeros((4, 2))}, r"end_effector is float64 \(4, 2\), expected numbers \(T, 3\)"),
        ({"end_effector": np.zeros((5, 3))}, "5 instants of end_effector, 4 of keypoints"),
        ({"keypoints": np.zeros((4, 3))}, r"keypoints is float64 \(4, 3\)"),
        ({"keypoints": np.zeros((4, 65, 3))}, "65 keypoints, expected 1 to 64"),
        ({"keypoints": np.zeros((4, 0, 3))}, "0 keypoints"),
        ({"keypoints": np.array([["a", "b", "c"]] * 4)}, "keypoints is <U1"),
        ({"end_effector": np.array([[None] * 3] * 4)}, "not a readable npz file"),
    ],
)
def test_a_wrong_array_is_named_with_its_file(change: dict, words: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    path = saved(tmp_path, **arrays)
    with pytest.raises(CostError, match=words) as caught:
        read_inputs(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip", header((4, 3))])
def test_a_file_that_is_no_npz_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(CostError, match="not a readable npz file"):
        read_inputs(path)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("end_effector.npy", header((1 << 50, 3)) + b"0" * 64)
    with pytest.raises(CostError, match="not a readable npz file"):
        read_inputs(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, **GOOD)
    monkeypatch.setattr(inputs, "MAX_BYTES", 100)
    with pytest.raises(CostError, match="at most 100 are read"):
        read_inputs(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"no\.npz: No such file"):
        read_inputs(tmp_path / "no.npz")
