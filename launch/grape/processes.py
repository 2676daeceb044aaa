"""Node processes: started with their parameters and a log each, watched, ended in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import yaml

OWNER = "GRAPE_STACK"
"""Environment variable of every node process: process id of who started it (tests find strays by it)."""


@dataclass(frozen=True)
class Command:
    """One node to start. ``parameters`` come after those of ``parameter_files``; ``log`` takes stdout and stderr."""

    name: str
    module: str
    log: Path
    parameters: Mapping[str, object] = field(default_factory=dict)
    parameter_files: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    log_level: str = ""


def parameter_document(name: str, values: Mapping[str, object]) -> str:
    """A ROS 2 parameter file for one node in any namespace; paths become text."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    return yaml.safe_dump({f"/**/{name}": {"ros__parameters": plain}}, sort_keys=True)


class NodeProcess:
    """A running node, in a process group of its own: Ctrl-C at the terminal reaches the parent only, which ends
    the nodes in order."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.log = command.log
        command.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [sys.executable, "-m", command.module, "--ros-args"]
        for file in command.parameter_files:
            arguments += ["--params-file", str(file)]
        if command.parameters:
            own = command.log.with_suffix(".yaml")  # kept beside the log: it says what ran
            own.write_text(parameter_document(command.name, command.parameters))
            arguments += ["--params-file", str(own)]
        if command.log_level:
            arguments += ["--log-level", command.log_level]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", OWNER: str(os.getpid()), **command.environment}
        self._out: IO[bytes] = command.log.open("wb")
        self.process = subprocess.Popen(
            arguments, env=environment, stdout=self._out, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def name(self) -> str:
        return self.command.name

    def running(self) -> bool:
        return self.process.poll() is None

    def last_line(self) -> str:
        """The last line of the log that is not empty; empty where there is none."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def ended(self) -> str | None:
        """Why and how it ended, in one line with the end of its log; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{self.name} {how}: {self.last_line() or 'it printed nothing'} ({self.log})"

    def signal(self, number: int) -> None:
        """To the whole process group; nothing where it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within ``seconds``."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self._out.close()


def stop(processes: Sequence[NodeProcess], grace: float = 10.0) -> list[str]:
    """Ends processes in the reverse order of their start, all within ``grace`` seconds: SIGINT, SIGTERM, SIGKILL.

    The last one, which acts, is waited for before the others are told. Returns the names of those that had to be
    killed; what they held (an open bag) may be incomplete."""
    end = time.monotonic() + grace
    reverse = list(reversed(processes))
    for index, process in enumerate(reverse):
        if process.running():
            process.signal(signal.SIGINT)
            if index == 0:
                process.wait(grace / 2)
    killed = []
    for process in reverse:
        if not process.wait(max(0.0, end - time.monotonic())):
            process.signal(signal.SIGTERM)
            if not process.wait(1.0):
                killed.append(process.name)
        # also when it ended itself: a child of its own may be left in the group
        process.signal(signal.SIGKILL)
        process.wait(5.0)
        process.close()
    return killed
