"""Forest plots: every bar lies where its figures are, and a policy looks the same in every picture."""

import math

import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from grape.worlds_charts import COLOURS, Bar, forest

POLICIES = ("base", "bc", "tpo")


def marks(axes: plt.Axes) -> list[tuple[float, float, str, bool]]:
    """(height on the page, middle, colour, hollow) of every mark, from above."""
    found = []
    for container in axes.containers:
        line = container.lines[0]
        hollow = to_rgba(line.get_markerfacecolor()) == to_rgba("white")
        found.append((float(line.get_ydata()[0]), float(line.get_xdata()[0]), line.get_color(), hollow))
    return sorted(found)


def ends(axes: plt.Axes) -> list[tuple[float, float]]:
    """Both ends of every interval."""
    return [tuple(container.lines[2][0].get_segments()[0][:, 0].tolist()) for container in axes.containers if container]


def test_every_figure_lies_in_its_row_with_its_interval() -> None:
    rows = {
        "in_domain": {"base": Bar(50, 40, 60), "tpo": Bar(70, 61, 78)},
        "subject": {"base": Bar(20, 10, 33), "tpo": Bar(25, 15, 38)},
    }
    figure = forest({"greedy": rows, "temperature 1": rows}, POLICIES, "success, %")
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["greedy", "temperature 1"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["in domain", "subject"]
    assert left.yaxis_inverted(), "the first row is the uppermost"
    assert [middle for _, middle, *_ in marks(left)] == [50, 70, 20, 25]
    assert sorted(ends(left)) == pytest.approx([(10, 33), (15, 38), (40, 60), (61, 78)])
    heights, ticks = [height for height, *_ in marks(left)], left.get_yticks()
    assert abs(heights[0] - ticks[0]) < abs(heights[0] - ticks[1]) and heights[0] < ticks[0] < heights[1] < heights[2]
    assert left.get_xlim() == (0.0, 100.0)
    plt.close(figure)


def test_a_policy_keeps_its_colour_where_others_are_missing_and_noise_is_hollow() -> None:
    rows = {"in_domain": {"tpo": Bar(12, 3, 21)}, "subject": {"tpo": Bar(-2, -30, 9, noise=True)}}
    figure = forest({"greedy": rows}, POLICIES, "difference, points", differences=True)
    (axes,) = figure.axes
    assert [mark[2:] for mark in marks(axes)] == [(COLOURS[2], False), (COLOURS[2], True)]
    low, high = axes.get_xlim()
    assert low == -high and high > 30, "zero is in the middle, and no interval is cut off"
    assert any(list(line.get_xdata()) == [0.0, 0.0] for line in axes.lines), "a line at zero"
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["tpo", "noise"]
    plt.close(figure)


def test_an_interval_that_is_not_known_is_not_drawn() -> None:
    figure = forest({"greedy": {"a": {"base": Bar(50, math.nan, math.nan)}}}, POLICIES, "x")
    assert [middle for _, middle, *_ in marks(figure.axes[0])] == [50]
    assert not figure.axes[0].containers[0].has_xerr
    plt.close(figure)
    with pytest.raises(ValueError, match="at least one row"):
        forest({"greedy": {}}, POLICIES, "x")
