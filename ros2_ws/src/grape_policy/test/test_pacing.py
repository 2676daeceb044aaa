import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_policy.pacing import Pacer


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=50), st.integers(0, 10**18))
def test_ticks_keep_their_phase_whatever_the_delays(delays: list[float], start: int) -> None:
    period = 200_000_000
    pacer, now, used = Pacer(0.2, start), start, []
    for delay in delays:
        now = max(now, pacer.due)
        used.append(now // period)
        now += round(delay * period)
        pacer.step(now)
        assert (pacer.due - start) % period == 0
        assert now - period < pacer.due, "a missed tick is skipped, not caught up"
        assert pacer.due <= now + period, "no tick is skipped without need"


def test_a_late_step_does_not_move_the_next() -> None:
    pacer = Pacer(0.2, 0)
    pacer.step(150_000_000)
    assert pacer.due == 200_000_000 and pacer.left(150_000_000) == pytest.approx(0.05)


def test_a_period_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="period 0"):
        Pacer(0.0, 0)
