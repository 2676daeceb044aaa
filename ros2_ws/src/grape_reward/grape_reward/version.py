"""Which code a score was computed by."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

RELEASE = "0.1.0"
_SOURCES = (
    "costs.py",
    "gcpg.py",
    "holding.py",
    "predicates.py",
    "program/*.py",
    "reducer.py",
    "sight.py",
    "spec.py",
    "stages.py",
    "task_file.py",
    "timeline.py",
    "totals.py",
)
"""What decides the numbers of a score."""


@functools.cache
def code_version() -> str:
    """The release, and the beginning of the sha256 of the source files that decide a score."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(folder.glob(pattern)):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(data)}\n".encode())
            digest.update(data)
    return f"{RELEASE}+{digest.hexdigest()[:12]}"
