import numpy as np
import pytest

from grape_reward.stages import Above, Lifted, Placed
from grape_reward.timeline import Event


def event(tcp=(0.5, 0.0, 0.2), width=0.085, thing=(0.5, 0.0, 0.02), target=(0.5, 0.2, 0.01)):
    return Event(0, np.array([*tcp, 1.0, 0.0, 0.0, 0.0]), width, np.array([thing, target]))


START = event()
LIFTED = Lifted(rise=0.015, reach=0.05, width=0.075)
PLACED = Placed(radius=0.08, low=0.006, high=0.045, width=0.058)


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
        assert Above(0.06).holds(event(thing=(0.5, y, height)), START) is expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (event(thing=(0.5, 0.2, 0.03)), True),
        (event(thing=(0.5, 0.13, 0.03)), True),
        (event(thing=(0.5, 0.11, 0.03)), False),  # beside the target
        (event(thing=(0.5, 0.2, 0.10)), False),  # still in the air
        (event(thing=(0.5, 0.2, 0.012)), False),  # under its surface
        (event(thing=(0.5, 0.2, 0.03), width=0.04), False),  # still held
        (event(thing=(0.5, 0.2, 0.03), width=0.058), True),
    ],
)
def test_placed(now, expected):
    assert PLACED.holds(now, START) is expected
