"""Reconnecting: waits that grow to a bound, one line an outage, and no end of an outage without a frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_robot.reconnect import Backoff, Link, delivered, failed

BACKOFFS = st.builds(
    Backoff, first=st.floats(0.01, 2.0), factor=st.floats(1.0, 5.0), longest=st.floats(2.0, 60.0, allow_nan=False)
)


@given(BACKOFFS, st.integers(1, 200))
def test_waits_grow_up_to_the_longest(backoff: Backoff, failures: int) -> None:
    now, after = backoff.delay(failures), backoff.delay(failures + 1)
    assert backoff.first <= now <= after <= backoff.longest
    if failures <= 20:  # the closed form, where it does not overflow
        assert now == pytest.approx(min(backoff.longest, backoff.first * backoff.factor ** (failures - 1)))


@given(BACKOFFS, st.lists(st.sampled_from(["failed", "frame"]), max_size=60))
def test_an_outage_is_told_once_and_ends_with_a_frame(backoff: Backoff, events: list[str]) -> None:
    link, now, warned, ended = Link(), 0.0, 0, 0
    outages = back = 0
    down = False
    for event in events:
        now += 1.0
        if event == "failed":
            outages += not down
            down = True
            link, line = failed(link, backoff, now, "no camera")
            warned += bool(line)
            assert not link.streaming and not link.ready(now) and link.ready(now + backoff.longest)
        else:
            back += down
            down = False
            link, line = delivered(link, now)
            ended += bool(line)
            assert link.streaming and not link.ready(now + 1e9)
    assert (warned, ended) == (outages, back)


def test_another_reason_within_an_outage_is_told_too() -> None:
    link, first = failed(Link(), Backoff(), 0.0, "no frame for 1 s")
    link, second = failed(link, Backoff(), 1.0, "no camera is connected")
    link, third = failed(link, Backoff(), 3.0, "no camera is connected")
    assert (first, second, third) == ("no frame for 1 s", "no camera is connected", "")
    _, line = delivered(link, 12.0)
    assert line == "frames again after 12.0 s and 3 failed attempts"


def test_the_first_attempt_is_due_at_once_and_a_good_stream_forgets_the_failures() -> None:
    assert Link().ready(0.0)
    link, backoff = Link(), Backoff(0.5, 2.0, 5.0)
    for _ in range(6):
        link, _ = failed(link, backoff, 10.0, "gone")
    assert not link.ready(14.9) and link.ready(15.0)
    link, _ = delivered(link, 20.0)
    link, _ = failed(link, backoff, 30.0, "gone")
    assert not link.ready(30.4) and link.ready(30.5)
