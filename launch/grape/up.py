"""`grape up`: the nodes of the house, each in a process of its own, brought up in order and ended in order.

with bring_up(StackConfig(domain=7, log_dir=Path("runs/up"), lock_step=True, model=default_model(), ...)) as stack:
    ...
    if problem := stack.failed(): ...
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from grape.lifecycle import LifecycleError
from grape.lifecycle import bring_up as activate
from grape.nodes import PROFILES, NodesError, NodeSpec, parameters, profile_file, select
from grape.paths import PathError, params
from grape.processes import Command, NodeProcess, stop

if TYPE_CHECKING:
    from grape.manager_node import Manager

READY_SECONDS = 180.0
"""For all nodes to answer: on a busy machine the imports alone take a minute."""
LIFECYCLE_SECONDS = 180.0
"""For one transition: configuring loads the model."""


class StackError(Exception):
    """The nodes did not come up; the text begins with the node's name and quotes the end of its log."""


@dataclass(frozen=True)
class StackConfig:
    """What to start. ``episodes_root``: folder of the bags; ``log_dir``: one log and parameter file per node;
    ``nodes``: keys of :data:`grape.nodes.NODES`; ``extra_params``: {key: {parameter: value}}, last word;
    ``profile``: the gate's, a name of :data:`grape.nodes.PROFILES` or a file; ``threads``: of inference."""

    domain: int
    log_dir: Path
    lock_step: bool
    model: Path
    registry: Path | None
    episodes_root: Path
    nodes: tuple[str, ...] = ("sim", "gate", "reward", "recorder", "policy")
    extra_params: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    threads: int = 1
    profile: str = "sim"
    params_file: Path | None = None
    log_level: str = ""


class Stack:
    """Running nodes; a context manager. Not thread safe. ``start`` may be called once."""

    def __init__(self, config: StackConfig, modules: Mapping[str, str] | None = None) -> None:
        """``modules``: {key: module} run in place of the house's own, for tests of this class."""
        self.config = config
        self.processes: list[NodeProcess] = []
        self._modules = dict(modules or {})
        self._handlers: dict[int, object] = {}

    def start(self) -> Stack:
        """Starts every process, then waits in order until each answers, then activates the lifecycle nodes.

        Raises StackError, with everything ended again, when one does not come up."""
        try:
            specs = select(self.config.nodes)
            commands = [self._command(spec) for spec in specs]
        except (NodesError, PathError) as error:
            raise StackError(str(error)) from None
        self._handlers = _exit_on_signals()
        try:
            # all at once: they find each other through discovery, and their imports use every core
            self.processes = [NodeProcess(command) for command in commands]
            self._await(specs)
        except BaseException:
            self.stop()
            raise
        return self

    def failed(self) -> str | None:
        """One line on the first node that is not running any more; None while all are."""
        return next((text for process in self.processes if (text := process.ended())), None)

    def stop(self, grace: float = 30.0) -> list[str]:
        """Ends every node, the one that acts first; names of those that had to be killed after ``grace`` seconds."""
        killed = stop(self.processes, grace)
        self.processes = []
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers = {}
        return killed

    def process(self, key: str) -> NodeProcess:
        """The process of the node with this key. Raises NodesError, or KeyError where it was not started."""
        name = select([key])[0].name
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(key)

    def __enter__(self) -> Stack:
        return self if self.processes else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, spec: NodeSpec) -> Command:
        config = self.config
        files = config.params_file or params("sim.yaml")
        profile = profile_file(config.profile, params(PROFILES["sim"]).parent)
        values = parameters(
            model=config.model.absolute(),
            registry=config.registry.absolute() if config.registry else None,
            episodes=config.episodes_root.absolute(),
            profile=profile,
            lock_step=config.lock_step,
            threads=config.threads,
        )[spec.key]
        return Command(
            name=spec.name,
            module=self._modules.get(spec.key, spec.module),
            log=config.log_dir.absolute() / f"{spec.name}.log",
            parameters={**values, **config.extra_params.get(spec.key, {})},
            parameter_files=(files,),
            environment={**environment(config.domain, config.log_dir), "OMP_NUM_THREADS": str(config.threads)},
            log_level=config.log_level,
        )

    def _await(self, specs: tuple[NodeSpec, ...]) -> None:
        end = time.monotonic() + READY_SECONDS
        try:
            with _manager(self.config.domain, self._check) as manager:
                for spec in specs:
                    manager.await_ready(spec.name, max(1.0, end - time.monotonic()))
                activate(manager, [spec.name for spec in specs if spec.lifecycle])
        except LifecycleError as error:
            raise StackError(self._with_log(error)) from None

    def _check(self) -> None:
        problem = self.failed()
        if problem:
            raise StackError(problem)

    def _with_log(self, error: LifecycleError) -> str:
        for process in self.processes:
            if process.name == error.node:
                # a node that ends right after a refused transition has said why
                process.wait(1.0)
                return f"{error}: {process.last_line() or 'it printed nothing'} ({process.log})"
        return str(error)


def bring_up(config: StackConfig) -> Stack:
    """A started stack, to be used in a ``with`` statement. Raises StackError."""
    return Stack(config).start()


def environment(domain: int, log_dir: Path) -> dict[str, str]:
    """What a node process gets beside the parent's environment: its domain, localhost unless the caller chose
    otherwise, the Fast DDS profile for images, a place for ROS's own logs."""
    found = {"ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(log_dir.absolute() / "ros")}
    found["ROS_AUTOMATIC_DISCOVERY_RANGE"] = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    profile = params("sim.yaml").parent.parent / "config" / "fastdds.xml"
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        found[name] = os.environ.get(name, str(profile))
    return found


def _exit_on_signals() -> dict[int, object]:
    """SIGTERM and SIGHUP end this process as an exit does, so that the nodes end with it; the handlers before.

    Handlers that somebody has set are left alone, and threads other than the main one cannot set any."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    changed: dict[int, object] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            changed[number] = signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    return changed


@contextmanager
def _manager(domain: int, check: Callable[[], None]) -> Iterator[Manager]:
    """A manager with a ROS context of its own in ``domain``, whatever the process uses otherwise."""
    # read when the first participant is made in this process, which must find the nodes under the same rules
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, environment(domain, Path())[name])
    try:
        from grape.manager_node import managing
    except ImportError as error:
        raise StackError(f"ROS 2 is not there ({error}): run `. ./env.sh` first") from None
    with managing(domain, LIFECYCLE_SECONDS, check) as manager:
        yield manager
