from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_robot.boxes import Box

point = st.tuples(*[st.floats(-2.0, 2.0)] * 3)
margins = st.floats(0.0, 0.5)


def box(a, b) -> Box:
    return Box("drawn", tuple(map(min, a, b)), tuple(map(max, a, b)))


@settings(deadline=None)
@given(point, point, point, margins)
def test_distance_is_to_the_nearest_point_of_the_box(a, b, place, margin) -> None:
    drawn = box(a, b)
    nearest = np.clip(place, drawn.low, drawn.high)
    outside = float(np.linalg.norm(np.array(place) - nearest))
    depth = float(np.min(np.minimum(np.array(place) - drawn.low, np.array(drawn.high) - place)))
    assert drawn.distance(place) == pytest.approx(outside if outside > 0.0 else -depth, abs=1e-12)
    grown = Box("grown", tuple(x - margin for x in drawn.low), tuple(x + margin for x in drawn.high))
    assert drawn.contains(place, margin) == grown.contains(place)
    assert drawn.contains(place) == (drawn.distance(place) <= 0.0)


@settings(deadline=None)
@given(point, point, point, point, margins)
def test_a_margin_is_a_larger_box(a, b, start, end, margin) -> None:
    drawn = box(a, b)
    grown = Box("grown", tuple(x - margin for x in drawn.low), tuple(x + margin for x in drawn.high))
    assert drawn.crosses(start, end, margin) == grown.crosses(start, end)
    if drawn.contains(start, margin) or drawn.contains(end, margin):
        assert drawn.crosses(start, end, margin)


@pytest.mark.parametrize("bad", [math.nan, 2.0])
def test_corners_that_make_no_box_are_none(bad: float) -> None:
    with pytest.raises(ValueError, match="'hand'"):
        Box("hand", (0.0, bad, 0.0), (1.0, 1.0, 1.0))
