"""The benchmark of gradient agreement on made-up gradients: signal is found, chance is not; weights are the losses'."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from grape_trainer.ranking import Candidate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gradient_agreement


def rollout(number: int, state: int, success: int, steps: int) -> Candidate:
    told = ("task_completion", "base", "", "program", steps, success, -1.0 - number % 3, -30.0, -0.5)
    return Candidate(f"e{number:03d}", f"/bags/{number}", "carrot_on_plate", "clean", state, *told)


def rollouts(states: int) -> list[Candidate]:
    random = np.random.default_rng(3)
    return [
        rollout(4 * state + i, state, int(random.random() < 0.5), int(random.integers(20, 60)))
        for state in range(states)
        for i in range(4)
    ]


def test_what_success_hangs_on_is_found_and_random_pairs_find_nothing() -> None:
    made = rollouts(120)
    random = np.random.default_rng(4)
    way = random.normal(size=50)
    success = np.array([c.success for c in made])
    gradients = (random.normal(size=(len(made), 50)) + np.outer(success - 0.5, way)).astype(np.float32)
    groups = np.array([c.initial_state for c in made])
    found = {
        name: gradient_agreement.agreement(gradients, weight, groups, 20).mean()
        for name, weight in gradient_agreement.weights(made).items()
    }
    assert found["TPO success"] > 0.8 and found["REINFORCE, baseline of the state"] > 0.8
    assert abs(found["TPO random"]) < 0.3
    nothing = random.normal(size=gradients.shape).astype(np.float32)
    weight = gradient_agreement.weights(made)["TPO success"]
    assert abs(gradient_agreement.agreement(nothing, weight, groups, 20).mean()) < 0.3


def test_the_weights_are_those_of_the_losses() -> None:
    made = [rollout(0, 1, 1, 20), rollout(1, 1, 0, 60), rollout(2, 1, 1, 30), rollout(3, 1, 0, 60)]
    found = gradient_agreement.weights(made)
    assert found["filtered BC"] == pytest.approx([1, 0, 1, 0])
    assert found["REINFORCE, baseline of the state"] == pytest.approx([0.5, -0.5, 0.5, -0.5])
    # two successes over two failures: each rollout in two pairs, each pair by its mean length
    assert found["TPO success"] == pytest.approx([2 / 40, -1 / 40 - 1 / 45, 2 / 45, -1 / 40 - 1 / 45])
    assert found["TPO success, length-normalised"] == pytest.approx([2 / 20, -2 / 60, 2 / 30, -2 / 60])
    assert found["TPO swift"] == pytest.approx(found["TPO success"])
