"""Operations put side by side: fewer steps, and not a bit of difference."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.errors import CostError
from grape_reward.program import lanes
from grape_reward.program.builder import Builder
from grape_reward.program.plan import Plan
from grape_reward.program.shipped import shipped_names, shipped_path
from grape_reward.program.steps import GATHER, LANE
from grape_reward.program.syntax import read
from grape_reward.program.tree import Refused
from grape_reward.program.typed import typed

GRAMMAR = runpy.run_path(str(Path(__file__).parent / "generated_programs.py"))


def plan_of(text: str, keypoints: int, least: int) -> Plan:
    _, functions = read(text, "p")
    builder = Builder(keypoints)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "LEAST", least)
        return builder.plan([typed(function, builder) for function in functions])


def inputs(seed: int, keypoints: int, instants: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (instants, 3)), generator.uniform(-1, 1, (instants, keypoints, 3))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 5]), st.sampled_from([1, 7, 1300]))
def test_lanes_change_no_bit(seed: int, least: int, instants: int) -> None:
    text, count = GRAMMAR["Generator"](seed).program(), GRAMMAR["KEYPOINTS"]
    try:
        apart, merged = plan_of(text, count, 10**9), plan_of(text, count, least)
    except (CostError, Refused):
        return
    ours, expected = (plan.run(*inputs(seed, count, instants)) for plan in (merged, apart))
    assert ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_programs_take_fewer_steps_and_have_the_same_bits(name: str) -> None:
    text = shipped_path(name).read_text(encoding="utf-8")
    apart, merged = plan_of(text, 8, 10**9), plan_of(text, 8, lanes.LEAST)
    kernels = [step for step in merged.steps if step.operation not in (GATHER, LANE)]
    assert len(kernels) < 0.7 * len(apart.steps)
    ours, expected = (plan.run(*inputs(0, 8, 100)) for plan in (merged, apart))
    assert ours.tobytes() == expected.tobytes()


def test_a_fault_stays_in_its_lane() -> None:
    text = "num_stages = 1\n" + "".join(
        f"def stage1_path_constraint{n + 1}(end_effector, keypoints):\n    return 1 + int(np.log(keypoints[{n}][0]))\n"
        for n in range(4)
    )
    keypoints = np.ones((3, 4, 3))
    keypoints[1, 2, 0] = -1.0
    costs = plan_of(text, 4, 2).run(np.zeros((3, 3)), keypoints)
    assert np.isnan(costs).tolist() == [[row == 2 and instant == 1 for instant in range(3)] for row in range(4)]


def test_obstacles_of_one_comprehension_are_one_operation() -> None:
    text = (
        "num_stages = 1\ndef stage1_collision_constraint1(end_effector, keypoints):\n"
        "    return sum(max(0, 0.1 - np.linalg.norm(end_effector - o)) for o in keypoints[2:])\n"
    )
    norms = [step for step in plan_of(text, 8, 3).steps if step.operation == "norm"]
    assert [step.lanes for step in norms] == [6]
