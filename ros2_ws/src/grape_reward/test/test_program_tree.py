"""The canonical text and its hash: the same for the same meaning, another for another, on any Python version."""

import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.errors import CostError
from grape_reward.program.compiler import compile_program
from grape_reward.program.shipped import shipped_names, shipped_path
from grape_reward.program.syntax import read
from grape_reward.program.tree import canonical_program

GRAMMAR = runpy.run_path(str(Path(__file__).parent / "generated_programs.py"))
TEXT = '''num_stages = 1

def stage1_target_constraint1(end_effector, keypoints):
    """Doc."""
    grape = keypoints[0]
    far = sum(max(0, 0.1 - np.linalg.norm(end_effector - o)) for o in keypoints[2:])
    return far if end_effector[2] > grape[2] else np.sum(grape ** 2, axis=0)
'''


def canonical(text: str) -> str:
    return canonical_program(read(text, "p")[1])


def generated(seed: int) -> str:
    return GRAMMAR["Generator"](seed).program()


def test_the_canonical_text_is_pinned() -> None:
    assert canonical(TEXT) == (
        "grape cost program 1\n"
        "stage1_target_constraint1\n"
        "  v1 = (item keypoints 0)\n"
        "  v3 = (sum (each (max 0 (- 0.1 (np.linalg.norm (- end_effector v2)))) for v2 in (item keypoints 2::)))\n"
        "  return (if (compare[>] (item end_effector 2) (item v1 2)) v3 (np.sum (** v1 2) axis=0))\n"
    )


def test_the_shipped_programs_hashes_are_pinned() -> None:
    """Approvals and recorded scores name them: whoever changes one on purpose changes it here."""
    hashes = {name: compile_program(shipped_path(name).read_text(), name).hash[:16] for name in shipped_names()}
    assert hashes == {
        "carrot_on_plate": "a7c34d0d9995ea41",
        "eggplant_in_basket": "38a69a685ec3629d",
        "green_cube_on_yellow_cube": "86e9d373ca6d7bd5",
        "spoon_on_towel": "d899e0a068bf2b6c",
    }


def dressed(text: str, choose: st.DataObject) -> str:
    """With other layout: comments, empty lines, blanks about operators, brackets about returned values."""
    lines = []
    for line in text.split("\n"):
        pick = choose.draw(st.integers(0, 4))
        if pick == 1:
            lines += ["", '    # a comment, "quotes" and (']
        if pick == 2 and line.startswith("    ") and '"""' not in line:
            line += "   # " + "x" * choose.draw(st.integers(0, 20))
        if pick == 3:
            line = line.replace(", ", " ,  ").replace("keypoints[", "keypoints [ ")
        if pick == 4 and line.startswith("    return "):
            line = f"    return (\n        ({line.partition('#')[0].strip()[7:]})\n    )"
        lines.append(line)
    return "\n".join(lines)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1000), st.data())
def test_comments_and_layout_do_not_change_it(seed: int, data: st.DataObject) -> None:
    text = generated(seed)
    assert canonical(dressed(text, data)) == canonical(text)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["", "renamed_", "_"]))
def test_names_of_variables_docstrings_and_line_ends_do_not_change_it(seed: int, prefix: str) -> None:
    text = generated(seed)
    names = sorted(set(re.findall(r"\b(?:cost|offset|x|object)\d+\b", text)))
    other = text
    for number, name in enumerate(names):
        other = re.sub(rf"\b{name}\b", f"{prefix}w{number}_{name}", other)
    other = re.sub(r"\bo\b", "obstacle", other)
    other = re.sub(r'"""[^"]*"""', "'''Another\n\n    docstring'''", other)
    assert canonical(other.replace("\n", "\r\n")) == canonical(text)


def test_the_order_of_functions_does_not_change_it() -> None:
    parts = [f"def stage1_{kind}_constraint1(end_effector, keypoints):\n    return 1.0\n" for kind in ("path", "grasp")]
    forth, back = ("num_stages = 1\n" + "".join(order) for order in (parts, parts[::-1]))
    assert canonical(forth) == canonical(back)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0.1 -", "0.2 -"),
        ("max(0,", "max(0.0,"),
        ("max(0,", "min(0,"),
        ("2:]", "1:]"),
        ("2:]", ":2]"),
        ("2:]", "2::2]"),
        ("> grape", ">= grape"),
        ("keypoints[0]", "keypoints[1]"),
        ("axis=0", "axis=-1"),
        (", axis=0", ""),
        ("** 2", "** 3"),
        ("far if", "2 * far if"),
        ("grape = keypoints[0]", "grape = keypoints[0] + 0"),
        ("end_effector - o", "o - end_effector"),
        ("for o in keypoints[2:]", "for o in keypoints[2:] if o[0] > 0"),
        ("(max(0, 0.1 - np.linalg.norm(end_effector - o)) for o in keypoints[2:])", "(0 for o in keypoints[2:])"),
        ("_target_", "_path_"),
        ("constraint1", "constraint2"),
    ],
)
def test_any_change_of_meaning_changes_it(before: str, after: str) -> None:
    other = TEXT.replace(before, after)
    assert other != TEXT and canonical(other) != canonical(TEXT)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_different_programs_have_different_texts(one: int, two: int) -> None:
    try:
        hashes = [compile_program(generated(seed), "p", 5).hash for seed in (one, two)]
    except CostError:
        return
    assert (hashes[0] == hashes[1]) == (one == two)
