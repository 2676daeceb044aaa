"""For tests over real topics: nodes as processes in a ROS domain of their own, and waiting on conditions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Timeout(AssertionError):
    """A condition did not come true before its deadline."""


def wait_for(condition: Callable[[], T], what: str, deadline: float = 20.0, poll: float = 0.01) -> T:
    """The first truthy value of ``condition()``; raises Timeout naming ``what`` after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"waited {deadline:g} s in vain for {what}")
        time.sleep(poll)


def rehearse(attempt: Callable[[float], object], deadlines: Sequence[float] = (5.0, 5.0, 20.0)) -> None:
    """``attempt(deadline)`` until one ends without Timeout; the last one's is raised.

    Before a test in lock-step: the graph says who hears whom, not that they have found each other, and a first message
    that is lost meanwhile would be missed for good."""
    for deadline in deadlines[:-1]:
        try:
            attempt(deadline)
        except Timeout:
            continue
        return
    attempt(deadlines[-1])


def free_domain() -> int:
    """A ROS domain id in 1..99 that no other test process on this machine holds: a lock file guards it.

    The lock lives as long as this process."""
    import fcntl
    import tempfile

    folder = Path(tempfile.gettempdir()) / "grape_ros_domains"
    folder.mkdir(exist_ok=True)
    for domain in range(1, 100):
        handle = open(folder / str(domain), "w")  # noqa: SIM115  held until the process ends
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            continue
        _held.append(handle)
        return domain
    raise RuntimeError("all 99 ROS domains are taken by other tests")


_held: list = []


class NodeProcess:
    """``python -m MODULE --ros-args ARGS`` in a domain, its output in a log file; a context manager.

    Leaving it sends SIGINT, then after ``grace`` seconds SIGKILL to its process group."""

    def __init__(
        self,
        module: str,
        domain: int,
        log: Path,
        params: dict[str, object] | None = None,
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        grace: float = 10.0,
    ) -> None:
        command = [sys.executable, "-m", module, *arguments, "--ros-args"]
        for name, value in (params or {}).items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        env.setdefault("OMP_NUM_THREADS", "1")
        env.update(environment or {})
        self.module, self.log, self.grace = module, log, grace
        self._out = open(log, "w")  # noqa: SIM115  closed by stop()
        self.process = subprocess.Popen(
            command, env=env, stdout=self._out, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, deadline: float = 20.0) -> int:
        """Exit status; raises Timeout."""
        wait_for(lambda: not self.running(), f"{self.module} to end", deadline)
        return int(self.process.returncode)

    def stop(self) -> None:
        if self.running():
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(self.grace)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._out.close()

    def kill(self) -> None:
        """SIGKILL, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is not None:
            print(f"--- output of {self.module} ---\n{self.output}", file=sys.stderr)
