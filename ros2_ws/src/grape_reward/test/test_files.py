"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from grape_reward.files import read_bounded, write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "one")
    write_whole(path, b"two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "two")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [0, 3, 1 << 20])
def test_a_file_is_read_up_to_a_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_bounded(path, 1 << 20, ValueError) == b"x" * size


def test_what_is_too_large_or_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ValueError, match="file: No such file"):
        read_bounded(path, 1 << 20, ValueError)
    assert read_bounded(path, 1 << 20, ValueError, empty=(FileNotFoundError,)) == b""
    with pytest.raises(ValueError, match="Is a directory"):
        read_bounded(tmp_path, 1 << 20, ValueError, empty=(FileNotFoundError,))
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(ValueError, match="file: over 1 MiB"):
        read_bounded(path, 1 << 20, ValueError)
