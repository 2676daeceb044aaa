"""What collects rollouts and serves adapters, as the align loop sees it; and several of them as one."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grape_trainer.errors import RigError


@dataclass(frozen=True)
class Job:
    """One rollout to be made; the fields are those of RunEpisode.action."""

    task: str
    initial_state: int
    seed: int
    variant: str = ""
    instruction: str = ""
    objective: str = "task_completion"
    temperature: float = 1.0
    step_limit: int = 0
    record: bool = True

    @property
    def key(self) -> str:
        """Names the job within a run."""
        return f"{self.task}/{self.variant}/{self.initial_state}/{self.seed}"


@dataclass(frozen=True)
class Rollout:
    """A rollout that was made: ``bag`` is its folder, empty where none was recorded; ``success`` by the reward's own
    predicate: 1, 0, or -1 unknown."""

    key: str
    bag: str
    episode_id: str = ""
    end_reason: str = ""
    detail: str = ""
    adapter_id: str = ""
    success: int = -1


@dataclass(frozen=True)
class Ack:
    """The policy's answer to a load: ``adapter_id`` is what serves now."""

    accepted: bool
    reason: str = ""
    adapter_id: str = ""


class Rig(Protocol):
    """A policy in a world. ``collect`` calls ``done`` after each rollout, from any thread, and returns early once
    ``cancelled``; it raises RigError when the stack does not answer."""

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None: ...
    def load_adapter(self, path: Path | None) -> Ack: ...
    def cancelled(self) -> bool: ...


class RigPool:
    """Several rigs as one: each takes the next job when it is free; an adapter serves on all of them or on none."""

    def __init__(self, rigs: Sequence[Rig]) -> None:
        if not rigs:
            raise RigError("no rig: at least one stack of nodes must collect")
        self.rigs = list(rigs)
        self._serving: Path | None = None

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None:
        """Raises the first error of a rig, after the others have ended the rollout they were at."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        errors: list[BaseException] = []
        lock = threading.Lock()

        def told(rollout: Rollout) -> None:
            with lock:
                done(rollout)

        def work(rig: Rig) -> None:
            while not errors and not self.cancelled():
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    rig.collect([job], told)
                except BaseException as error:  # handed to the caller's thread
                    errors.append(error)

        threads = [threading.Thread(target=work, args=(rig,), name=f"rig-{i}") for i, rig in enumerate(self.rigs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def load_adapter(self, path: Path | None) -> Ack:
        """Load on every rig; when one refuses, the others go back to what was loaded before."""
        ack = Ack(False, "no rig")
        for number, rig in enumerate(self.rigs):
            ack = rig.load_adapter(path)
            if not ack.accepted:
                for other in self.rigs[:number]:
                    other.load_adapter(self._serving)
                return ack
        self._serving = path
        return ack

    def cancelled(self) -> bool:
        return any(rig.cancelled() for rig in self.rigs)


def rollout_jobs(
    tasks: Sequence[str],
    states: int,
    rollouts: int,
    first_state: int,
    seed: int,
    variant: str = "",
    objective: str = "task_completion",
    temperature: float = 1.0,
    step_limit: int = 0,
) -> list[Job]:
    """``rollouts`` jobs for each of ``states`` initial states of each task, the seed of each its own."""
    jobs = []
    for state in range(first_state, first_state + states):
        for task in tasks:
            for number in range(rollouts):
                own = f"{seed}/{task}/{variant}/{state}/{number}".encode()
                # 63 bits: the seed goes through signed integers on its way
                job_seed = int.from_bytes(hashlib.sha256(own).digest()[:8]) >> 1
                jobs.append(
                    Job(
                        task=task,
                        initial_state=state,
                        seed=job_seed,
                        variant=variant,
                        objective=objective,
                        temperature=temperature,
                        step_limit=step_limit,
                    )
                )
    return jobs
