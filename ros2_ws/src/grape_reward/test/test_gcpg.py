import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward import gcpg
from grape_reward.errors import RewardError

costs = st.floats(-2.0, 5.0)
weights = st.floats(0.0, 20.0)
constraint = st.tuples(costs, costs, weights)


@given(st.lists(constraint, max_size=8))
def test_stage_cost_is_equation_8(constraints):
    value, tau, beta = np.array(constraints).reshape(-1, 3).T
    expected = float(np.sum(beta * np.clip(value - tau, 0.0, None)))
    assert gcpg.stage_cost(*(list(x) for x in (value, tau, beta))) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.lists(constraint, min_size=1, max_size=8), st.data())
def test_stage_cost_never_falls_with_a_cost_or_rises_with_a_threshold(constraints, data):
    value, tau, beta = (list(x) for x in zip(*constraints, strict=True))
    j, more = data.draw(st.integers(0, len(value) - 1)), data.draw(st.floats(0.0, 3.0))
    before = gcpg.stage_cost(value, tau, beta)
    higher = [v + more * (i == j) for i, v in enumerate(value)]
    lenient = [t + more * (i == j) for i, t in enumerate(tau)]
    assert gcpg.stage_cost(higher, tau, beta) >= before
    assert gcpg.stage_cost(value, lenient, beta) <= before


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=5))
def test_log_external_reward_is_the_log_of_the_product_of_equation_9(stages):
    product = math.prod(math.exp(-cost) for cost in stages)
    assert gcpg.log_external_reward(stages) == pytest.approx(math.log(product), rel=1e-9, abs=1e-12)


def test_the_log_keeps_apart_what_the_product_would_lose():
    assert math.exp(-1000.0) == math.exp(-2000.0) == 0.0
    assert gcpg.log_external_reward([1000.0, 500.0]) > gcpg.log_external_reward([1000.0, 600.0])


@given(st.lists(st.lists(st.floats(-20, 0, width=32), min_size=7, max_size=7), min_size=1, max_size=60))
def test_self_reward_is_the_log_of_the_product_of_probabilities(rows):
    steps = [np.array(row, np.float32) for row in rows]
    total, per_token = gcpg.self_reward(steps)
    assert total == pytest.approx(np.sum(np.array(rows, np.float64)), rel=1e-12, abs=1e-12)
    assert per_token == pytest.approx(np.mean(np.array(rows, np.float64)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "steps",
    [[], [None], [np.zeros(7), None], [np.zeros(7), np.full(7, np.nan)], [np.full(7, -np.inf)], [np.zeros(0)]],
    ids=["no steps", "no log-probs", "one step without", "nan", "impossible token", "empty"],
)
def test_self_reward_is_unknown_where_a_log_prob_is(steps):
    assert all(math.isnan(value) for value in gcpg.self_reward(steps))


def test_reward_is_equation_10_with_the_papers_lambdas():
    paper = gcpg.PRESETS["paper"]
    assert tuple(paper) == (0.01, 0.01, 2.0)
    assert gcpg.gcpg_reward(-100.0, math.log(0.5), gcpg.YES, paper) == pytest.approx(-1.0 + 0.005 + 2.0, rel=1e-14)
    assert gcpg.gcpg_reward(-100.0, math.log(0.5), gcpg.NO, paper) == pytest.approx(-1.0 + 0.005, rel=1e-14)


def test_reward_is_unknown_with_an_unknown_term_unless_its_weight_is_zero():
    paper = gcpg.PRESETS["paper"]
    assert math.isnan(gcpg.gcpg_reward(math.nan, -1.0, gcpg.YES, paper))
    assert math.isnan(gcpg.gcpg_reward(-1.0, -1.0, gcpg.UNKNOWN, paper))
    external_only = gcpg.Lambdas(0.0, 1.0, 0.0)
    assert gcpg.gcpg_reward(math.nan, 0.0, gcpg.UNKNOWN, external_only) == 1.0


@given(st.floats(-700.0, 5.0))
def test_exp_agrees_with_the_c_library_to_its_last_bit_or_so(x):
    assert abs(gcpg.exp(x) - math.exp(x)) <= math.ulp(math.exp(x))


def test_exp_of_the_extremes():
    assert gcpg.exp(0.0) == 1.0
    assert gcpg.exp(-1e6) == 0.0
    assert gcpg.exp(-math.inf) == 0.0
    assert math.isnan(gcpg.exp(math.nan))


def test_lambdas_must_be_finite():
    with pytest.raises(RewardError, match="lambdas"):
        gcpg.Lambdas(0.1, math.inf, 1.0)
