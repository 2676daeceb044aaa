"""For tests: what is on the disk after a process or its machine died at the n-th step of writing.

Steps are what the kernel is asked for: opening for writing, writing (whole and torn), fsync, rename, mkdir, unlink. A
killed process leaves all it wrote; a machine that lost its power may also lose what no fsync has made durable: bytes of
files and names in folders. Both are played in a forked process that ends by ``os._exit``, so that no clean-up runs."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED, FINISHED, FAILED = 9, 0, 1
NOTHING, BYTES, NAMES = LOSSES = ("killed", "bytes lost", "bytes and names lost")
"""What is gone after a death: nothing; half of the bytes that are not durable; the renames, too, that are not."""


@dataclass
class Disk:
    """Counts the steps under ``root``; dies at step ``at``, losing ``loss``, one of ``LOSSES``."""

    root: Path
    at: int
    loss: str
    steps: int = 0
    durable: dict[int, int] = field(default_factory=dict)
    """Inode -> so many bytes are durable, of files that were opened for writing."""
    renames: list[tuple[str, str, bytes | None]] = field(default_factory=list)
    """(old name, new name, what the new name held) of renames that are not durable."""

    def mine(self, path: Any) -> bool:
        return isinstance(path, str | Path) and str(path).startswith(str(self.root))

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.die()

    def die(self) -> None:
        if self.loss != NOTHING:
            self._lose()
        os._exit(KILLED)

    def _lose(self) -> None:
        for old, new, held in reversed(self.renames):
            if self.loss == NAMES and os.path.exists(new):
                _real["rename"](new, old)
                if held is not None:
                    with _real["open"](new, "wb") as stream:
                        stream.write(held)
        for path in self.root.rglob("*"):
            if path.is_file() and (kept := self.durable.get(path.stat().st_ino)) is not None:
                size = path.stat().st_size
                os.truncate(path, min(size, kept + (size - kept) // 2))


_real: dict[str, Callable[..., Any]] = {
    "open": builtins.open,
    "fsync": os.fsync,
    "rename": os.rename,
    "replace": os.replace,
    "mkdir": os.mkdir,
    "unlink": os.unlink,
    "rmdir": os.rmdir,
}


class _Stream:
    """A file open for writing whose writes are steps, each of which may also be torn in the middle."""

    def __init__(self, stream: Any, disk: Disk) -> None:
        self._stream, self._disk = stream, disk

    def write(self, content: Any) -> int:
        self._disk.step()
        half = len(content) // 2
        self._stream.write(content[:half])
        self._stream.flush()
        self._disk.step()
        return half + self._stream.write(content[half:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def _install(disk: Disk) -> None:
    def opened(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        writes = set(mode) & set("wax+") and disk.mine(path) and not str(path).endswith(".lock")
        if not writes:
            return _real["open"](path, mode, *arguments, **named)
        disk.step()
        stream = _real["open"](path, mode, *arguments, **named)
        told = os.fstat(stream.fileno())
        disk.durable[told.st_ino] = told.st_size
        return _Stream(stream, disk)

    def fsync(handle: int) -> None:
        disk.step()
        _real["fsync"](handle)
        told = os.fstat(handle)
        if told.st_ino in disk.durable:
            disk.durable[told.st_ino] = told.st_size
        folder = os.readlink(f"/proc/self/fd/{handle}")
        disk.renames = [told for told in disk.renames if os.path.dirname(told[1]) != folder]

    def renamed(name: str) -> Callable[..., None]:
        def rename(old: Any, new: Any, **named: Any) -> None:
            if not disk.mine(new):
                return _real[name](old, new, **named)
            disk.step()
            held = Path(new).read_bytes() if os.path.isfile(new) else None
            _real[name](old, new, **named)
            disk.renames.append((str(old), str(new), held))

        return rename

    def counted(name: str) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, **named: Any) -> None:
            if disk.mine(path) or "dir_fd" in named:
                disk.step()
            _real[name](path, *arguments, **named)

        return call

    builtins.open = io.open = opened  # type: ignore[assignment]
    os.fsync = fsync  # type: ignore[assignment]
    os.rename, os.replace = renamed("rename"), renamed("replace")  # type: ignore[assignment]
    for name in ("mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(name))


def run_until(root: Path, work: Callable[[], object], at: int, loss: str = NOTHING) -> bool:
    """Do ``work`` in a forked process that dies at step ``at`` of writing under ``root``; False where it finished
    before that. Raises AssertionError where the work itself fails."""
    child = os.fork()
    if child == 0:
        disk = Disk(root, at, loss)
        try:
            _install(disk)
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(FAILED)
        os._exit(FINISHED)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (KILLED, FINISHED), f"the work failed in a child process (status {status})"
    return status == KILLED
