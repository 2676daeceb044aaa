"""What an align run is asked for, and the note beside it by which a trainer that died goes on when it returns."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_trainer.errors import LoopError, TrainerError
from grape_trainer.files import read_json, write_json
from grape_trainer.loop import STATE

NOTE = "goal.json"


@dataclass(frozen=True)
class AlignGoal:
    """The goal of Align.action; zero and empty mean the default. ``bags``: rollouts that were collected elsewhere."""

    tasks: Sequence[str] = ()
    iterations: int = 0
    states: int = 0
    rollouts: int = 0
    first_state: int = 0
    objective: str = ""
    preset: str = ""
    seed: int = 0
    bags: Sequence[str] = ()


def open_note(folder: Path, goal: AlignGoal) -> None:
    """Note that a run in this folder is under way."""
    write_json(folder / NOTE, {"open": True, "goal": dataclasses.asdict(goal)})


def close_note(folder: Path, goal: AlignGoal) -> None:
    """The run ended in order: done, cancelled or failed. It goes on only when it is asked for again."""
    write_json(folder / NOTE, {"open": False, "goal": dataclasses.asdict(goal)})


def interrupted(runs: Path, within: float) -> tuple[Path, AlignGoal] | None:
    """The run whose trainer died under it less than ``within`` seconds ago, the newest; None: there is none.

    Older ones are left to people: a robot must not begin to move because a machine was switched on. Raises LoopError
    naming a note that cannot be read."""
    newest: tuple[float, Path, AlignGoal] | None = None
    for path in runs.glob(f"*/{NOTE}"):
        changed = max(p.stat().st_mtime for p in path.parent.rglob("*") if p.is_file())
        note = read_json(path, LoopError)
        state = path.parent / STATE
        over = state.exists() and read_json(state, LoopError).get("ended")
        if not note.get("open") or over or time.time() - changed > within:
            continue
        try:
            told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in note["goal"].items()}
            goal = AlignGoal(**told)
        except (KeyError, TypeError, AttributeError) as error:
            raise LoopError(f"{path}: {error}") from None
        if newest is None or changed > newest[0]:
            newest = (changed, path.parent, goal)
    return newest[1:] if newest else None


def one_line(error: BaseException) -> str:
    """An error's text in one line; its type where it has none of ours."""
    words = " ".join(str(error).split())
    return words if isinstance(error, TrainerError) else f"{type(error).__name__}: {words}"
