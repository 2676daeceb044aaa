"""Rollouts in several processes of this machine, each with a world and a policy of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path

from grape.evaluation import EvaluationError, Job, Result

_AHEAD = 4
"""Jobs handed out per worker: enough that none waits, few enough that an interruption loses little."""


class WorldWorkers:
    """An ``evaluation.Runner`` over processes. ``model``: folder of a checkpoint; ``workers``: 0 for one a core;
    ``bags``: folder into which every rollout is written as a bag, None for none."""

    def __init__(
        self, model: Path, workers: int = 0, objective: str = "task_completion", bags: Path | None = None
    ) -> None:
        self._arguments = (str(model), objective, str(bags or ""))
        self._workers = workers or len(os.sched_getaffinity(0))

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Results as they come; the first error of a worker is raised here and ends the others."""
        # spawn: a fork of a process that has torch or ROS threads may hang
        context = multiprocessing.get_context("spawn")
        workers = min(self._workers, len(jobs))
        with ProcessPoolExecutor(workers, context, _prepare, self._arguments) as pool:
            waiting = iter(jobs)
            running: set[Future[Result]] = set()
            try:
                while True:
                    for job in waiting:
                        running.add(pool.submit(_run, job))
                        if len(running) >= workers * _AHEAD:
                            break
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except BrokenProcessPool:
                raise EvaluationError("a process with a world ended by force: is there enough memory?") from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


_arguments: tuple[str, str, str] = ("", "", "")
_loop = None


def _prepare(model: str, objective: str, bags: str) -> None:
    global _arguments
    _arguments = (model, objective, bags)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for jobs on a pipe that its siblings hold open as well: it would outlive a killed parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run(job: Job) -> Result:
    global _loop
    model, objective, bags = _arguments
    if _loop is None:  # not in _prepare: an error there would reach nobody by name
        from grape.closed_loop import ClosedLoop

        _loop = ClosedLoop(Path(model), threads=1)
    rollout = _loop.run(job, objective)
    if not bags:
        return rollout.result
    from grape_episode.synthetic import write_episode

    folder = write_episode(rollout.episode, Path(bags) / rollout.episode.identity.episode_id)
    return replace(rollout.result, bag=str(folder))
