import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.predicates import (
    TCP,
    All,
    AnyOf,
    Between,
    Distance,
    Force,
    GripperWidth,
    Height,
    HorizontalDistance,
    Moved,
    Not,
    Rise,
    described,
    leaves,
    reads_force,
)
from grape_reward.tasks import TASKS
from grape_reward.timeline import Event


def event(tcp=(0.5, 0.0, 0.2), width=0.085, thing=(0.5, 0.0, 0.02), target=(0.5, 0.2, 0.01)):
    return Event(0, np.array([*tcp, 1.0, 0.0, 0.0, 0.0]), width, np.array([thing, target]))


START = event()
CARROT = TASKS["carrot_on_plate"]
LIFTED, ABOVE = CARROT.boundaries
PLACED = CARROT.success.when


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (event((0.5, 0.0, 0.06), 0.04, (0.5, 0.0, 0.05)), True),
        (event((0.5, 0.0, 0.03), 0.04, (0.5, 0.0, 0.03)), False),  # closed around it, not lifted yet
        (event((0.5, 0.0, 0.06), 0.085, (0.5, 0.0, 0.05)), False),  # flung up with an open gripper
        (event((0.5, 0.0, 0.15), 0.04, (0.5, 0.0, 0.05)), False),  # up, but not in the gripper
        (START, False),
    ],
)
def test_lifted(now, expected):
    assert LIFTED.holds(now, START) is expected


@pytest.mark.parametrize(("y", "expected"), [(0.2, True), (0.145, True), (0.13, False), (0.27, False)])
def test_above_ignores_height(y, expected):
    for height in (0.0, 0.3):
        assert ABOVE.holds(event(thing=(0.5, y, height)), START) is expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (event(thing=(0.5, 0.2, 0.03)), True),
        (event(thing=(0.5, 0.13, 0.03)), True),
        (event(thing=(0.5, 0.11, 0.03)), False),  # beside the target
        (event(thing=(0.5, 0.2, 0.10)), False),  # still in the air
        (event(thing=(0.5, 0.2, 0.012)), False),  # under its surface
    ],
)
def test_placed(now, expected):
    assert PLACED.holds(now, START) is expected


numbers = st.floats(-2.0, 2.0)
triple = st.tuples(numbers, numbers, numbers)


@given(triple, triple, triple, st.integers(0, 2))
def test_measures_are_what_numpy_says_to_the_last_bit(tcp, thing, target, up):
    now, start = event(tcp, 0.05, thing, target), event()
    a, b, first = np.array(thing), np.array(target), np.array([0.5, 0.0, 0.02])
    flat = [axis for axis in range(3) if axis != up]
    assert Distance(TCP, 0).read(now, start) == np.sqrt(np.sum((np.array(tcp) - a) ** 2))
    assert HorizontalDistance(0, 1, up).read(now, start) == np.sqrt(np.sum((a[flat] - b[flat]) ** 2))
    assert Height(0, 1, up).read(now, start) == a[up] - b[up]
    assert Rise(0, up).read(now, start) == a[up] - first[up]
    assert Moved(0).read(now, start) == np.sqrt(np.sum((a - first) ** 2))
    assert GripperWidth().read(now, start) == 0.05


def test_bounds_include_their_ends_and_what_is_not_known_lies_in_none():
    width = Between(GripperWidth(), 0.02, 0.04)
    assert [width.holds(event(width=w), START) for w in (0.019, 0.02, 0.04, 0.041)] == [False, True, True, False]
    force = Between(Force(), at_least=0.0)
    assert not force.holds(START, START)
    pressed = dataclasses.replace(START, wrench=np.array([3.0, 0.0, 4.0, 9.0, 9.0, 9.0]))
    assert Force().read(pressed, START) == 5.0 and force.holds(pressed, START)
    assert not force.holds(dataclasses.replace(START, wrench=np.full(6, math.nan)), START)


@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_all_any_and_not_are_those_of_logic(truths):
    parts = tuple(Between(GripperWidth(), at_least=0.0 if truth else 1.0) for truth in truths)
    assert All(parts).holds(START, START) is all(truths)
    assert AnyOf(parts).holds(START, START) is any(truths)
    assert Not(AnyOf(parts)).holds(START, START) is not any(truths)


def test_a_condition_knows_its_leaves_and_tells_all_its_numbers():
    leaf, press = Between(Height(0, 1, 2), 0.1, 0.2), Between(Force(), 5.0)
    tree = All((AnyOf((leaf,)), Not(press)))
    assert list(leaves(tree)) == [leaf, press]
    assert reads_force(tree) and not reads_force(leaf)
    others = [
        All((AnyOf((Between(Height(0, 1, 2), 0.1, math.nextafter(0.2, 1)),)), Not(press))),
        All((AnyOf((Between(Height(1, 0, 2), 0.1, 0.2),)), Not(press))),
        All((AnyOf((Between(Height(0, 1, 1), 0.1, 0.2),)), Not(press))),
        All((All((leaf,)), Not(press))),
        All((AnyOf((leaf,)), press)),
    ]
    told = [repr(described(each)) for each in (tree, *others)]
    assert len(set(told)) == len(told)
