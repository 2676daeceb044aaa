"""Indentation lost and given back."""

import re
from pathlib import Path

import pytest

from grape_reward.errors import ProgramError
from grape_reward.program.compiler import compile_program, repaired
from grape_reward.program.repair import repair
from grape_reward.program.shipped import shipped_names, shipped_path

PAPER = Path(__file__).parent / "paper"


def flattened(text: str) -> str:
    return "\n".join(line.lstrip() for line in text.split("\n"))


def test_the_papers_efficiency_program_gets_its_indentation_back() -> None:
    text = (PAPER / "efficiency.txt").read_text(encoding="utf-8")
    with pytest.raises(ProgramError):
        compile_program(text, "extracted")
    better = repaired(text, "extracted")
    assert better is not None
    program = compile_program(better, "restored")
    assert [term.name for term in program.terms] == [f"stage{n}_path_constraint1" for n in (1, 2, 3)]
    code = [line.strip() for line in text.split("\n") if line.strip() and "```" not in line]
    assert [line.strip() for line in better.split("\n") if line.strip()] == code, "nothing but layout may change"


def test_the_papers_safety_program_loses_the_fences_of_its_page_break() -> None:
    text = (PAPER / "safety.txt").read_text(encoding="utf-8")
    with pytest.raises(ProgramError, match="code fence"):
        compile_program(text, "extracted")
    better = repaired(text, "extracted")
    assert better is not None and "```" not in better
    assert len(compile_program(better, "restored").stages) == 3


def test_the_papers_completion_program_needs_no_repair() -> None:
    text = (PAPER / "task_completion.txt").read_text(encoding="utf-8")
    assert repair(text) is None
    assert len(compile_program(text, "extracted").stages) == 3


@pytest.mark.parametrize("name", shipped_names())
def test_a_program_without_any_indentation_comes_back_with_the_same_meaning(name: str) -> None:
    text = shipped_path(name).read_text(encoding="utf-8")
    better = repaired(flattened(text), name)
    assert better is not None
    assert compile_program(better, name).hash == compile_program(text, name).hash


def test_lines_within_brackets_and_docstrings_are_kept_readable() -> None:
    text = 'num_stages = 1\ndef stage1_path_constraint1(end_effector, keypoints):\n"""One.\n\nMore.\n"""\n'
    text += "cost = sum(\no[0]\nfor o in keypoints\n)\nreturn cost\n"
    assert repair(text) == (
        'num_stages = 1\ndef stage1_path_constraint1(end_effector, keypoints):\n    """One.\n\nMore.\n"""\n'
        "    cost = sum(\n        o[0]\n        for o in keypoints\n    )\n    return cost\n"
    )


def test_too_much_indentation_is_taken_away() -> None:
    text = shipped_path("spoon_on_towel").read_text(encoding="utf-8")
    wild = re.sub(r"^(    )", "  \t ", text, flags=re.MULTILINE)
    wild = re.sub(r"^(def|num_stages)", r"   \1", wild, flags=re.MULTILINE)
    better = repaired(wild, "p")
    assert better is not None and compile_program(better, "p").hash == compile_program(text, "p").hash


@pytest.mark.parametrize("text", ["", "x = '", "import os\n", "for o in keypoints:\nx = o\n"])
def test_what_is_not_a_matter_of_indentation_gets_no_repair(text: str) -> None:
    assert repaired(text, "p") is None
