"""What the format allows, and where and how the rest is refused."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.errors import ProgramError
from grape_reward.program.body import MAX_DEPTH, MAX_NODES
from grape_reward.program.functions import CONSTANTS, FUNCTIONS
from grape_reward.program.refusals import SENTENCES
from grape_reward.program.syntax import read

TEXT = '''"""Module."""
# comment
num_stages = 2

def stage2_path_constraint1(end_effector, keypoints):
    return 1.0

def stage1_grasp_constraint1(end_effector, keypoints):
    """First line.

    Second line."""
    a, (b) = keypoints[0], keypoints[1]  # unpacked
    a = a + b; c = 1.0
    c += 0.5
    return np.sum(a) + c

def stage1_target_constraint2(end_effector, keypoints): return 0
'''


def findings(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(ProgramError) as caught:
        read(text, "p.txt")
    return [(f.line, f.column, f.message) for f in caught.value.findings]


def test_functions_come_ordered_with_their_stage_kind_number_and_summary() -> None:
    count, functions = read(TEXT, "p")
    assert count == 2
    assert [(f.name, f.stage, f.kind, f.number, f.summary) for f in functions] == [
        ("stage1_target_constraint2", 1, "target", 2, ""),
        ("stage1_grasp_constraint1", 1, "grasp", 1, "First line."),
        ("stage2_path_constraint1", 2, "path", 1, ""),
    ]
    assert [assign.targets for assign in functions[1].body] == [("a", "b"), ("a",), ("c",), ("c",)]


def test_every_function_with_a_fault_is_reported_in_the_order_of_the_text() -> None:
    text = TEXT.replace("return 1.0", "return print").replace("np.sum(a)", "np.load(a)") + "import os\n"
    assert [(line, column) for line, column, _ in findings(text)] == [(6, 12), (15, 12), (18, 1)]
    with pytest.raises(ProgramError) as caught:
        read(text, "p.txt")
    assert str(caught.value).startswith("p.txt:6:12: print is not available") and str(caught.value).endswith("2 more)")
    assert len(caught.value.lines) == 3


def test_a_missing_stage_is_reported_though_a_function_of_it_is_faulty() -> None:
    assert [line for line, _, _ in findings(TEXT.replace("return 1.0", "return print"))] == [6]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("num_stages = 2", "", "num_stages is missing"),
        ("num_stages = 2", "num_stages = 3", "stage 3 has no constraint, though num_stages is 3"),
        ("num_stages = 2", "num_stages = 1", "stage2_path_constraint1 belongs to no stage: num_stages is 1"),
        ("num_stages = 2", "num_stages = 0", "num_stages must be a whole number from 1"),
        ("num_stages = 2", "num_stages = '2'", "num_stages must be a whole number from 1"),
        ("num_stages = 2", "num_stages = other = 2", "num_stages must be"),
        ("stage2_path_constraint1", "stage2_speed_constraint1", "stage2_speed_constraint1 is not named"),
        ("stage2_path_constraint1", "stage0_path_constraint1", "stage0_path_constraint1 is not named"),
        ("stage2_path_constraint1", "stage02_path_constraint1", "stage02_path_constraint1 is not named"),
        ("constraint1(end_effector, keypoints)", "constraint1(tcp)", "must take exactly"),
        ("constraint1(end_effector, keypoints)", "constraint1(keypoints, end_effector)", "must take exactly"),
    ],
)
def test_a_program_that_lies_about_its_stages_is_refused_by_name(before: str, after: str, words: str) -> None:
    assert any(words in message for _, _, message in findings(TEXT.replace(before, after, 1)))


def one(result: str) -> str:
    return f"num_stages = 1\ndef stage1_target_constraint1(end_effector, keypoints):\n    return {result}\n"


def test_the_limits_of_nodes_and_depth_are_where_they_say() -> None:
    sums = "sum([" + ", ".join(["1.0"] * (MAX_NODES - 2)) + "])"
    read(one(sums), "p")
    assert "more than 256 nodes" in findings(one(sums.replace("])", ", 1.0])")))[0][2]
    deep = "abs(" * (MAX_DEPTH - 1) + "1.0" + ")" * (MAX_DEPTH - 1)
    read(one(deep), "p")
    assert "nested more than 16 deep" in findings(one(f"abs({deep})"))[0][2]


def test_every_function_has_a_rule_and_about_forty_are_numpys() -> None:
    from grape_reward.program.kernels import KERNELS
    from grape_reward.program.rules import Rules

    for name, signature in FUNCTIONS.items():
        assert hasattr(Rules, f"_{signature.rule}"), name
        assert signature.operation in KERNELS or signature.operation in ("", "clip"), name
    assert len([name for name in FUNCTIONS if name.startswith("np.")]) >= 30
    assert set(CONSTANTS) == {"np.pi"}


UNDERSTOOD = {
    *(ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List),
    *(ast.Tuple, ast.Subscript, ast.Slice, ast.Call, ast.GeneratorExp, ast.ListComp),
    *(ast.Assign, ast.AugAssign, ast.Expr, ast.Return),
}


@pytest.mark.parametrize("base", [ast.expr, ast.stmt])
def test_every_construct_of_python_is_understood_or_has_a_sentence(base: type[ast.AST]) -> None:
    """But for those that only later versions of Python have, and parts of others."""
    rare = {"FormattedValue", "TemplateStr", "Interpolation", "TypeAlias"}
    silent = {c for c in base.__subclasses__() if c not in UNDERSTOOD and c not in SENTENCES and c.__name__ not in rare}
    assert not silent


@pytest.mark.parametrize(
    ("result", "column", "words"),
    [
        ("math.sqrt(2.0)", 12, "math.sqrt is not available: use np; is np.sqrt meant?"),
        ("numpy.linalg.norm(end_effector)", 12, "is np.linalg.norm meant?"),
        ("np.linalg.nrm(end_effector)", 12, "is np.linalg.norm meant?"),
        ("1.0 + keypoints.shape[0]", 18, "len(keypoints) is the number of keypoints"),
        ("abs(1.0, 2.0)", 12, "abs takes 1 arguments, here are 2"),
        ("np.sum(end_effector, keepdims=1)", 33, "np.sum takes no argument keepdims= here: it knows axis"),
        ("np.sqrt", 12, "np.sqrt is a function: call it, np.sqrt(...)"),
        ("end_effector & 1", 12, "use and, or, not"),
        ("1.0 in keypoints", 12, "`in` and `is` are not understood"),
    ],
)
def test_a_refusal_says_where_and_what_to_write_instead(result: str, column: int, words: str) -> None:
    (line, at, message), *rest = findings(one(result))
    assert (line, at, rest) == (3, column, []) and words in message


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                *"()[]:,.=+-*/%<>@\n#'\"0123",
                " ",
                "    ",
                "np",
                "keypoints",
                "end_effector",
                "def ",
                "return ",
                "for ",
                "in ",
                "if ",
                "else ",
                "not ",
                "lambda ",
                "stage1_path_constraint1",
                "num_stages",
                "sum",
            ]
        )
    )
)
def test_any_text_is_read_or_refused_in_one_line_a_finding(parts: list[str]) -> None:
    text = "num_stages = 1\ndef stage1_target_constraint1(end_effector, keypoints):\n    return " + "".join(parts)
    try:
        read(text, "p")
    except ProgramError as error:
        assert error.findings and all(line.isprintable() for line in error.lines)
