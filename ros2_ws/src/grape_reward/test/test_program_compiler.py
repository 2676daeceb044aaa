"""The way in: files, the number of keypoints, what never is a number; the shipped programs."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from grape_reward.errors import CostError, ProgramError
from grape_reward.program.compiler import compile_program, load_program, program_name, read_text
from grape_reward.program.shipped import shipped_names, shipped_path, shipped_program
from grape_reward.tasks import TASKS


def one(result: str) -> str:
    return f"num_stages = 1\ndef stage1_target_constraint1(end_effector, keypoints):\n    return {result}\n"


def test_without_a_number_of_keypoints_a_program_may_need_up_to_64() -> None:
    for index in (0, 2, 7, 20, 63, -64):
        compile_program(one(f"keypoints[{index}][0]"), "p")
    compile_program(one("np.min(keypoints[40:])"), "p")
    with pytest.raises(ProgramError, match=r"keypoints\[64\] does not exist: K = 64"):
        compile_program(one("keypoints[64][0]"), "p")


def test_with_a_number_of_keypoints_indices_are_held_against_it() -> None:
    compile_program(one("keypoints[5][0]"), "p", 6)
    with pytest.raises(ProgramError, match=r"p:3:12: keypoints\[5\] does not exist: K = 5"):
        compile_program(one("keypoints[5][0]"), "p", 5)
    for count in (0, -1, 65):
        with pytest.raises(CostError, match=f"p: {count} keypoints: a program has from 1 to 64"):
            compile_program(one("1.0"), "p", count)


def test_a_program_serves_any_number_of_keypoints_that_it_makes_sense_for() -> None:
    program = compile_program(one("sum(o[0] for o in keypoints[2:])"), "p")
    for count in (1, 2, 3, 9):
        assert program.evaluate(0, np.zeros(3), np.ones((count, 3))) == (max(0, count - 2),)


def test_a_constraint_that_is_never_a_number_is_refused_and_one_that_mostly_is_not_is_kept() -> None:
    with pytest.raises(ProgramError, match=r"p:3:12: stage1_target_constraint1 is not a finite number at any of 64"):
        compile_program(one("np.sqrt(-0.1 - abs(end_effector[0]))"), "p")
    compile_program(one("np.sqrt(0.3 - abs(end_effector[0]))"), "p")


def test_a_files_errors_name_it(tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"nothing\.txt: No such file"):
        load_program(tmp_path / "nothing.txt")
    with pytest.raises(CostError, match="Is a directory"):
        read_text(tmp_path)
    (tmp_path / "p.txt").write_bytes(b"\xff")
    with pytest.raises(ProgramError, match=r"p\.txt:1:1: the file is not UTF-8"):
        load_program(tmp_path / "p.txt")


def test_a_program_is_called_as_its_file_or_its_tasks_folder() -> None:
    names = [program_name(where) for where in ("a/safety.txt", "safety", "tasks/stack/program.txt", "program.txt")]
    assert names == ["safety", "safety", "stack", "program"]


def test_an_error_survives_the_way_between_processes() -> None:
    with pytest.raises(ProgramError) as caught:
        compile_program("import os", "p")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.findings == caught.value.findings


def test_the_shipped_programs_are_those_of_the_tasks() -> None:
    assert set(shipped_names()) == {task.program.name for task in TASKS.values()}
    for name in shipped_names():
        assert shipped_program(name).name == name and shipped_path(name).is_file()
    with pytest.raises(CostError, match="no cost program 'juggle' is shipped: there are carrot_on_plate"):
        shipped_program("juggle")
    with pytest.raises(CostError, match="is shipped"):
        shipped_path("../tasks")
