"""Values, shapes and their refusals, expression by expression, for a gripper at (1, 2, 3) and four keypoints."""

import math

import numpy as np
import pytest

from grape_reward.errors import CostError, ProgramError
from grape_reward.program.compiler import compile_program

EFFECTOR = np.array([1.0, 2.0, 3.0])
POINTS = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0], [-2.0, 5.0, 1.0]])


def program(result: str, *lines: str):
    body = "".join(f"    {line}\n" for line in [*lines, f"return {result}"])
    text = f"num_stages = 1\ndef stage1_target_constraint1(end_effector, keypoints):\n{body}"
    return compile_program(text, "p", len(POINTS))


def value(result: str, *lines: str) -> float:
    return program(result, *lines).evaluate(0, EFFECTOR, POINTS)[0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("np.linalg.norm(end_effector - keypoints[0])", 3.0),
        ("np.linalg.norm(keypoints, axis=1)[3]", math.sqrt(30)),
        ("np.linalg.norm(end_effector, 1)", 6.0),
        ("np.linalg.norm(keypoints[:, :2])", math.sqrt(5 + 1 + 29)),
        ("keypoints[-1][0] + keypoints[-1, 1]", 3.0),
        ("np.sum(keypoints[1:3, 2])", 3.0),
        ("np.sum(keypoints[::-2])", 4.0),
        ("np.max(keypoints)", 5.0),
        ("np.mean(keypoints, axis=0)[1]", 1.75),
        ("np.sum(keypoints, 0)[2]", 4.0),
        ("sum(o[1] for o in keypoints)", 7.0),
        ("sum(keypoints)[1]", 7.0),
        ("sum((o for o in keypoints), end_effector)[0]", 1.0),
        ("sum(o[1] for o in keypoints if o[1] > 0)", 7.0),
        ("sum(1 for o in keypoints if o[1] > 1 if o[0] > 0)", 1.0),
        ("sum(o[1] > 1 for o in keypoints)", 2.0),
        ("sum(range(5))", 10.0),
        ("sum(i * keypoints[i][1] for i in range(len(keypoints)))", 15.0),
        ("sum(a[0] * b[1] for a in keypoints[:2] for b in keypoints[2:])", 5.0),
        ("sum(x - y for x, y, z in keypoints)", -7.0),
        ("min(o[0] for o in keypoints)", -2.0),
        ("max([o[0] for o in keypoints])", 1.0),
        ("min((o[0] for o in keypoints if o[2] > 2), default=9)", 1.0),
        ("min((o[0] for o in keypoints if o[2] > 7), default=9)", 9.0),
        ("max((o[1] for o in keypoints[4:]), default=-1)", -1.0),
        ("max(1, 2.5, -1)", 2.5),
        ("min(end_effector)", 1.0),
        ("np.min([o[2] for o in keypoints[1:]])", 0.0),
        ("np.sum(o[1] for o in keypoints)", 7.0),
        ("np.array([end_effector[0], 2, 0.5])[2]", 0.5),
        ("np.sum(np.array([o[:2] for o in keypoints]))", 7.0),
        ("[1.0, end_effector[1], 3.0][1]", 2.0),
        ("(1, 2, 3)[-1] + len([4, 5])", 5.0),
        ("len(keypoints) * 10 + len(end_effector) + len(keypoints[2:])", 45.0),
        ("len(range(1, 9, 3))", 3.0),
        ("int(-2.7) + int(2.7)", 0.0),
        ("int(end_effector[0] / 0.3)", 3.0),
        ("round(2.5) + round(3.5) + round(-0.4)", 6.0),
        ("round(end_effector[0] / 3, 2)", 0.33),
        ("round(0.05, 1)", 0.1),
        ("float(end_effector[0] > 0)", 1.0),
        ("7 // 2 + -7 // 2 + 7 % 3 + -7 % 3", 2.0),
        ("end_effector[2] // 2 + -end_effector[2] % 2", 2.0),
        ("2 ** 3 + end_effector[1] ** -1 + 4 ** 0.5", 10.5),
        ("np.power(end_effector, 2)[2]", 9.0),
        ("end_effector @ keypoints[2] + np.dot(keypoints[3], [1, 1, 1])", 14.0),
        ("(keypoints @ end_effector)[3]", 11.0),
        ("np.cross(end_effector, keypoints[2])[0]", 6.0),
        ("np.clip(end_effector, 1.5, 2.5)[0] + np.clip(9, a_min=0, a_max=1)", 2.5),
        ("np.where(end_effector > 1.5, end_effector, 0.0)[0]", 0.0),
        ("1.0 if np.all(end_effector > 0) and not np.any(keypoints[1] != 0) else 0.0", 1.0),
        ("1.0 if all(o[2] >= 0 for o in keypoints) and any(o[0] < 0 for o in keypoints) else 0.0", 1.0),
        ("1.0 if any(o[2] > 9 for o in keypoints[4:]) else 0.5", 0.5),
        ("1.0 if all(o[2] > 9 for o in keypoints[4:]) else 0.5", 1.0),
        ("1.0 if 0 < end_effector[0] <= 1 < end_effector[1] != 3 else 0.0", 1.0),
        ("0.0 or end_effector[1]", 2.0),
        ("end_effector[0] and end_effector[1] and 0.5", 0.5),
        ("keypoints[1][0] and 1 / keypoints[1][0]", 0.0),
        ("1 / keypoints[1][0] if keypoints[1][0] else 4", 4.0),
        ("float(end_effector[0] > 5 or end_effector[1])", 2.0),
        ("(end_effector[0] > 0) * 2.5", 2.5),
        ("np.arctan2(end_effector[0], -0)", math.pi / 2),
        ("np.arctan2(int(-0.5), -end_effector[0])", math.pi),
        ("np.degrees(np.pi) + np.deg2rad(180) - np.pi", 180.0),
        ("np.hypot(3, end_effector[2] + 1)", 5.0),
        ("np.std(end_effector) ** 2 * 3", 2.0),
        ("np.sign(-end_effector[0]) + np.floor(1.5) + np.ceil(1.5)", 2.0),
        ("np.abs(keypoints[3])[0] + abs(-1)", 3.0),
        ("sum([])", 0.0),
        ("np.sum(keypoints[4:])", 0.0),
        ("np.minimum(end_effector, 2.0)[2]", 2.0),
        ("np.max(end_effector[0]) + np.sum(2.0)", 3.0),
        ("+end_effector[0] - -end_effector[1]", 3.0),
    ],
)
def test_values(expression: str, expected: float) -> None:
    assert value(expression) == pytest.approx(expected, abs=1e-12)


def test_statements() -> None:
    lines = ("x, y, z = end_effector", "a, b = keypoints[0], [1, 2, 3]", "x += y", "x *= 2", "b = b[0]", "x -= b")
    assert value("x + z + a[0]", *lines) == 9.0
    assert value("sum(near)", "near = [max(0, 4 - np.linalg.norm(end_effector - o)) for o in keypoints[2:3]]") == 2.0
    assert value("x[0]", "x = end_effector", "x = x + 1") == 2.0
    assert value("x + y + a + b", "x = y = end_effector[1]", "y += 1", "z = a, b = [10, 20]") == 35.0
    with pytest.raises(ProgramError, match="a line of its own"):
        program("x", "a, b = x = [1, 2]")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("keypoints[4][0]", r"keypoints\[4\] does not exist: K = 4, the last one is keypoints\[3\]"),
        ("keypoints[-5][0]", r"keypoints\[-5\] does not exist"),
        ("keypoints[len(keypoints)][0]", r"keypoints\[4\] does not exist"),
        ("end_effector[3]", "index 3 does not exist: this has 3 entries, 0 to 2"),
        ("keypoints[2:][2][0]", "index 2 does not exist"),
        ("[1.0, 2.0][2]", "index 2 does not exist: this list has 2 items"),
        ("end_effector[0][0]", "a number has no 1 indices"),
        ("keypoints[end_effector][0]", "known beforehand"),
        ("keypoints[True][0]", "known beforehand"),
        ("end_effector", r"one number, stage1_target_constraint1 returns an array of shape \(3,\)"),
        ("keypoints[:1, 0]", r"returns an array of shape \(1,\)"),
        ("end_effector[0] > 1", "returns true or false"),
        ("not end_effector[0]", "returns true or false"),
        ("end_effector[0] if end_effector else 1", "neither true nor false"),
        ("1.0 if end_effector > 0 else 0", "neither true nor false"),
        ("np.sum(end_effector if end_effector[0] > 0 else 0)", "both sides must have one shape"),
        ("np.sum(end_effector and end_effector)", "a part of and must be a number"),
        ("sum(0 < end_effector < 1)", "neither true nor false"),
        ("np.sum(end_effector + keypoints[0, :2])", r"shapes \(3,\) and \(2,\) do not fit"),
        ("np.min([])", "an empty list is no array"),
        ("np.min(keypoints[4:])", "no value for an empty array"),
        ("min(o[0] for o in keypoints[4:])", "nothing to choose from"),
        ("min(o[0] for o in keypoints if o[0] > 0)", "no item may pass this `if`: give default="),
        ("np.min([o[0] for o in keypoints if o[0] > 0])", "no fixed length"),
        ("len([o for o in keypoints if o[0] > 0])", "no fixed length"),
        ("np.array(o for o in keypoints)[0]", r"put \[ \] around it"),
        ("max(end_effector, 0)", "each item of max and min must be a number"),
        ("max(o for o in keypoints)", "each item of max and min must be a number"),
        ("[1.0] + [2.0]", "a list cannot be calculated with"),
        ("abs([1.0])[0]", "abs takes no list: use np.abs"),
        ("-[1.0]", "a list cannot be calculated with"),
        ("1.0 if [1] < [2] else 0", "a list cannot be calculated with"),
        ("end_effector[0] ** end_effector[1]", "exponent must be a constant"),
        ("2 ** 11", "exponent must be a constant from -10 to 10"),
        ("end_effector[0] ** end_effector", "exponent must be a constant"),
        ("-(end_effector[0] > 0)", "calculates with true and false"),
        ("np.sqrt(end_effector[0] > 0)", "calculates with true and false"),
        ("round(end_effector[0], end_effector[1])", "constant number of digits"),
        ("np.sum(keypoints, axis=2)", "axis must be a whole number"),
        ("np.linalg.norm(keypoints, ord=1)", "ord must be 1 or 2"),
        ("np.linalg.norm(end_effector, ord=3)", "ord must be 1 or 2"),
        ("np.clip(end_effector[0], 0)", "its lower and its upper bound"),
        ("sum(1 for i in range(end_effector[0]))", "range takes constants"),
        ("sum(1 for i in range(1, 2, 0))", "range takes constants"),
        ("sum(o for o in end_effector[0])", "cannot be gone through item by item"),
        ("sum(x for x, y in keypoints)", "cannot be split over 2 variables"),
        ("len(end_effector[0])", "a number has no length"),
        ("int(end_effector)", "must be a number"),
        ("1 % 0", "division by zero"),
        ("end_effector[0] / [0][0]", "division by zero"),
        ("1e300 * 1e300", "never a finite real number"),
        ("end_effector[0] + np.sqrt(-2)", "never a finite real number"),
    ],
)
def test_refusals(expression: str, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        program(expression)


def test_an_array_is_not_changed_in_place_and_a_generator_not_kept() -> None:
    with pytest.raises(ProgramError, match=r"4:\d+: .*write x = x \+ \.\.\."):
        program("x[0]", "x = 1.0 * end_effector", "x += 1")
    with pytest.raises(ProgramError, match="only once"):
        program("sum(g)", "g = (o[0] for o in keypoints)")


def test_what_is_not_a_number_at_run_time_is_an_error() -> None:
    with pytest.raises(CostError, match="stage1_target_constraint1 is inf"):
        value("1 / keypoints[1][0]")
    with pytest.raises(CostError, match="stage1_target_constraint1 is nan"):
        value("np.sqrt(keypoints[3][0])")
