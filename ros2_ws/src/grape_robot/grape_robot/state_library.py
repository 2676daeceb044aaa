"""The first frames of the lab's initial states: how the scene looked, so that it can be laid out alike again.

``ROOT/TASK/index.yaml`` and one PNG beside it for each state. A file is named by its content, written before the index
names it, and removed after: whatever is interrupted, the index and its pictures fit."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

INDEX = "index.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_MOST_INDEX, _MOST_PICTURE = 8 << 20, 64 << 20


class StateError(ValueError):
    """A stored state that cannot be used or made; the text names the file, the task or the state."""


@dataclass(frozen=True)
class StoredState:
    """One initial state of a task. ``source``: where its frame came from; ``captured``: UTC."""

    task: str
    variant: str
    initial_state: int
    file: str
    width: int
    height: int
    source: str
    captured: str
    sha256: str

    @property
    def name(self) -> str:
        return state_name(self.task, self.variant, self.initial_state)


def state_name(task: str, variant: str, initial_state: int) -> str:
    """How a state is called in lines for people."""
    return f"{task} {initial_state} ({variant})"


_TYPES = {"int": int, "str": str}
_FIELDS = {field.name: _TYPES[str(field.type)] for field in fields(StoredState) if field.name != "task"}


class StateLibrary:
    """The states under one folder. Several processes may use it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def tasks(self) -> list[str]:
        """The tasks that have states, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{INDEX}"))

    def states(self, task: str) -> tuple[StoredState, ...]:
        """The states of a task by variant and id; none where none is stored. Raises StateError naming the field."""
        path = self._folder(task) / INDEX
        data = _read(path, _MOST_INDEX)
        if data is None:
            return ()
        try:
            told = yaml.safe_load(data)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise StateError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(told, dict) or told.get("task") != task or not isinstance(told.get("states"), list):
            raise StateError(f"{path}: expected task: {task} and a list of states")
        found = [_parsed(task, one, f"{path}: states[{index}]") for index, one in enumerate(told["states"])]
        keys = [(one.variant, one.initial_state) for one in found]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise StateError(f"{path}: {state_name(task, *twice)} is given twice")
        return tuple(sorted(found, key=lambda one: (one.variant, one.initial_state)))

    def find(self, task: str, variant: str, initial_state: int) -> StoredState | None:
        """The stored state, or None. Raises StateError."""
        _check(task, variant, initial_state)
        wanted = (variant, initial_state)
        return next((one for one in self.states(task) if (one.variant, one.initial_state) == wanted), None)

    def image(self, state: StoredState) -> NDArray[np.uint8]:
        """The first frame, (H, W, 3) uint8 RGB. Raises StateError naming a file that is gone or not what was stored."""
        path = self._folder(state.task) / state.file
        data = _read(path, _MOST_PICTURE)
        if data is None:
            raise StateError(f"{path}: the frame of {state.name} is gone")
        if hashlib.sha256(data).hexdigest() != state.sha256:
            raise StateError(f"{path}: not the frame that was stored for {state.name}")
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture.convert("RGB"))

    def store(
        self,
        task: str,
        variant: str,
        initial_state: int,
        image: NDArray[np.uint8],
        source: str,
        replace: bool = False,
        when: datetime | None = None,
    ) -> StoredState:
        """Store a first frame, (H, W, 3) uint8 RGB. Raises StateError where there is one and not ``replace``."""
        _check(task, variant, initial_state)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise StateError(f"a frame of {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        moment = (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        file = f"{variant}-{initial_state}-{digest[:12]}.png"
        height, width = image.shape[:2]
        state = StoredState(task, variant, initial_state, file, width, height, source, moment, digest)
        folder = self._folder(task)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                known = self.states(task)
                same = [one for one in known if (one.variant, one.initial_state) == (variant, initial_state)]
                if same and not replace:
                    raise StateError(f"{state.name} is stored already, on {same[0].captured}: replace it on purpose")
                kept = [one for one in known if one not in same]
                _write(folder / file, data)
                _write(folder / INDEX, _index(task, [*kept, state]))
                for old in same:
                    if old.file != file:
                        (folder / old.file).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{folder}: {error.strerror or error}") from None
        return state

    def _folder(self, task: str) -> Path:
        _check_name("task", task)
        return self.root / task


def _check_name(what: str, name: str) -> None:
    # it becomes a folder's or a file's name, and comes in by a service
    if not _NAME.fullmatch(name):
        raise StateError(f"{what} {name!r}: letters, digits, _ and - only")


def _check(task: str, variant: str, initial_state: int) -> None:
    _check_name("task", task)
    _check_name("variant", variant)
    if not 0 <= initial_state < 2**32:
        raise StateError(f"initial state {initial_state}: expected 0 to {2**32 - 1}")


def _parsed(task: str, told: Any, where: str) -> StoredState:
    if not isinstance(told, dict) or set(told) != set(_FIELDS):
        raise StateError(f"{where}: expected {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if type(told[name]) is not kind:
            raise StateError(f"{where}: {name}: expected {kind.__name__}, not {told[name]!r}")
    state = StoredState(task=task, **told)
    try:
        _check(task, state.variant, state.initial_state)
        if Path(state.file).name != state.file or not state.file.endswith(".png"):
            raise StateError(f"file {state.file!r}: expected the name of a PNG file")
    except StateError as error:
        raise StateError(f"{where}: {error}") from None
    return state


def _index(task: str, states: list[StoredState]) -> bytes:
    rows = [{name: value for name, value in asdict(one).items() if name != "task"} for one in states]
    rows.sort(key=lambda row: (row["variant"], row["initial_state"]))
    return yaml.safe_dump({"task": task, "states": rows}, sort_keys=False, allow_unicode=True).encode()


def _read(path: Path, most: int) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror or error}") from None
    if len(data) > most:
        raise StateError(f"{path}: over {most >> 20} MiB")
    return data


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: beside, synced, renamed."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
