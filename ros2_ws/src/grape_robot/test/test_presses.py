"""One button: bounces, holds, and two meanings told apart by how long it is held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grape_robot.presses import Button, Function, pressed

DEBOUNCE = 0.03
AT_ONCE: list[Function] = [(0.0, "go")]
HELD: list[Function] = [(1.0, "go")]
BOTH: list[Function] = [(0.0, "short"), (0.8, "middle"), (2.5, "long")]


def play(changes: list[tuple[float, bool]], functions: list[Function], until: float) -> list[tuple[float, str]]:
    """What was called and when, looked at every 10 ms; ``changes``: (time, down)."""
    button, called = Button(), []
    for tick in range(round(until * 100) + 1):
        now = tick * 0.01
        raw = next((down for at, down in reversed(changes) if at <= now + 1e-9), False)
        button, name = pressed(button, raw, now, DEBOUNCE, functions)
        if name:
            called.append((round(now, 2), name))
    return called


def test_a_press_counts_once_however_long_it_is_held() -> None:
    assert play([(0.5, True)], AT_ONCE, 5.0) == [(0.5, "go")]
    assert play([(0.5, True), (0.6, False), (1.0, True)], AT_ONCE, 5.0) == [(0.5, "go"), (1.0, "go")]


def test_bounces_are_one_press() -> None:
    bounces = [(0.5, True), (0.51, False), (0.52, True), (0.9, False), (0.91, True), (0.92, False)]
    assert play(bounces, AT_ONCE, 3.0) == [(0.5, "go")]


def test_a_hold_counts_when_it_has_lasted() -> None:
    assert play([(0.5, True)], HELD, 5.0) == [(1.5, "go")]
    assert play([(0.5, True), (1.4, False)], HELD, 5.0) == []


def test_meanings_on_one_button_are_told_apart_by_their_length() -> None:
    assert play([(0.5, True), (0.7, False)], BOTH, 5.0) == [(0.7, "short")]
    assert play([(0.5, True), (1.5, False)], BOTH, 5.0) == [(1.5, "middle")]
    assert play([(0.5, True), (4.0, False)], BOTH, 5.0) == [(3.0, "long")]


def test_a_button_that_is_down_at_first_means_nothing_before_its_release() -> None:
    assert play([(0.0, True)], HELD, 3.0) == []
    assert play([(0.0, True), (1.0, False), (1.5, True)], AT_ONCE, 3.0) == [(1.5, "go")]


@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.booleans()), max_size=40), st.sampled_from([AT_ONCE, HELD, BOTH]))
def test_never_more_calls_than_presses(steps: list[tuple[float, bool]], functions: list[Function]) -> None:
    now, changes = 0.0, []
    for gap, down in steps:
        now += gap
        changes.append((now, down))
    presses = sum(down and (n == 0 or not changes[n - 1][1]) for n, (_, down) in enumerate(changes))
    assert len(play(changes, functions, now + 3.0)) <= presses
