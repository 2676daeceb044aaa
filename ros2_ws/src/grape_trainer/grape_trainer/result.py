"""How a training run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape_trainer.errors import TrainingError
from grape_trainer.files import read_json

RESULT, LEFT_OUT, SNAPSHOTS = "result.json", "left_out.json", "snapshots"
FINISHED, DRIFT, KL, TIME = "finished", "drift", "kl", "time"
RUNNING = "running"
"""Status in the manifest of a snapshot."""


@dataclass(frozen=True)
class Result:
    """How a run ended: ``reason`` for people, ``status`` one of finished, drift, kl, time.

    ``updates`` were done, the weights are those after ``kept_update`` of them; ``changed`` is False when they are
    those it began with. ``figures``: the last check and the last update. ``left_out``: episodes that were not trained
    on, each with ``episode_id``, ``path`` and ``reason``; ``recorded_difference``: the largest one between a recorded
    and a recomputed log-prob among those that were, nats."""

    status: str
    reason: str
    updates: int
    kept_update: int
    changed: bool
    pairs: int
    held_pairs: int
    figures: dict[str, Any]
    seconds: float
    left_out: list[dict[str, str]] = field(default_factory=list)
    recorded_difference: float = 0.0


def read_result(output: Path) -> Result:
    """The result in a training run's output folder. Raises TrainingError naming the file."""
    held = read_json(output / RESULT, TrainingError)
    held.pop("fingerprint", None)
    try:
        return Result(**held)
    except TypeError as error:
        raise TrainingError(f"{output / RESULT}: {error}") from None
