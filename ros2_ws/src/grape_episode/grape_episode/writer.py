"""Recording without holding up the recorder: a bounded queue and a thread that writes, flushes and watches the disk."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

from grape_episode.bag import Bag, Record

MEGABYTE = 1_000_000
_FLUSH_SHARE = 0.8
"""A flush begins after this share of ``flush_seconds``: compressing and syncing take time, too."""


class DiskFullError(RuntimeError):
    """Too little room to begin a recording: the text names the folder, what is free and the floor."""


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which need not exist yet."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_disk(folder: Path, floor: int) -> None:
    """Raises DiskFullError if fewer than ``floor`` bytes are free on the disk of ``folder``."""
    free = free_bytes(folder)
    if free < floor:
        raise DiskFullError(f"{folder}: {free / MEGABYTE:.0f} MB free, below the floor of {floor / MEGABYTE:.0f} MB")


class BagWriter:
    """Writes the bag ``path`` (a new folder) in a thread of its own.

    What was put is on the disk, in a whole chunk, at most ``flush_seconds`` later. ``queue_bytes`` bounds what waits
    for the disk; beyond it messages are dropped and counted, never waited for. It refuses to start with fewer than
    ``disk_floor`` bytes free (DiskFullError), and stops recording at half of that, keeping what is there. Raises
    FileExistsError where the bag is there already."""

    def __init__(
        self,
        path: Path,
        flush_seconds: float = 1.0,
        disk_floor: int = 0,
        queue_bytes: int = 256 * MEGABYTE,
        compression: str = "zstd",
    ) -> None:
        check_disk(path, disk_floor)
        self._bag = Bag(path, compression)
        self.path = self._bag.folder
        self._flush_after = flush_seconds * _FLUSH_SHARE
        self._floor, self._room = disk_floor // 2, queue_bytes
        self._queue: deque[Record] = deque()
        self._waiting = 0
        self._latest = 0
        self._closing = False
        self._failure = ""
        self._dropped: Counter[str] = Counter()
        self._final: list[str] = []
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"bag {self.path.name}", daemon=True)
        self._thread.start()

    def put(self, topic: str, type_name: str, data: bytes, log_time: int) -> bool:
        """Hands over one CDR message; False if it was dropped. Log times are made non-decreasing: the order of the
        file is the order of the calls."""
        with self._change:
            if self._failure or self._closing or self._waiting + len(data) > self._room:
                self._dropped[topic] += 1
                return False
            self._latest = max(self._latest, log_time)
            self._queue.append(Record(topic, type_name, self._latest, data))
            self._waiting += len(data)
            self._change.notify()
            return True

    @property
    def failed(self) -> bool:
        """The recording has ended early; ``problems`` says why."""
        return bool(self._failure)

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong so far, one line each."""
        with self._change:
            return self._listed()

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return self._bag.messages

    def close(self, problems: Iterable[str] = ()) -> None:
        """Writes what waits and ends the file; ``problems`` are noted in it, with the writer's own."""
        with self._change:
            self._final = list(problems)
            self._closing = True
            self._change.notify()
        self._thread.join()

    def _listed(self) -> tuple[str, ...]:
        lines = [self._failure] if self._failure else []
        for topic, count in sorted(self._dropped.items()):
            lines.append(f"{topic}: {count} messages dropped")
        return tuple(lines)

    def _run(self) -> None:
        try:
            self._write_all()
            with self._change:
                problems = list(dict.fromkeys([*self._final, *self._listed()]))
            self._bag.close(problems)
        except Exception as error:  # whatever it is, the recording must not go on as if nothing were
            reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            with self._change:
                self._failure = f"{self._bag.file}: recording ended: {reason}"
                self._queue.clear()
            self._bag.abandon()

    def _write_all(self) -> None:
        dirty_since: float | None = None
        while True:
            with self._change:
                if not self._queue and not self._closing:
                    left = None
                    if dirty_since is not None:
                        left = max(0.0, dirty_since + self._flush_after - time.monotonic())
                    self._change.wait(left)
                batch, self._queue = self._queue, deque()
                self._waiting = 0
                closing = self._closing
            for record in batch:
                self._bag.write(record.topic, record.type_name, record.data, record.log_time)
                dirty_since = dirty_since or time.monotonic()
                if time.monotonic() - dirty_since >= self._flush_after:
                    self._flush()
                    dirty_since = None
            if dirty_since is not None and time.monotonic() - dirty_since >= self._flush_after:
                self._flush()
                dirty_since = None
            if closing and not self._queue:
                return

    def _flush(self) -> None:
        self._bag.flush()
        free = free_bytes(self.path)
        if free < self._floor and not self._failure:
            with self._change:
                self._failure = (
                    f"{self._bag.file}: recording ended: {free / MEGABYTE:.0f} MB free on the disk, "
                    f"below {self._floor / MEGABYTE:.0f} MB"
                )
