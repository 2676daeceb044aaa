import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.costs import canonical_ast
from grape_reward.errors import CostError
from grape_reward.program.compiler import compile_program
from grape_reward.tasks import TASKS

GOOD = """
num_stages = 2

def stage2_path_constraint1(end_effector, keypoints):
    return 1.0

def stage1_collision_constraint1(end_effector, keypoints):
    return keypoints[0][2] - end_effector[2]

def stage1_target_constraint2(end_effector, keypoints):
    return 2.0

def stage1_target_constraint1(end_effector, keypoints):
    return np.sqrt(np.sum((end_effector - keypoints[0]) ** 2))
"""
SOMEWHERE = np.array([[0.0, 0.0, 3.0]]), np.array([[[4.0, 0.0, 3.0], [0.0, 0.0, 0.0]]])


@pytest.fixture
def program():
    return compile_program(GOOD, "good.txt")


def test_a_text_becomes_a_program_ordered_by_stage_kind_and_number(program):
    assert program.name == "good"
    assert [[term.name for term in stage] for stage in program.stages] == [
        ["stage1_target_constraint1", "stage1_target_constraint2", "stage1_collision_constraint1"],
        ["stage2_path_constraint1"],
    ]
    assert [term.kind for term in program.terms] == ["target", "target", "collision", "path"]
    assert program.evaluate(0, SOMEWHERE[0][0], SOMEWHERE[1][0]) == (4.0, 2.0, 0.0)


def test_a_whole_trajectory_gives_every_cost_by_name_at_every_instant(program):
    end_effector, keypoints = (np.repeat(array, 5, axis=0) for array in SOMEWHERE)
    costs = program.evaluate_all(end_effector, keypoints)
    assert list(costs) == [term.name for term in program.terms]
    assert {name: values.tolist() for name, values in costs.items()} == {
        "stage1_target_constraint1": [4.0] * 5,
        "stage1_target_constraint2": [2.0] * 5,
        "stage1_collision_constraint1": [0.0] * 5,
        "stage2_path_constraint1": [1.0] * 5,
    }
    empty = program.evaluate_all(np.zeros((0, 3)), np.zeros((0, 2, 3)))
    assert all(values.shape == (0,) for values in empty.values())


def test_a_program_that_has_been_used_travels_between_processes(program):
    program.evaluate_all(*SOMEWHERE)
    again = pickle.loads(pickle.dumps(program))
    assert again == program and again.hash == program.hash
    assert again.evaluate(0, SOMEWHERE[0][0], SOMEWHERE[1][0]) == (4.0, 2.0, 0.0)


def test_a_cost_of_an_unknown_position_is_an_error_that_names_it_and_not_a_guess(program):
    end_effector, keypoints = (np.repeat(array, 5, axis=0) for array in SOMEWHERE)
    keypoints[3, 0, 1] = np.nan
    named = "good: stage1_target_constraint1 needs keypoint 0, which is not finite"
    with pytest.raises(CostError, match=f"{named} at instant 3"):
        program.evaluate_all(end_effector, keypoints)
    with pytest.raises(CostError, match=f"{named}$"):
        program.evaluate(0, end_effector[3], keypoints[3])
    assert program.evaluate(1, end_effector[3], keypoints[3]) == (1.0,), "this one looks at no keypoint"
    keypoints[3] = keypoints[0]
    keypoints[:, 1] = np.nan
    program.evaluate_all(end_effector, keypoints)
    end_effector[2, 2] = np.inf
    with pytest.raises(CostError, match="needs end_effector, which is not finite at instant 2"):
        program.evaluate_all(end_effector, keypoints)


def test_a_max_does_not_hide_an_unknown_position():
    text = GOOD.replace("keypoints[0][2] - end_effector[2]", "max(0, keypoints[0][2] - end_effector[2])")
    with pytest.raises(CostError, match=r"stage1_(collision|target)_constraint1 needs"):
        compile_program(text, "p").evaluate(0, np.full(3, np.nan), np.zeros((2, 3)))


def test_a_cost_that_is_no_number_is_named_with_its_instant():
    text = GOOD.replace("keypoints[0][2] - end_effector[2]", "np.log(end_effector[2])")
    program = compile_program(text, "good")
    end_effector, keypoints = (np.repeat(array, 3, axis=0) for array in SOMEWHERE)
    program.evaluate_all(end_effector, keypoints)
    end_effector[1, 2] = 0.0
    with pytest.raises(CostError, match="good: stage1_collision_constraint1 is -inf at instant 1"):
        program.evaluate_all(end_effector, keypoints)
    with pytest.raises(CostError, match=r"good: stage1_collision_constraint1 is -inf$"):
        program.evaluate(0, end_effector[1], keypoints[1])


def test_a_whole_number_of_what_is_none_is_an_error_even_where_a_comparison_would_swallow_it():
    hidden = "1.0 if int(np.log(end_effector[2])) > 0 else 0.0"
    text = GOOD.replace("keypoints[0][2] - end_effector[2]", hidden)
    with pytest.raises(CostError, match="stage1_collision_constraint1 is nan"):
        compile_program(text, "p").evaluate(0, np.zeros(3), np.zeros((2, 3)))
    guarded = f"({hidden}) if end_effector[2] > 0 else 7.0"
    text = GOOD.replace("keypoints[0][2] - end_effector[2]", guarded)
    values = compile_program(text, "p").evaluate(0, np.zeros(3), np.zeros((2, 3)))
    assert values[2] == 7.0, "the branch that is not taken cannot fail"


@pytest.mark.parametrize("shapes", [((5, 3), (4, 2, 3)), ((5, 2), (5, 2, 3)), ((5, 3), (5, 2, 2)), ((5, 3), (5, 3))])
def test_inputs_of_another_shape_are_refused_with_both(program, shapes):
    with pytest.raises(CostError, match=r"expected \(T, 3\) and \(T, K, 3\)"):
        program.evaluate_all(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_too_few_keypoints_at_run_time_are_refused_by_name_and_place():
    program = compile_program(GOOD.replace("keypoints[0][2]", "keypoints[4][2]"), "few")
    named = r"few: stage1_collision_constraint1: line 8, column 12: keypoints\[4\] does not exist: K = 2"
    with pytest.raises(CostError, match=named):
        program.evaluate_all(*SOMEWHERE)


def test_layout_comments_and_docstrings_do_not_change_the_canonical_source():
    plain = "x = 1\ndef f(a):\n    return a + 1\n"
    dressed = '"""Module."""\nx = 1  # one\n\n\ndef f(a):\n    """Doc."""\n    return (a\n            + 1)\n'
    assert canonical_ast(plain) == canonical_ast(dressed)


@pytest.mark.parametrize("other", ["a + 2", "a - 1", "b + 1", "a + 1.0", "a + '1'"])
def test_any_change_of_meaning_changes_the_canonical_source(other):
    assert canonical_ast("def f(a):\n    return a + 1\n") != canonical_ast(f"def f(a):\n    return {other}\n")


def test_the_canonical_source_is_pinned_across_python_versions():
    expected = (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='a')]),"
        "body=[Return(value=Subscript(value=Name(id='a'),slice=Constant(value=0)))])])"
    )
    assert canonical_ast("def f(a):\n    return a[0]\n") == expected


def test_what_is_not_python_is_refused():
    with pytest.raises(CostError, match="line 1"):
        canonical_ast("def f(:")


point = st.tuples(*[st.floats(-1.0, 1.0)] * 3)


@settings(max_examples=40)
@given(st.sampled_from(sorted(TASKS)), point, st.lists(point, min_size=2, max_size=6))
def test_every_shipped_cost_is_finite_and_not_negative_for_any_number_of_keypoints(task, end_effector, keypoints):
    program = TASKS[task].program
    for stage in range(len(program.stages)):
        values = program.evaluate(stage, np.array(end_effector), np.array(keypoints))
        assert all(value >= 0.0 for value in values)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_obstacle_costs_rise_on_approach_and_vanish_far_off_and_without_obstacles(task):
    program = TASKS[task].program
    things = [[0.4, 0.3, 0.02], [0.6, -0.3, 0.01]]
    obstacle = [0.5, 0.0, 0.075]
    index = [term.name for term in program.stages[1]].index("stage2_collision_constraint1")

    def cost(end_effector, *obstacles):
        return program.evaluate(1, np.array(end_effector), np.array([*things, *obstacles]))[index]

    beside = [cost([0.5, y, 0.05], obstacle) for y in (0.2, 0.1, 0.06, 0.02)]
    assert beside == pytest.approx([0.0, 0.02, 0.06, 0.10])
    above = [cost([0.5, 0.0, z], obstacle) for z in (0.3, 0.25, 0.2, 0.1)]
    assert above == pytest.approx([0.0, 0.02, 0.07, 0.12])
    assert cost([0.5, 0.02, 0.05]) == 0.0


def test_carrying_low_costs_near_the_baskets_wall_and_beside_the_cube():
    basket = TASKS["eggplant_in_basket"].program
    wall = [term.name for term in basket.stages[1]].index("stage2_collision_constraint2")
    low, high, far = ([0.5, 0.10, 0.03], [0.5, 0.10, 0.12], [0.5, 0.2, 0.03])
    costs = [basket.evaluate(1, np.array(p), np.array([p, [0.5, 0.0, 0.006]]))[wall] for p in (low, high, far)]
    assert costs == pytest.approx([0.04, 0.0, 0.0])
    cubes = TASKS["green_cube_on_yellow_cube"].program
    push = [term.name for term in cubes.stages[1]].index("stage2_collision_constraint2")
    low, high, far = ([0.5, 0.05, 0.03], [0.5, 0.05, 0.08], [0.5, 0.06, 0.03])
    costs = [cubes.evaluate(1, np.array(p), np.array([p, [0.5, 0.0, 0.06]]))[push] for p in (low, high, far)]
    assert costs == pytest.approx([0.005, 0.0, 0.0])
