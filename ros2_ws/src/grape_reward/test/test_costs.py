import importlib.util
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.costs import canonical_ast, program_from_module
from grape_reward.errors import CostError
from grape_reward.tasks import TASKS

GOOD = """
import numpy as np
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


@pytest.fixture
def load(tmp_path):
    def write_and_load(source: str):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("program", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return write_and_load


def test_a_module_becomes_a_program_ordered_by_stage_kind_and_number(load):
    program = program_from_module(load(GOOD))
    assert [[term.name for term in stage] for stage in program.stages] == [
        ["stage1_target_constraint1", "stage1_target_constraint2", "stage1_collision_constraint1"],
        ["stage2_path_constraint1"],
    ]
    assert [term.kind for term in program.terms] == ["target", "target", "collision", "path"]
    values = program.evaluate(0, np.array([0.0, 0.0, 3.0]), np.array([[4.0, 0.0, 3.0], [0.0, 0.0, 0.0]]))
    assert values == (4.0, 2.0, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("num_stages = 2", "", "num_stages is None"),
        ("num_stages = 2", "num_stages = 3", "stage 3 has no constraint"),
        ("num_stages = 2", "num_stages = 1", "stage2_path_constraint1 belongs to no stage"),
        ("stage2_path_constraint1", "stage2_speed_constraint1", "stage2_speed_constraint1 is not named"),
        ("stage2_path_constraint1", "stage0_path_constraint1", "stage0_path_constraint1 is not named"),
        ("path_constraint1(end_effector, keypoints)", "path_constraint1(tcp)", "does not take"),
    ],
)
def test_a_program_that_lies_about_its_stages_is_refused_by_name(load, before, after, named):
    with pytest.raises(CostError, match=named):
        program_from_module(load(GOOD.replace(before, after)))


def test_a_cost_that_is_no_number_is_named(load):
    program = program_from_module(load(GOOD))
    with pytest.raises(CostError, match="stage1_target_constraint1 is nan"):
        program.evaluate(0, np.full(3, np.nan), np.zeros((2, 3)))


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
