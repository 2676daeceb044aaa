import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.spec import REDUCTIONS, Constraint
from grape_reward.totals import StageTotals

CONSTRAINTS = [Constraint(0.0, 1.0, 9.0, how) for how in REDUCTIONS]


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(-10.0, 10.0)), min_size=1, max_size=30))
def test_each_reduction_is_what_numpy_makes_of_the_whole_stage(samples):
    totals = StageTotals(CONSTRAINTS)
    for n, (seconds, cost) in enumerate(samples):
        if n:
            totals.pass_time(seconds)
        totals.observe((cost,) * len(CONSTRAINTS))
    costs = np.array([cost for _, cost in samples])
    gaps = np.array([seconds for seconds, _ in samples[1:]])
    integral = float(np.sum(costs[:-1] * gaps))
    mean = integral / gaps.sum() if gaps.sum() > 0 else costs[-1]
    expected = {"last": costs[-1], "max": costs.max(), "integral": integral, "mean": mean}
    assert totals.values() == pytest.approx([expected[how] for how in REDUCTIONS], rel=1e-9, abs=1e-9)


def test_a_stage_that_was_not_observed_has_not_begun():
    totals = StageTotals(CONSTRAINTS)
    assert not totals.begun
    totals.pass_time(3.0)
    totals.observe((1.0,) * 4)
    # the time before its first observation is not its own
    assert totals.begun and totals.values() == [1.0, 1.0, 1.0, 0.0]
