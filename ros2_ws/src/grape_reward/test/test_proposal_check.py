"""What the proposer asks of the compiler, and what the documentation says of it."""

import re
from pathlib import Path

import pytest

from grape_reward.errors import CostError, ProgramError
from grape_reward.program.compiler import compile_program
from grape_reward.proposal_check import allowed_functions, compile_check, read_program

PROGRAM = """num_stages = 2
def stage1_target_constraint1(end_effector, keypoints):
    return np.linalg.norm(end_effector - keypoints[0])
def stage1_path_constraint1(end_effector, keypoints):
    return 1.0
def stage2_collision_constraint1(end_effector, keypoints):
    return keypoints[1][2]
"""
PAGE = Path(__file__).resolve().parents[4] / "docs" / "cost_programs.md"


def test_a_program_is_known_by_its_hash_and_kinds() -> None:
    checked = compile_check(PROGRAM, 2)
    assert checked.kinds == (frozenset({"target", "path"}), frozenset({"collision"}))
    assert checked.hash == compile_program(PROGRAM, "x", 2).hash
    with pytest.raises(ProgramError, match=r"program\.txt:7:"):
        compile_check(PROGRAM, 1)


def test_the_text_that_is_shown_is_the_text_that_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(PROGRAM)
    assert read_program(path, None) == (PROGRAM, compile_check(PROGRAM, 2).hash)
    path.write_text(PROGRAM + "import os\n")
    with pytest.raises(ProgramError, match=r"a\.txt:8:1"):
        read_program(path, None)
    with pytest.raises(CostError, match=r"none\.txt"):
        read_program(tmp_path / "none.txt", None)


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not beside the package")
def test_the_page_lists_what_the_compiler_allows() -> None:
    table = PAGE.read_text().split("<!-- functions")[1].split("## ")[0].split("| --- | --- |")[1]
    assert sorted(re.findall(r"`([\w.]+)`", table.replace("`axis=`", ""))) == sorted(allowed_functions())
