"""ROS domains for stacks that must not meet: each held by a lock file as long as it is in use."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DomainError(Exception):
    """No ROS domain is free."""


@contextmanager
def reserve(low: int = 1, high: int = 99) -> Iterator[int]:
    """A domain id in ``low..high`` that no other run on this machine holds. Raises DomainError.

    The lock files are those of ``grape_episode.testing.free_domain``, so that tests and runs keep apart, too."""
    folder = Path(tempfile.gettempdir()) / "grape_ros_domains"
    folder.mkdir(exist_ok=True)
    for domain in range(low, high + 1):
        with open(folder / str(domain), "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield domain
            return
    raise DomainError(f"all ROS domains from {low} to {high} are in use: end another run")
