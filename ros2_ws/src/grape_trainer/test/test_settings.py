"""Presets, overrides and their refusals."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from grape_trainer.errors import SettingsError
from grape_trainer.settings import PRESETS, settings, usual


def test_the_paper_preset_is_as_printed() -> None:
    paper = settings("paper")
    assert paper.lambdas == (0.01, 0.01, 2.0)
    assert (paper.learning_rate, paper.batch_pairs, paper.epochs) == (2e-5, 16, 1)
    assert (paper.beta_mode, paper.supervised_weight, paper.ranking) == ("sum", 0.0, "paper")
    assert (paper.drift_bound, paper.kl_bound, paper.clip_norm) == (0.0, 0.0, 0.0)
    assert (paper.method, paper.reference, paper.loss, paper.positive_anchor) == ("tpo", "sft", "trajectory", 0.0)
    assert (settings("paper_sft").method, settings("paper_sft").learning_rate) == ("sft", 4e-5)


def test_the_default_is_anchored_and_bounded() -> None:
    default = settings()
    assert default.supervised_weight > 0
    assert -0.5 <= default.drift_bound < 0 < default.kl_bound
    assert not default.train_towers


def test_the_recommended_preset_is_bounded_and_fits_preferences_alone() -> None:
    chosen = settings("recommended")
    assert usual() == usual("tpo") == "recommended" and usual("sft") == "default"
    assert usual(objective="task_completion") == "recommended" and usual(objective="safety") == "objective"
    assert (chosen.method, chosen.ranking, chosen.loss) == ("tpo", "balanced", "length_normalised")
    assert chosen.action_blur > 0 and chosen.supervised_weight > 0 and 0 < chosen.kl_bound <= 2


@pytest.mark.parametrize("preset", PRESETS)
def test_a_record_survives_json(preset: str) -> None:
    made = settings(preset, seed=3)
    again = settings(**json.loads(json.dumps(made.to_dict())))
    assert again == made and dataclasses.replace(again) is not again


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"betas": 1}, "betas"),
        ({"beta": 0}, "beta"),
        ({"beta": "1"}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"m": 1.5}, "m: expected int"),
        ({"m": True}, "m: expected bool|m: expected int"),
        ({"ranking": "best"}, "balanced"),
        ({"equal_success": "some"}, "equal_success: must be one of all, successes, none"),
        ({"beta_mode": "mean"}, "beta_mode"),
        ({"drift_bound": 0.1}, "drift_bound"),
        ({"lambdas": [1, 2]}, "lambdas"),
        ({"lambdas": 1}, "lambdas"),
        ({"balance": [0.0, 0.0, 0.0]}, "balance: must be not all zero"),
        ({"holdout": 1.0}, "holdout"),
        ({"chunk": 0}, "chunk"),
        ({"method": "ppo"}, "one of tpo, step_dpo, success_only, filtered_bc, sft"),
        ({"reference": "last"}, "reference: must be one of sft, previous"),
        ({"loss": "dpo"}, "loss: must be one of"),
        ({"statistics": "none"}, "statistics"),
        ({"window": 0}, "window"),
        ({"positive_anchor": -1.0}, "positive_anchor"),
        ({"recorded_tolerance": -1.0}, "recorded_tolerance"),
        ({"supervised_on": "all"}, "supervised_on: must be one of chosen, successes"),
        ({"supervised_on": "successes", "supervised_weight": 0.0}, "supervised_on: must be chosen without that term"),
        ({"supervised_on": "successes", "method": "filtered_bc"}, "supervised_on: must be chosen without that term"),
    ],
)
def test_wrong_values_are_refused_by_name(overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        settings("default", **overrides)


def test_the_weights_of_a_ranking_are_its_own() -> None:
    assert settings("paper").pair_rules["weights"] == (0.01, 0.01, 2.0)
    assert settings("default", balance=[0, 1, 2]).pair_rules["weights"] == (0.0, 1.0, 2.0)


def test_only_supervised_training_may_leave_its_reference() -> None:
    assert settings(method="sft").bounds == (0.0, 0.0)
    assert settings(method="filtered_bc").bounds == (settings().drift_bound, settings().kl_bound)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingsError, match="'best': one of default, paper"):
        settings("best")
