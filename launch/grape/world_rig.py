"""A rig without topics: rollouts collected in worker processes, their bags written as the recorder writes them.

For alignments of thousands of rollouts on one machine; what is collected over ROS topics is the same, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from grape import evaluation
from grape.workers import WorldWorkers
from grape_policy.adapters import AdapterError, read_adapter
from grape_policy.checkpoint import base_hash
from grape_trainer.rig import Ack, Job, Rollout


class WorldRig:
    """Implements ``grape_trainer.rig.Rig`` with worlds in this machine's processes. ``bags``: folder for the bags."""

    def __init__(self, model: Path, bags: Path, workers: int = 0) -> None:
        self._model, self._bags, self._workers = Path(model), Path(bags), workers
        self._base_hash = base_hash(self._model)
        self._adapter: Path | None = None

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None:
        adapter = str(self._adapter) if self._adapter else ""
        wanted = {
            evaluation.Job(j.task, j.variant or "clean", j.initial_state, j.seed, j.temperature, adapter): j
            for j in jobs
        }
        objectives = {j.objective for j in jobs}
        if len(objectives) > 1:
            raise ValueError(f"one objective a call, not {', '.join(sorted(objectives))}")
        workers = WorldWorkers(
            self._model, self._workers, objectives.pop() if objectives else "task_completion", self._bags
        )
        for result in workers.run(list(wanted)):
            bag = Path(result.bag)
            key, success = wanted[result.job].key, result.reward_success
            done(Rollout(key, str(bag), bag.name, result.end_reason, "", result.adapter_id, success))

    def load_adapter(self, path: Path | None) -> Ack:
        try:
            adapter_id = read_adapter(path, self._base_hash).manifest.adapter_id if path else ""
        except AdapterError as error:
            return Ack(False, str(error))
        self._adapter = path.resolve() if path else None
        return Ack(True, "", adapter_id)

    def cancelled(self) -> bool:
        return False
