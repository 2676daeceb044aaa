"""Plans: an instant's cost is the same bits however many are evaluated, whatever is not finite, and nothing twice."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.errors import CostError
from grape_reward.program import plan as plans
from grape_reward.program.builder import Builder
from grape_reward.program.compiler import compile_program
from grape_reward.program.shipped import shipped_names, shipped_program
from grape_reward.program.syntax import read
from grape_reward.program.typed import typed

GRAMMAR = runpy.run_path(str(Path(__file__).parent / "generated_programs.py"))
K = GRAMMAR["KEYPOINTS"]


def one(body: str) -> str:
    return f"num_stages = 1\ndef stage1_target_constraint1(end_effector, keypoints):\n    {body}\n"


def trajectory(seed: int, instants: int, keypoints: int = K) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (instants, 3)), generator.uniform(-1, 1, (instants, keypoints, 3))


def bits(values: np.ndarray) -> list[int]:
    return np.asarray(values, np.float64).view(np.int64).tolist()


def same_bits(program, end_effector: np.ndarray, keypoints: np.ndarray, instants: list[int]) -> None:
    try:
        whole = program.evaluate_all(end_effector, keypoints)
    except CostError:
        return
    stages = range(len(program.stages))
    for instant in instants:
        live = [v for stage in stages for v in program.evaluate(stage, end_effector[instant], keypoints[instant])]
        assert bits(np.array(live)) == bits(np.array([whole[term.name][instant] for term in program.terms]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 8, 17, 64, 1001]))
def test_one_instant_alone_has_the_bits_that_it_has_in_a_trajectory(seed: int, instants: int) -> None:
    try:
        program = compile_program(GRAMMAR["Generator"](seed).program(), "generated", K)
    except CostError:
        return
    same_bits(program, *trajectory(seed, instants), sorted({0, 1, instants // 2, instants - 1}))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_programs_have_the_same_bits_live_and_offline(name: str) -> None:
    same_bits(shipped_program(name), *trajectory(1, 300, 6), list(range(0, 300, 7)))


@pytest.mark.parametrize("function", ["exp", "log1p", "sin", "cos", "tan", "arctan", "tanh", "sqrt", "log2", "expm1"])
def test_vectorised_functions_have_the_same_bits_at_every_place_of_a_trajectory(function: str) -> None:
    text = one(f"return np.{function}(abs(end_effector[1])) + np.sum(np.{function}(abs(keypoints[::2, 1])))")
    program = compile_program(text, "p")
    for instants in (1, 2, 3, 5, 16, 333):
        same_bits(program, *trajectory(instants, instants, 7), list(range(min(instants, 20))))


def test_chunks_and_memory_layout_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    end_effector, keypoints = trajectory(3, 200, 6)
    program = shipped_program("eggplant_in_basket")
    whole = program.evaluate_all(end_effector, keypoints)
    monkeypatch.setattr(plans, "CHUNK_ELEMENTS", 200)
    for path, points in ((end_effector, keypoints), (np.asfortranarray(end_effector), np.asfortranarray(keypoints))):
        again = program.evaluate_all(path, points)
        assert all(bits(whole[name]) == bits(again[name]) for name in whole)


def test_the_inputs_are_left_as_they_are() -> None:
    end_effector, keypoints = trajectory(0, 10)
    before = end_effector.copy(), keypoints.copy()
    for seed in range(20):
        try:
            compile_program(GRAMMAR["Generator"](seed).program(), "p", K).evaluate_all(end_effector, keypoints)
        except CostError:
            continue
    assert (end_effector == before[0]).all() and (keypoints == before[1]).all()


def test_a_doubling_chain_of_variables_costs_its_length() -> None:
    lines = ["a0 = end_effector"] + [f"a{n + 1} = 0.5 * (a{n} + a{n})" for n in range(30)]
    program = compile_program(one("\n    ".join([*lines, "return np.sum(a30)"])), "p")
    assert program.evaluate(0, np.array([1.0, 2.0, 4.0]), np.zeros((1, 3))) == (7.0,)


def test_equal_constraints_share_their_steps() -> None:
    body = "(end_effector, keypoints):\n    return sum(np.linalg.norm(o - end_effector) for o in keypoints)\n"
    text = "num_stages = 2\n" + "".join(f"def stage{n}_target_constraint1{body}" for n in (1, 2))
    _, functions = read(text, "p")
    builder = Builder(4)
    first = typed(functions[0], builder)
    steps = len(builder.steps)
    assert typed(functions[1], builder).step == first.step and len(builder.steps) == steps
    plan = builder.plan([first])
    assert plan.outputs[0].keypoints_read == (0, 1, 2, 3) and plan.outputs[0].end_effector_read


def test_a_plan_knows_what_it_looks_at() -> None:
    def outputs(body: str) -> tuple[bool, tuple[int, ...]]:
        _, (function,) = read(one(body), "p")
        builder = Builder(5)
        output = builder.plan([typed(function, builder)]).outputs[0]
        return output.end_effector_read, output.keypoints_read

    assert outputs("return 1.0") == (False, ())
    assert outputs("return end_effector[2]") == (True, ())
    assert outputs("return keypoints[-1][2] + keypoints[1, 0]") == (False, (1, 4))
    assert outputs("return np.max(keypoints[3:, 2])") == (False, (3, 4))
    assert outputs("return np.sum(keypoints * 2)") == (False, (0, 1, 2, 3, 4))
    assert outputs("unused = keypoints[0]\n    return keypoints[1][0]") == (False, (1,))


def test_faults_follow_the_branch_that_is_taken() -> None:
    keypoints = np.zeros((4, 1, 3))
    keypoints[:, 0, 0] = [-1.0, 0.0, 1.0, 2.0]
    end_effector = np.zeros((4, 3))

    def costs(expression: str) -> list[float]:
        text = one(f"x = keypoints[0][0]\n    return {expression}")
        return compile_program(text, "p").evaluate_all(end_effector, keypoints)["stage1_target_constraint1"].tolist()

    assert costs("int(np.log(x)) if x > 0 else -1") == [-1.0, -1.0, 0.0, 0.0]
    assert costs("x > 0 and int(10 * np.log(x)) or 5") == [5.0, 5.0, 5.0, 6.0]
    assert costs("sum(int(np.log(o[0])) for o in keypoints if o[0] > 0) + 1") == [1.0] * 4
    for text in ("max(0, int(np.log(x)))", "1.0 if round(np.sqrt(x)) > 0 else 0.0", "float(int(1 / x) == 0 or x > 9)"):
        with pytest.raises(CostError, match="is nan at instant"):
            costs(text)
