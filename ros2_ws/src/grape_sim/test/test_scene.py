from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_sim import scene as sc
from grape_sim.errors import SimError
from grape_sim.objects import object_model
from grape_sim.tasks import SEEN, SIM_TASKS

TASKS = st.sampled_from(list(SIM_TASKS))
STATES = st.integers(0, 2_000_000)


@settings(max_examples=150, deadline=None)
@given(TASKS, st.sampled_from(SEEN), STATES)
def test_a_scene_is_a_function_of_its_arguments_and_nothing_overlaps(task: str, variant: str, state: int) -> None:
    scene = sc.make_scene(task, variant, state)
    assert scene == sc.make_scene(task, variant, state)
    assert scene.instruction == sc.instruction_of(task, variant, state) == SIM_TASKS[task].instruction
    assert (scene.object.model, scene.target.model) == (SIM_TASKS[task].object, SIM_TASKS[task].target)
    for one, other in itertools.combinations(scene.placements, 2):
        room = object_model(one.model).radius + object_model(other.model).radius
        assert math.hypot(one.x - other.x, one.y - other.y) > room
    for placement in (scene.object, scene.target):
        assert sc.X_RANGE[0] <= placement.x <= sc.X_RANGE[1] and sc.Y_RANGE[0] <= placement.y <= sc.Y_RANGE[1]
        assert abs(placement.yaw) <= sc.YAW_RANGE
    assert len(scene.names) == len(set(scene.names)), "a keypoint's name is one thing"


@settings(max_examples=60, deadline=None)
@given(TASKS, STATES)
def test_variants_add_what_they_say(task: str, state: int) -> None:
    assert len(sc.make_scene(task, "clean", state).placements) == 2
    assert len(sc.make_scene(task, "distractors", state).distractors) == sc.DISTRACTORS
    (post,) = sc.make_scene(task, "obstacle", state).obstacles
    scene = sc.make_scene(task, "obstacle", state)
    way = (scene.target.x - scene.object.x, scene.target.y - scene.object.y)
    from_start = (post.x - scene.object.x, post.y - scene.object.y)
    share = (way[0] * from_start[0] + way[1] * from_start[1]) / (way[0] ** 2 + way[1] ** 2)
    beside = abs(way[0] * from_start[1] - way[1] * from_start[0]) / math.hypot(*way)
    assert 0.1 < share < 0.9 and beside < 1e-9, "the post stands on the straight way"


def test_states_differ_and_spread_over_the_area() -> None:
    scenes = [sc.make_scene("green_cube_on_yellow_cube", "clean", state) for state in range(200)]
    assert len({scene.object for scene in scenes}) == 200
    for values, (low, high) in (
        ([scene.object.x for scene in scenes], sc.X_RANGE),
        ([scene.object.y for scene in scenes], sc.Y_RANGE),
    ):
        assert min(values) < low + 0.1 * (high - low) and max(values) > high - 0.1 * (high - low)


@pytest.mark.parametrize(
    "arguments, name",
    [
        (("tea", "clean", 0), "'tea'"),
        (("carrot_on_plate", "dirty", 0), "'dirty'"),
        (("carrot_on_plate", "clean", -1), "-1"),
        (("press_button", "visual", 0), "'visual'"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, str, int], name: str) -> None:
    with pytest.raises(SimError, match=name):
        sc.make_scene(*arguments)
