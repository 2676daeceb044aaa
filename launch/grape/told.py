"""What the policy is told in a simulated initial state: the world decides it, and a goal over topics says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from grape_sim.scene import instruction_of
from grape_sim.tasks import UNSEEN, VARIED
from grape_trainer.rig import Ack, Job, Rig, Rollout


def words_for(task: str, variant: str, initial_state: int) -> str:
    """The instruction of an unseen or varied world; empty, which means the task's own, for any other.

    Raises SimError where the variant is not the task's."""
    return instruction_of(task, variant, initial_state) if variant in (*UNSEEN, VARIED) else ""


class Told:
    """A rig whose jobs say what their worlds ask for, where the jobs themselves say nothing."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None:
        told = [replace(j, instruction=j.instruction or words_for(j.task, j.variant, j.initial_state)) for j in jobs]
        self._rig.collect(told, done)

    def load_adapter(self, path: Path | None) -> Ack:
        return self._rig.load_adapter(path)

    def cancelled(self) -> bool:
        return self._rig.cancelled()
