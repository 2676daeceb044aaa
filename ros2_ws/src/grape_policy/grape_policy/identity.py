"""Who an episode is: its name and its identity, from a goal and what serves it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from grape_episode.episode import DEMONSTRATION, Identity
from grape_policy.parameters import by_task, task_instruction

CODE_VERSION = "0.1.0"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def episode_id(task: str, initial_state: int, seed: int, at: datetime | None = None) -> str:
    """Unique, and sortable by task, initial state, seed, time (UTC, microseconds): also the name of the bag.

    Raises ValueError naming a task with other characters than letters, digits, ``_``, ``.`` and ``-``."""
    if not _NAME.fullmatch(task):
        raise ValueError(f"task {task!r}: a task's name has letters, digits, '_', '.' and '-' only")
    at = at or datetime.now(UTC)
    return f"{task}-{initial_state:010d}-{seed:010d}-{at:%Y%m%dT%H%M%S}.{at.microsecond:06d}"


def episode_identity(goal: Any, value: Callable[[str], Any], base_hash: str, adapter: Any, stamp: int) -> Identity:
    """The identity of an episode of a RunEpisode ``goal``, announced at ``stamp`` (ROS time, nanoseconds).

    ``value`` gives a parameter of the node by its name; ``adapter`` is what serves. Raises ValueError naming the
    task, or the field of the goal."""
    if not (goal.temperature >= 0.0 and goal.temperature < float("inf")):
        raise ValueError(f"temperature {goal.temperature}: must be finite and not below 0")
    if goal.demonstration and value("lock_step"):
        raise ValueError("demonstration: in lock-step the world waits for a policy's steps: a person needs real time")
    return Identity(
        episode_id=episode_id(goal.task, goal.initial_state, goal.seed),
        task=goal.task,
        instruction=task_instruction(goal.task, goal.instruction, value("instructions")),
        variant=goal.variant,
        initial_state=goal.initial_state,
        objective=goal.objective or "task_completion",
        seed=goal.seed,
        temperature=goal.temperature,
        step_limit=goal.step_limit or value("demonstration_limit" if goal.demonstration else "step_limit"),
        control_period=value("control_period"),
        lock_step=value("lock_step"),
        base_hash=base_hash,
        adapter_id=adapter.adapter_id,
        adapter_seq=adapter.adapter_seq,
        cost_program_hash=by_task(goal.task, value("cost_programs")),
        calibration_hash=value("calibration_hash"),
        code_version=CODE_VERSION,
        notes=(DEMONSTRATION,) if goal.demonstration else (),
        stamp=stamp,
    )
