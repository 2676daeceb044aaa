"""A canary by the rig that collects: the new adapter and the serving one act on the same states, greedily.

The verdict is a non-inferiority test on the reward's own predicate, so it needs no world that judges itself: it works
on an arm as it does in simulation, and costs an episode for each state, task and side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_episode import statistics
from grape_policy.adapters import read_manifest
from grape_trainer.errors import LoopError, SettingsError
from grape_trainer.files import append_line, read_lines
from grape_trainer.gate import Verdict
from grape_trainer.plan import Canary
from grape_trainer.registry import Registry
from grape_trainer.rig import Job, Rig, Rollout, rollout_jobs

FIRST_STATE = 900_000
"""First initial-state id of a canary: never trained on, never reported."""


@dataclass(frozen=True)
class CanaryPlan:
    """``states`` a task, from ``first_state`` on. A new adapter is taken only where its success is shown to be no worse
    by ``bound``: the lower end of the paired difference's 95 % interval lies above ``-bound``. So a canary of few
    states refuses what it cannot tell from harm. Raises SettingsError for values that make no sense."""

    tasks: tuple[str, ...]
    states: int
    bound: float = 0.05
    first_state: int = FIRST_STATE
    variant: str = ""
    step_limit: int = 0

    def __post_init__(self) -> None:
        if self.states < 0:
            raise SettingsError(f"canary states: must be at least 0, not {self.states}")
        if not 0 <= self.bound <= 1:
            raise SettingsError(f"canary bound: must be in [0, 1], not {self.bound}")

    @property
    def jobs(self) -> list[Job]:
        """One greedy episode a state, not recorded: nothing is to be learnt from it."""
        jobs = rollout_jobs(
            self.tasks, self.states, 1, self.first_state, 0, self.variant, temperature=0.0, step_limit=self.step_limit
        )
        return [dataclasses.replace(job, record=False) for job in jobs]


def verdict(old: Sequence[int], new: Sequence[int], bound: float) -> Verdict:
    """Of successes (1) and failures (0) on the same states, in the same order; -1, unknown, leaves a state out."""
    known = [(a, b) for a, b in zip(old, new, strict=True) if a >= 0 and b >= 0]
    if not known:
        return Verdict(False, "canary: the success of no episode is known: is the reward node running?")
    gap = statistics.paired([a for a, _ in known], [b for _, b in known])
    words = statistics.in_words(gap, "success on the canary")
    accepted = gap.low > -bound
    if not accepted:
        words += f" A loss of {100 * bound:.0f} points cannot be excluded."
    return Verdict(accepted, words, {"success": gap.as_dict(), "bound": bound})


def rig_canary(plan: CanaryPlan, rig: Rig, registry: Path, folder: Path) -> Canary | None:
    """A judge of new adapters; None where the plan has no states.

    Each side is loaded, then acts on every state that ``folder`` has no result of yet, so that an interrupted
    judgement goes on. Returns early, with a refusal, once the rig is cancelled: the loop then ends. The judge raises
    LoopError where the rig refuses to load a side, another adapter acted, or an episode has no result."""
    if plan.states == 0:
        return None

    def trial(adapter: Path) -> Verdict:
        new_id = read_manifest(adapter).adapter_id
        serving = Registry(registry).current
        path = folder / f"canary-{new_id[:12]}-against-{serving[:12] or 'base'}.jsonl"
        found = _found(path)
        sides = {serving: Registry(registry).current_path, new_id: adapter}
        jobs = plan.jobs
        for side, where in sides.items():
            missing = [job for job in jobs if (side, job.key) not in found]
            if missing:
                _act(rig, side, where, missing, found, path)
            if rig.cancelled():
                return Verdict(False, "canary: cancelled")
        lost = [f"{side[:12] or 'base'}: {job.key}" for side in sides for job in jobs if (side, job.key) not in found]
        if lost:
            raise LoopError(f"{path}: {len(lost)} episodes of the canary have no result, the first {lost[0]}")
        old, new = ([found[side, job.key] for job in jobs] for side in (serving, new_id))
        return verdict(old, new, plan.bound)

    return trial


def _act(
    rig: Rig,
    side: str,
    where: Path | None,
    jobs: Sequence[Job],
    found: dict[tuple[str, str], int],
    path: Path,
) -> None:
    ack = rig.load_adapter(where)
    if not ack.accepted:
        raise LoopError(f"canary: {side[:12] or 'the base model'} was not loaded: {ack.reason}")

    def done(rollout: Rollout) -> None:
        if rollout.adapter_id != side:
            other = rollout.adapter_id[:12] or "the base model"
            raise LoopError(f"canary: {rollout.key}: {other} acted instead of {side[:12] or 'the base model'}")
        found[side, rollout.key] = rollout.success
        append_line(path, {"adapter_id": side, "key": rollout.key, "success": rollout.success})

    rig.collect(jobs, done)


def _found(path: Path) -> dict[tuple[str, str], int]:
    lines: list[dict[str, Any]] = read_lines(path) if path.exists() else []
    return {(str(line["adapter_id"]), str(line["key"])): int(line["success"]) for line in lines}
