"""Which run a returning trainer goes on with, and which one it leaves to people."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from grape_trainer.errors import LoopError
from grape_trainer.files import write_json
from grape_trainer.goal import AlignGoal, close_note, interrupted, open_note

GOAL = AlignGoal(("carrot_on_plate",), 2, seed=7, bags=("/b/1", "/b/2"))


def test_only_a_run_that_was_broken_off_lately_is_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "align-1"
    assert interrupted(tmp_path, 60.0) is None
    open_note(run, GOAL)
    assert interrupted(tmp_path, 60.0) == (run, GOAL)
    write_json(run / "align.json", {"ended": True})
    assert interrupted(tmp_path, 60.0) is None, "it died behind its end"
    write_json(run / "align.json", {"ended": False})
    assert interrupted(tmp_path, 60.0) == (run, GOAL)
    close_note(run, GOAL)
    assert interrupted(tmp_path, 60.0) is None, "it was cancelled, or the node was told to end"


def test_an_old_run_is_left_to_people_and_the_newest_is_taken(tmp_path: Path) -> None:
    for number, age in ((1, 1000.0), (2, 20.0), (3, 10.0)):
        folder = tmp_path / f"align-{number}"
        open_note(folder, AlignGoal(seed=number))
        then = time.time() - age
        os.utime(folder / "goal.json", (then, then))
    found = interrupted(tmp_path, 600.0)
    assert found is not None and found[1].seed == 3
    assert interrupted(tmp_path, 5.0) is None


def test_a_note_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a/goal.json", {"open": True, "goal": {"speed": 9}})
    with pytest.raises(LoopError, match=r"goal\.json"):
        interrupted(tmp_path, 60.0)
