import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_policy.goals import OneGoal
from grape_policy.identity import episode_id, episode_identity
from grape_policy.parameters import PARAMETERS, EngineSettings, EpisodeSettings, task_instruction

DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}
ADAPTER = SimpleNamespace(adapter_id="a" * 64, adapter_seq=3)


def goal(**changes: object) -> SimpleNamespace:
    values = {"task": "spoon_on_towel", "instruction": "", "variant": "clean", "initial_state": 12, "objective": ""}
    return SimpleNamespace(
        **{**values, "seed": 5, "temperature": 1.0, "step_limit": 0, "record": True, "demonstration": False, **changes}
    )


def test_a_second_goal_waits_for_the_end_of_the_first() -> None:
    place = OneGoal()
    assert place.reserve() and not place.reserve()
    place.begin()
    assert not place.reserve() and not place.wait_free(0.01)
    threading.Timer(0.02, place.end).start()
    assert place.wait_free(5.0) and place.reserve()


def test_a_goal_that_never_begins_does_not_block_for_ever() -> None:
    place = OneGoal(reservation=0.02)
    assert place.reserve()
    time.sleep(0.03)
    assert place.reserve()


@given(st.tuples(st.sampled_from(["a", "b_task"]), st.integers(0, 2**32 - 1), st.integers(0, 10**9)), st.integers(0, 9))
def test_names_sort_as_what_they_name(key: tuple[str, int, int], later: int) -> None:
    first = episode_id(*key, datetime(2026, 1, 1, microsecond=1, tzinfo=UTC))
    other = ("b_task", key[1] // 2 + 7, key[2] // 3)
    second = episode_id(*other, datetime(2026, 1, 1, microsecond=1 + later, tzinfo=UTC))
    assert (first < second) == ((*key, 0) < (*other, later)) or first == second


def test_a_task_that_would_leave_the_folder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task '\.\./x'"):
        episode_id("../x", 0, 0)


def test_the_identity_fills_in_what_the_goal_leaves_out() -> None:
    identity = episode_identity(goal(), DEFAULTS.__getitem__, "base", ADAPTER, 99)
    assert identity.instruction == "put the spoon on the towel" and identity.objective == "task_completion"
    assert identity.step_limit == 60 and identity.adapter_seq == 3 and identity.stamp == 99
    assert identity.episode_id.startswith("spoon_on_towel-0000000012-0000000005-")
    assert episode_identity(goal(step_limit=4), DEFAULTS.__getitem__, "base", ADAPTER, 0).step_limit == 4


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        episode_identity(goal(temperature=temperature), DEFAULTS.__getitem__, "base", ADAPTER, 0)


def test_an_unknown_task_without_words_is_named_with_the_known_ones() -> None:
    assert task_instruction("new", " wave ", ["old=wink"]) == "wave"
    with pytest.raises(ValueError, match=r"task 'new'.*known tasks: old"):
        task_instruction("new", "  ", ["old=wink"])


def test_parameters_are_described_bounded_and_read_by_name() -> None:
    assert len(DEFAULTS) == len(PARAMETERS)
    for parameter in PARAMETERS:
        assert parameter.description.endswith(".")
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            assert parameter.low is not None and parameter.high is not None
            assert parameter.low <= parameter.default <= parameter.high
    assert EpisodeSettings.read(DEFAULTS.__getitem__).veto_limit == 3
    with pytest.raises(ValueError, match="parameter reset: 'maybe'"):
        EpisodeSettings.read({**DEFAULTS, "reset": "maybe"}.__getitem__)


def test_what_the_inference_process_is_started_with_is_read_and_checked_by_name(tmp_path: Path) -> None:
    values = {**DEFAULTS, "model": str(tmp_path), "registry": "~/adapters", "adapter_mode": "merged"}
    settings = EngineSettings.read(values.__getitem__)
    assert settings.model == str(tmp_path) and settings.registry == str(Path.home() / "adapters")
    assert (settings.adapter_rank, settings.adapter_mode, settings.dtype) == (32, "merged", "float32")
    for name in ("openvla/openvla-7b", "openvla/openvla-7b@refs/pr/3"):
        assert EngineSettings.read({**values, "model": name}.__getitem__).model == name
    wrong = {"model": ["", "/no/such", "no/such/folder"], "dtype": ["int8"], "adapter_mode": ["both"]}
    for name, words in wrong.items():
        for value in words:
            with pytest.raises(ValueError, match=f"parameter {name}: .*{value}"):
                EngineSettings.read({**values, name: value}.__getitem__)
