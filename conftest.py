"""For every test: the shell must be set up, nothing reaches the network, no node outlives the session."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore = ["ros2_ws/src/grape"]
"""A link to launch/, whose tests are collected there."""
SESSION = "GRAPE_TEST_SESSION"
"""Environment variable that every process started under these tests inherits: process id of the pytest that started."""

# tests run side by side: a thread pool each on every core only slows them down
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure(config: pytest.Config) -> None:
    for module in ("rclpy", "grape_interfaces", "grape_episode"):
        if importlib.util.find_spec(module) is None:
            pytest.exit(f"{module} cannot be imported: run `make setup`, then `. ./env.sh` in this shell", 4)
    os.environ.setdefault(SESSION, str(os.getpid()))


def pytest_unconfigure(config: pytest.Config) -> None:
    if os.environ.get(SESSION) != str(os.getpid()):
        return  # a worker of pytest-xdist, or a pytest within a test
    for pid, command in strays(os.environ[SESSION]):
        print(f"left running by a test, ended now: {pid} {command}")
        os.kill(pid, signal.SIGKILL)


def strays(session: str) -> Iterator[tuple[int, str]]:
    """(process id, command line) of ROS nodes that were started under ``session`` and still run."""
    mark = f"{SESSION}={session}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            found = b"--ros-args" in command and mark in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if found:
            yield int(folder.name), b" ".join(command).decode(errors="replace").strip()
