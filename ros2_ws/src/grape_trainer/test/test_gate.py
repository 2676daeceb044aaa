"""The gate refuses what is shown to be worse, passes over what was not measured and says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grape_trainer.errors import SettingsError
from grape_trainer.gate import Bounds, Verdict, judge, wilson


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(case: tuple[int, int]) -> None:
    successes, trials = case
    other = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((other.low, other.high), abs=1e-12)


def figures(accuracy: float = 0.75, kl: float = 0.01) -> dict:
    return {"check": {"accuracy": accuracy, "kl": kl, "kl_steps": 96}}


@pytest.mark.parametrize(
    ("accuracy", "kl", "canary", "accepted", "word"),
    [
        (0.75, 0.01, None, True, "no canary"),
        (0.125, 0.01, None, False, "held-out preference accuracy 12 % of 8 pairs"),
        (0.25, 0.01, None, True, "25 %"),  # 8 pairs cannot show it
        (0.75, 1.51, None, False, "above 1.5"),
        (0.75, float("nan"), None, False, "KL to the reference nan"),
        (0.75, 0.01, Verdict(False, "10 points worse.", {"success": -0.1}), False, "10 points worse"),
        (0.75, 0.01, Verdict(True, "no difference beyond noise.", {"success": 0.0}), True, "no difference"),
    ],
)
def test_each_check_refuses_for_itself(
    accuracy: float, kl: float, canary: Verdict | None, accepted: bool, word: str
) -> None:
    verdict = judge(figures(accuracy, kl), 12, 8, Bounds(), canary)
    assert verdict.accepted is accepted and word in verdict.reason
    assert [check["passed"] for check in verdict.checks].count(False) == (not accepted)
    assert [check["name"] for check in verdict.checks] == [
        "held-out preference accuracy",
        "KL to the reference",
        "canary",
    ]
    json.dumps(verdict.to_dict())


def test_what_was_not_measured_is_said() -> None:
    verdict = judge({}, 0, 8, Bounds(), None)
    assert verdict.accepted and verdict.reason.count("not measured") == 2 and "no world at hand" in verdict.reason
    assert all(check["passed"] is None for check in verdict.checks)
    # the accuracy on pairs that were trained on is none that was held out
    assert judge(figures(0.0), 0, 8, Bounds(), None).accepted


def test_bounds_can_be_switched_off_and_are_checked() -> None:
    assert judge(figures(0.0, 9.0), 12, 8, Bounds(0.0, 0.0), None).accepted
    for wrong in ({"accuracy": 1.1}, {"kl": -1.0}, {"kl": float("nan")}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Bounds(**wrong)
