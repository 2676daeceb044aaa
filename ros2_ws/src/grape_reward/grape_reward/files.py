"""Files that are whole or not there (written beside, synced, renamed), and files that are read up to a size."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def read_bounded(path: Path, most: int, error: type[Exception], empty: tuple[type[OSError], ...] = ()) -> bytes:
    """A file's bytes; none where opening it fails by one of ``empty``.

    Raises ``error`` naming a file that cannot be read or is over ``most`` bytes (whole MiB)."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except empty:
        return b""
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    if len(data) > most:
        raise error(f"{path}: over {most >> 20} MiB")
    return data


def write_whole(path: Path, data: str | bytes) -> None:
    """Replace ``path`` by ``data`` in one step; its folder must exist. A crash leaves the old file or the new one."""
    raw = data.encode() if isinstance(data, str) else data
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, 0o644)  # mkstemp's 0600 would hide an approval from the others of a lab
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
