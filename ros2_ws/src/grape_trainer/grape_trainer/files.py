"""Files that are whole or not there: write beside, fsync, rename."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grape_trainer.errors import TrainerError


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: after a crash it holds the old content or the new one."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: after a crash it holds the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(beside, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON with a final newline, atomically; NaN is refused by ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, error: type[TrainerError] = TrainerError) -> dict[str, Any]:
    """The JSON object in ``path``; raises ``error`` naming the file when it is missing or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as reason:
        raise error(f"{path}: not JSON ({reason})") from None
    if not isinstance(value, dict):
        raise error(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def publish_folder(beside: Path, final: Path) -> None:
    """Give a finished folder its name, which must be free: every file in it is synced first."""
    for path in sorted(beside.rglob("*")):
        if path.is_file():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(beside)
    os.rename(beside, final)
    sync_folder(final.parent)


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line and sync it; a last line that a crash cut short is dropped first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        stream.seek(0)
        held = stream.read()
        stream.truncate(held.rfind(b"\n") + 1)
        stream.write((json.dumps(value) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of ``path``; a last line that a crash cut short is left out, a missing file is empty."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            raise TrainerError(f"{path}: line {number} is not JSON") from None
    return lines


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Replace ``path`` by one JSON line a value, atomically."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))
