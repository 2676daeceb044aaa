"""What the variant `varied` shows, and that it shows nothing of what the unseen variants do."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_sim import scene as sc
from grape_sim.demos import demonstrate
from grape_sim.looks import LIGHTS, PRACTICE_TABLES, TABLES, WALLS, WOOD, table_top
from grape_sim.objects import object_model
from grape_sim.practice import practice
from grape_sim.practice_objects import PRACTICE_OBJECTS, twin_of
from grape_sim.tasks import SIM_TASKS, VARIED
from grape_sim.unseen import TWINS
from grape_sim.unseen_objects import CANS
from grape_sim.wording import PARAPHRASES, PRACTICE_WORDS, noun
from grape_sim.world import World

TASKS = st.sampled_from(list(SIM_TASKS))
STATES = st.integers(0, 2_000_000)


@settings(max_examples=150, deadline=None)
@given(TASKS, STATES)
def test_a_varied_scene_is_a_function_of_its_arguments_and_nothing_overlaps(task: str, state: int) -> None:
    scene = sc.make_scene(task, VARIED, state)
    assert scene == sc.make_scene(task, VARIED, state)
    assert scene.instruction == sc.instruction_of(task, VARIED, state)
    for one, other in itertools.combinations(scene.placements, 2):
        room = object_model(one.model).radius + object_model(other.model).radius
        assert math.hypot(one.x - other.x, one.y - other.y) > room
    assert len(scene.names) == len(set(scene.names)), "a keypoint's name is one thing"
    assert noun(scene.target.model) in scene.instruction and noun(scene.object.model) in scene.instruction


@settings(max_examples=300, deadline=None)
@given(TASKS, STATES)
def test_nothing_of_the_unseen_worlds_is_practised(task: str, state: int) -> None:
    drawn = practice(SIM_TASKS[task], state)
    assert drawn.change.instruction not in itertools.chain(*PARAPHRASES.values())
    models = {drawn.change.object, drawn.change.rival, *drawn.lying} - {"", SIM_TASKS[task].target}
    assert models <= {SIM_TASKS[task].object, *PRACTICE_OBJECTS}
    assert not models & ({twin for _, twin in TWINS.values()} | set(CANS))
    if drawn.change.rival:
        assert drawn.change.object in PRACTICE_OBJECTS, "sides and colours never tell among the tasks' own objects"
    look = drawn.look
    assert look is not None and look.table in (WOOD, *PRACTICE_TABLES) and look.light not in LIGHTS
    assert min(light.ambient for light in LIGHTS) < look.light.ambient < max(light.ambient for light in LIGHTS)
    if look.wall is not None:
        assert min(np.abs(np.array(look.wall) - np.array(wall)).max() for wall in WALLS) > 0.1


def test_every_part_is_drawn_for_itself() -> None:
    drawn = [practice(task, state) for task in SIM_TASKS.values() for state in range(500)]
    shares = {
        "other object": sum(d.change.object in PRACTICE_OBJECTS for d in drawn),
        "two candidates": sum(bool(d.change.rival) for d in drawn),
        "a side": sum(bool(d.change.side) for d in drawn),
        "other top": sum(d.look.table != WOOD for d in drawn),
        "wall": sum(d.look.wall is not None for d in drawn),
        "lying": sum(bool(d.lying) for d in drawn),
        "own words": sum(d.change.instruction in {t.instruction for t in SIM_TASKS.values()} for d in drawn),
    }
    expected = {
        "other object": 0.5, "two candidates": 0.2, "a side": 0.2 * 2 / 3, "other top": 0.4, "wall": 0.3, "lying": 0.3,
    }  # fmt: skip
    for name, share in expected.items():
        assert shares[name] / len(drawn) == pytest.approx(share, abs=0.05), name
    assert 0.1 < shares["own words"] / len(drawn) < 0.3
    objects = Counter(d.change.object for d in drawn)
    assert set(PRACTICE_OBJECTS) < set(objects), "each of them is practised on"


def test_a_twin_is_the_same_thing_in_another_colour() -> None:
    for name in PRACTICE_OBJECTS:
        assert twin_of(name) in PRACTICE_OBJECTS and twin_of(name) != name
        assert twin_of(name).split("_")[1] == name.split("_")[1]


def test_sentences_name_both_things_and_none_is_an_unseen_one() -> None:
    for task, templates in PRACTICE_WORDS.items():
        told = {words.format(thing=noun(SIM_TASKS[task].object), target="T") for words in templates}
        assert len(told) == len(templates) == 10
        assert all("T" in words and noun(SIM_TASKS[task].object) in words for words in told)
        assert not {words.replace("T", noun(SIM_TASKS[task].target)) for words in told} & set(PARAPHRASES[task])


def test_tops_differ_from_the_unseen_ones() -> None:
    means = {name: table_top(name).mean((0, 1)) for name in (*TABLES, *PRACTICE_TABLES)}
    unseen = [name for name in TABLES if name != WOOD]
    for practised, other in itertools.product(PRACTICE_TABLES, unseen):
        assert np.abs(means[practised] - means[other]).max() > 12, (practised, other)


def test_expert_does_what_is_told_in_varied_worlds(world: World) -> None:
    shown = [demonstrate(world, task, VARIED, 3_000_000 + state) for state in range(4) for task in SIM_TASKS]
    assert all(episode.instruction == sc.instruction_of(episode.task, VARIED, episode.initial_state)
               for episode in shown)  # fmt: skip
    assert sum(episode.success for episode in shown) >= 15
