"""From a goal and the node's parameters to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grape_reward.tasks import TASKS
from grape_trainer.errors import SettingsError
from grape_trainer.files import write_json
from grape_trainer.goal import AlignGoal
from grape_trainer.parameters import PARAMETERS, align_config, check_start, must_wait


def values(tmp_path: Path, **changes: Any) -> Any:
    held: dict[str, Any] = {parameter.name: parameter.default for parameter in PARAMETERS}
    places = {"model": str(tmp_path), "registry": str(tmp_path / "adapters"), "runs": str(tmp_path / "runs")}
    held |= {**places, **changes}
    return held.__getitem__


def test_an_empty_goal_takes_the_defaults(tmp_path: Path) -> None:
    made = align_config(AlignGoal(), values(tmp_path))
    assert made.tasks == tuple(TASKS) and made.first_state == 100_000
    assert (made.iterations, made.objective, made.settings.preset) == (1, "task_completion", "recommended")
    assert made.folder.parent == tmp_path / "runs"


def test_a_goal_and_overrides_are_taken(tmp_path: Path) -> None:
    told = AlignGoal(("spoon_on_towel",), 3, 5, 6, 200_000, "safety", "paper", 9)
    made = align_config(told, values(tmp_path, overrides='{"beta": 0.2}', variant="obstacle"))
    assert (made.tasks, made.iterations, made.states, made.rollouts) == (("spoon_on_towel",), 3, 5, 6)
    assert (made.first_state, made.objective, made.seed, made.variant) == (200_000, "safety", 9, "obstacle")
    assert (made.settings.preset, made.settings.beta, made.settings.seed) == ("paper", 0.2, 9)


@pytest.mark.parametrize(
    ("goal", "changes", "text"),
    [
        (AlignGoal(tasks=("juggle",)), {}, "unknown task 'juggle'"),
        (AlignGoal(preset="best"), {}, "best"),
        (AlignGoal(rollouts=1), {}, "rollouts"),
        (AlignGoal(), {"model": ""}, "parameter model"),
        (AlignGoal(), {"registry": ""}, "parameter registry"),
        (AlignGoal(), {"overrides": "{"}, "parameter overrides"),
        (AlignGoal(), {"overrides": "[]"}, "parameter overrides"),
        (AlignGoal(), {"overrides": '{"betas": 1}'}, "betas"),
        (AlignGoal(), {"dtype": "int8"}, "parameter dtype"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, goal: AlignGoal, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        align_config(goal, values(tmp_path, **changes))


def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_is_not(tmp_path: Path) -> None:
    first = align_config(AlignGoal(), values(tmp_path)).folder
    write_json(first / "align.json", {"ended": False})
    assert align_config(AlignGoal(), values(tmp_path)).folder == first
    write_json(first / "align.json", {"ended": True})
    second = align_config(AlignGoal(), values(tmp_path)).folder
    assert second.name == f"{first.name}-2"
    assert align_config(AlignGoal(seed=1), values(tmp_path)).folder.name not in (first.name, second.name)


def test_the_node_starts_only_where_its_model_is(tmp_path: Path) -> None:
    check_start(values(tmp_path, model=""))
    with pytest.raises(SettingsError, match="parameter model"):
        check_start(values(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check_start(values(tmp_path))
    with pytest.raises(SettingsError, match="parameter domains"):
        check_start(values(tmp_path, domains=[]))


@pytest.mark.parametrize(
    ("wait", "device", "gpus", "expected"),
    [
        ("auto", "cuda", 1, True),
        ("auto", "cuda:0", 1, True),
        ("auto", "cuda:1", 2, False),
        ("auto", "cpu", 1, False),
        ("always", "cpu", 0, True),
        ("never", "cuda", 1, False),
    ],
)
def test_training_waits_where_the_only_gpu_also_serves(wait: str, device: str, gpus: int, expected: bool) -> None:
    assert must_wait(wait, device, lambda: gpus) is expected


def test_bags_stand_for_tasks_and_gate_bounds_are_taken(tmp_path: Path) -> None:
    made = align_config(AlignGoal(bags=("/b/1",)), values(tmp_path, gate_kl=0.7))
    assert made.tasks == () and made.bags == ("/b/1",) and made.gate.kl == 0.7
    with pytest.raises(SettingsError, match="parameter watch"):
        check_start(values(tmp_path, model="", watch="nowhere"))
    with pytest.raises(SettingsError, match="parameter registry"):
        (tmp_path / "config.json").write_text("{}")
        check_start(values(tmp_path, watch=str(tmp_path), registry=""))
    with pytest.raises(SettingsError, match="parameter wait_to_train"):
        align_config(AlignGoal(), values(tmp_path, wait_to_train="sometimes"))
