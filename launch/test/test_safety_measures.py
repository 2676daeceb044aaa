"""What is measured in a bag, and what stays unknown."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grape.safety_measures import ArmSaid, arm_said, measure, measure_bag
from grape_episode import topics
from grape_episode.bag import Bag
from grape_episode.episode import GATE_ACCEPTED, GATE_NONE, GATE_VETOED, EpisodeError, GateEvent, Series
from grape_episode.synthetic import make_episode, write_episode
from grape_episode.typestore import blank, typestore

EPISODE = make_episode(seed=3, steps=6, variant="obstacle", collision=True)


def judged(verdict: int, check: str = "", state: int = 1, step: int = 0) -> GateEvent:
    return replace(EPISODE.gate[0], verdict=verdict, check=check, state=state, step=step)


def test_steps_are_counted_by_verdict_and_vetoes_by_check():
    gate = (
        judged(GATE_NONE),
        judged(GATE_ACCEPTED),
        judged(GATE_ACCEPTED, "length"),
        judged(GATE_VETOED, "box"),
        judged(GATE_VETOED, "speed"),
        judged(GATE_VETOED, "box"),
        judged(GATE_NONE, "speed", state=2),
    )
    found = measure(replace(EPISODE, gate=gate), ArmSaid())
    assert (found.accepted, found.shortened, found.vetoed, found.stopped) == (2, 1, 3, False)
    assert found.checks == {"box": 2, "speed": 1}
    assert measure(replace(EPISODE, gate=(*gate, judged(GATE_NONE, "wrench", state=3))), ArmSaid()).stopped


def test_the_world_s_own_judgement_comes_first_and_the_gate_s_where_there_is_none():
    assert EPISODE.world is not None
    world = replace(EPISODE.world, clearance=0.03, contact_force=12.0, collisions=2)
    seen = measure(replace(EPISODE, world=world), ArmSaid(force=1.0, clearance=0.5))
    assert (seen.clearance, seen.clearance_of, seen.collision_force, seen.collisions) == (0.03, "world", 12.0, 2)
    real = measure(replace(EPISODE, world=None), ArmSaid(force=1.0, clearance=0.5))
    assert (real.clearance, real.clearance_of, real.collision_force, real.collisions) == (0.5, "gate", None, None)
    empty = measure(replace(EPISODE, world=replace(world, clearance=math.nan)), ArmSaid())
    assert (empty.clearance, empty.clearance_of) == (None, "")


def test_the_force_is_the_largest_that_anybody_felt():
    wrench = Series(np.arange(3), np.array([[3.0, 4, 0, 9, 9, 9], [0, 0, -2, 0, 0, 0], [1, 2, 2, 0, 0, 0]]))
    assert measure(replace(EPISODE, wrench=wrench), ArmSaid()).force == pytest.approx(5.0)
    assert measure(replace(EPISODE, wrench=wrench), ArmSaid(force=7.5)).force == 7.5
    assert measure(replace(EPISODE, wrench=Series.empty(6)), ArmSaid()).force is None


def with_arm_status(folder: Path, said: list[tuple[float, float]]) -> Path:
    """A bag with ArmStatus messages of (force, clearance) only, behind an identity."""
    bag = Bag(folder)
    store = typestore()
    kind = topics.DATA_TYPES[topics.EPISODE]
    bag.write(topics.EPISODE, kind, bytes(store.serialize_cdr(blank(kind), kind)), 1)
    kind = topics.DATA_TYPES[topics.ARM_STATUS]
    for number, (force, clearance) in enumerate(said):
        message = blank(kind)
        message.header.stamp.nanosec = 100 + number
        message.force, message.clearance = force, clearance
        bag.write(topics.ARM_STATUS, kind, bytes(store.serialize_cdr(message, kind)), 2 + number)
    bag.close()
    return folder


def test_arm_status_gives_the_largest_force_and_the_least_clearance(tmp_path: Path):
    nan = math.nan
    bag = with_arm_status(tmp_path / "some", [(99.0, 0.01), (nan, 0.4), (12.0, nan), (3.0, 0.2)])
    assert arm_said(bag, after=100) == ArmSaid(12.0, 0.2), "the first is of the episode before"
    assert arm_said(bag, after=99) == ArmSaid(99.0, 0.01)
    assert arm_said(with_arm_status(tmp_path / "none", [(nan, nan)]), after=0) == ArmSaid()


def test_a_bag_is_measured_as_the_episode_it_holds(tmp_path: Path):
    bag = write_episode(EPISODE, tmp_path / "bag")
    found = measure_bag(bag)
    assert found == measure(EPISODE, ArmSaid())
    assert found.accepted == 6 and found.collision_force and found.force is not None
    with pytest.raises(EpisodeError, match="no such bag"):
        measure_bag(tmp_path / "nothing")
