"""Stamps: the device's time where it is this machine's, never ahead of the receipt, always later than the last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_robot.frame_stamps import GLOBAL, MOST_APART, RECEIPT, Stamp, frame_stamp

NOW = 1_790_000_000_000_000_000
DOMAINS = st.sampled_from(["global_time", "system_time", "hardware_clock"])


@given(DOMAINS, st.integers(-3_000_000_000, 3_000_000_000), st.integers(-3_000_000_000, 3_000_000_000))
def test_a_stamp_is_later_than_the_last_and_not_after_the_receipt(domain: str, offset: int, last: int) -> None:
    previous = NOW + last
    found = frame_stamp(domain, (NOW + offset) / 1e6, NOW, previous)
    if found is None:
        return
    assert previous < found.stamp <= NOW
    assert found.source in (GLOBAL, RECEIPT)
    if found.source == GLOBAL:
        assert domain != "hardware_clock" and NOW - found.stamp <= MOST_APART * 1e9
    else:
        assert found.stamp == NOW


@pytest.mark.parametrize(
    ("domain", "offset", "expected"),
    [
        ("global_time", -20_000_000, Stamp(NOW - 20_000_000, GLOBAL)),
        ("system_time", -20_000_000, Stamp(NOW - 20_000_000, GLOBAL)),
        ("global_time", 3_000_000, Stamp(NOW, GLOBAL)),  # a clock that runs ahead a little
        ("global_time", -700_000_000, Stamp(NOW, RECEIPT)),
        ("global_time", 700_000_000, Stamp(NOW, RECEIPT)),
        ("hardware_clock", -20_000_000, Stamp(NOW, RECEIPT)),
    ],
)
def test_whose_time_it_is(domain: str, offset: int, expected: Stamp) -> None:
    found = frame_stamp(domain, (NOW + offset) / 1e6, NOW, 0)
    assert found is not None and found.source == expected.source
    assert abs(found.stamp - expected.stamp) < 1000  # milliseconds since 1970 in a double: to a quarter microsecond


def test_a_frame_of_the_same_stamp_is_none() -> None:
    first = frame_stamp("global_time", NOW / 1e6, NOW, 0)
    assert first is not None and frame_stamp("global_time", NOW / 1e6, NOW, first.stamp) is None
