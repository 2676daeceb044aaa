"""What the unseen variants change, and that they change nothing else."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_sim import scene as sc
from grape_sim.camera import Camera, CameraConfig
from grape_sim.looks import TABLES, Look
from grape_sim.objects import object_model
from grape_sim.tasks import ACTION_TASKS, ALL_TASKS, SEEN, SIM_TASKS, UNSEEN, VARIANTS
from grape_sim.unseen import KINDS, TWINS, kind_of
from grape_sim.unseen_objects import BUTTON_TRAVEL, CANS, SIZES, resized
from grape_sim.wording import PARAPHRASES, reworded
from grape_sim.world import World

TASKS = st.sampled_from(list(SIM_TASKS))
STATES = st.integers(0, 2_000_000)


def test_old_scenes_are_the_same_to_the_last_bit() -> None:
    assert VARIANTS[:6] == SEEN == ("clean", "distractors", "obstacle", "near_limit", "near_edge", "moving_hand")
    assert list(ALL_TASKS)[:4] == list(SIM_TASKS)
    told = hashlib.sha256()
    for task, variant, state in itertools.product(SIM_TASKS, ("clean", "distractors", "obstacle"), range(20)):
        places = sc.make_scene(task, variant, state).placements
        told.update(repr([(p.model, p.x, p.y, p.yaw) for p in places]).encode())
    assert told.hexdigest() == "e9b302a1f5c96594aa0a7da7aafd13b37d8d299293f21b1e1163413a318eaa9f"


@settings(max_examples=120, deadline=None)
@given(TASKS, st.sampled_from(UNSEEN), STATES)
def test_an_unseen_scene_is_a_function_of_its_arguments_and_nothing_overlaps(
    task: str, variant: str, state: int
) -> None:
    scene = sc.make_scene(task, variant, state)
    assert scene == sc.make_scene(task, variant, state)
    assert scene.instruction == sc.instruction_of(task, variant, state)
    assert scene.kind == kind_of(variant, state)
    for one, other in itertools.combinations(scene.placements, 2):
        room = object_model(one.model).radius + object_model(other.model).radius
        assert math.hypot(one.x - other.x, one.y - other.y) > room
    assert len(scene.names) == len(set(scene.names)), "a keypoint's name is one thing"


@settings(max_examples=60, deadline=None)
@given(TASKS, STATES)
def test_words_and_looks_change_and_nothing_else(task: str, state: int) -> None:
    clean = sc.make_scene(task, "clean", state)
    said, seen = sc.make_scene(task, "semantic", state), sc.make_scene(task, "visual", state)
    assert said.placements == clean.placements and said.look == clean.look == Look()
    assert said.instruction != clean.instruction and said.instruction in PARAPHRASES[task]
    assert seen.placements[:2] == clean.placements and seen.instruction == clean.instruction
    assert (seen.look == Look()) == (seen.kind == "noise") == bool(seen.distractors)


@settings(max_examples=60, deadline=None)
@given(TASKS, STATES)
def test_another_object_lies_where_the_clean_one_does_if_there_is_room(task: str, state: int) -> None:
    clean = sc.make_scene(task, "clean", state)
    sized, can = sc.make_scene(task, "physical", state), sc.make_scene(task, "subject", state)
    assert sized.object.model == f"{SIM_TASKS[task].object}_{sized.kind}" and sized.names == clean.names
    assert sized.instruction == clean.instruction
    if object_model(sized.object.model).radius == object_model(clean.object.model).radius:
        assert (sized.object.x, sized.object.y, sized.target) == (clean.object.x, clean.object.y, clean.target)
    assert can.object.model == can.kind in CANS
    assert f"the {can.kind.replace('_', ' ')}" in can.instruction


@settings(max_examples=80, deadline=None)
@given(TASKS, STATES)
def test_the_named_one_of_two_candidates_is_the_one_to_be_taken(task: str, state: int) -> None:
    scene, own = sc.make_scene(task, "grounding", state), SIM_TASKS[task]
    (rival,) = scene.rivals
    # independently of scene.across_picture: the side as the camera's picture shows it
    camera = Camera(0, CameraConfig())
    u = {one: camera.project(np.array([one.x, one.y, 0.0]), 640, 480)[0, 0] for one in (*scene.placements,)}
    if scene.kind == "object_colour":
        assert {scene.object.model, rival.model} == {own.object, TWINS[own.object][1]}
        assert scene.target.model == own.target
        colour = ("orange", "purple", "white", "green", "red", "blue")
        assert sum(f"the {word} " in scene.instruction for word in colour) == 1
        return
    named = scene.target if scene.kind == "target_side" else scene.object
    assert rival.model == named.model
    side = "left" if u[named] < u[rival] else "right"
    assert f"the {side} " in scene.instruction and abs(u[named] - u[rival]) > 25


@pytest.mark.parametrize("variant", UNSEEN)
@pytest.mark.parametrize("first", [60_000, 70_000, 7])
def test_every_kind_has_its_share_of_any_range(variant: str, first: int) -> None:
    found = Counter(kind_of(variant, state) for state in range(first, first + 60))
    assert set(found) == set(KINDS[variant]) and max(found.values()) - min(found.values()) <= 1
    if variant == "grounding":
        told = Counter(sc.instruction_of("spoon_on_towel", variant, state) for state in range(first, first + 60))
        assert len(told) == 6 and max(told.values()) - min(told.values()) <= 2, "both candidates are named as often"


def test_paraphrases_are_several_and_none_is_said_twice() -> None:
    everything = [words for task in SIM_TASKS for words in PARAPHRASES[task]]
    everything += [task.instruction for task in SIM_TASKS.values()]
    assert len(everything) == len(set(everything))
    assert all(len(PARAPHRASES[task]) == len(KINDS["semantic"]) >= 4 for task in SIM_TASKS)


def test_nouns_are_exchanged_where_they_stand() -> None:
    stack = SIM_TASKS["green_cube_on_yellow_cube"]
    assert reworded(stack, thing="red can") == "stack the red can on the yellow cube"
    assert reworded(stack, target="left yellow cube") == "stack the green cube on the left yellow cube"
    assert reworded(stack) == stack.instruction


@pytest.mark.parametrize("kind", SIZES)
def test_a_resized_thing_is_as_large_as_it_says(kind: str) -> None:
    for name in ("carrot", "green_cube"):
        model, other = object_model(name), resized(object_model(name), kind)
        was, now = np.ptp(model.mesh.vertices, axis=0), np.ptp(other.mesh.vertices, axis=0)
        assert now / was == pytest.approx(SIZES[kind])
        assert other.mass / model.mass == pytest.approx(np.prod(SIZES[kind]))
        assert np.linalg.norm(other.mesh.normals, axis=1) == pytest.approx(1.0)


def test_looks_are_seen_and_not_felt(world: World) -> None:
    world.reset("carrot_on_plate", "clean", 61_000)
    clean, where = world.render(112, 112), world.keypoints()
    pictures = []
    for state in range(61_000, 61_003):
        world.reset("carrot_on_plate", "visual", state)
        pictures.append(world.render(112, 112))
        world.reset("carrot_on_plate", "clean", state)
        assert np.abs(pictures[-1].astype(int) - world.render(112, 112)).mean() > 2, world.scene.kind
    world.reset("carrot_on_plate", "clean", 61_000)
    np.testing.assert_array_equal(world.render(112, 112), clean)
    np.testing.assert_array_equal(world.keypoints(), where)
    assert len({table().tobytes() for table in TABLES.values()}) == len(TABLES)


@pytest.mark.parametrize("task", ACTION_TASKS)
@settings(max_examples=40, deadline=None)
@given(state=STATES)
def test_the_object_of_an_action_stands_on_its_target(task: str, state: int) -> None:
    scene = sc.make_scene(task, "clean", state)
    surface = object_model(scene.target.model).surface
    assert (scene.object.x, scene.object.y) == (scene.target.x, scene.target.y)
    assert scene.object.z == surface + (BUTTON_TRAVEL if task == "press_button" else 0.0)
    assert scene.names == (ALL_TASKS[task].object, ALL_TASKS[task].target)
