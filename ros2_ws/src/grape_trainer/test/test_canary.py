"""The canary by the rig: its verdict, its two sides, and what it makes of interruptions and of what is unknown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from grape_trainer.canary import FIRST_STATE, CanaryPlan, rig_canary, verdict
from grape_trainer.errors import LoopError, SettingsError
from grape_trainer.rig import Ack, Job, Rollout

NEW = "a" * 64


class Arm:
    """A rig whose adapters succeed as ``skill`` says of (adapter id, initial state); -1: nobody can tell."""

    def __init__(self, skill: Callable[[str, int], int], refuse: str = "", stop_after: int = 10**9) -> None:
        self.skill, self.refuse, self.left = skill, refuse, stop_after
        self.serving, self.made = "", list[tuple[str, Job]]()

    def load_adapter(self, path: Path | None) -> Ack:
        if path is not None and self.refuse:
            return Ack(False, self.refuse, self.serving)
        self.serving = json.loads((path / "manifest.json").read_text())["adapter_id"] if path else ""
        return Ack(True, "", self.serving)

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None:
        for job in jobs:
            if self.cancelled():
                return
            self.left -= 1
            self.made.append((self.serving, job))
            done(Rollout(job.key, "", adapter_id=self.serving, success=self.skill(self.serving, job.initial_state)))

    def cancelled(self) -> bool:
        return self.left <= 0


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"adapter_id": NEW, "base_hash": "b" * 64}))
    return folder


def ask(arm: Arm, adapter: Path, tmp_path: Path, states: int = 40, bound: float = 0.05):
    judge = rig_canary(CanaryPlan(("t", "u"), states, bound), arm, tmp_path / "registry", tmp_path / "run")
    assert judge is not None
    return judge(adapter)


def test_both_sides_act_greedily_on_the_same_states_and_nothing_is_recorded(adapter: Path, tmp_path: Path) -> None:
    arm = Arm(lambda side, state: int(bool(side) or state % 2 == 0))
    found = ask(arm, adapter, tmp_path)
    assert found.accepted and found.figures["success"]["difference"] == pytest.approx(0.5)
    old, new = ([job for side, job in arm.made if side == wanted] for wanted in ("", NEW))
    assert old == new and len(old) == 80 and not any(job.record or job.temperature for job in old)
    assert {job.initial_state for job in old} == set(range(FIRST_STATE, FIRST_STATE + 40))


def test_what_is_worse_or_cannot_be_told_from_worse_is_refused(adapter: Path, tmp_path: Path) -> None:
    worse = ask(Arm(lambda side, state: int(not side or state % 4 > 0)), adapter, tmp_path)
    assert not worse.accepted and "A loss of 5 points cannot be excluded" in worse.reason
    # two states on which nothing differs tell nothing
    few = ask(Arm(lambda side, state: 1), adapter, tmp_path / "few", states=1)
    assert not few.accepted and few.figures["success"]["difference"] == 0


def test_unknown_successes_are_no_failures_and_no_passes(adapter: Path, tmp_path: Path) -> None:
    arm = Arm(lambda side, state: -1 if state % 2 and side else 1)
    assert ask(arm, adapter, tmp_path, bound=0.2).figures["success"]["trials"] == 40
    nobody = ask(Arm(lambda side, state: -1), adapter, tmp_path / "nobody")
    assert not nobody.accepted and "is the reward node running?" in nobody.reason


@given(hs.lists(hs.tuples(hs.sampled_from((-1, 0, 1)), hs.sampled_from((-1, 0, 1))), max_size=60), hs.floats(0, 1))
def test_a_verdict_never_accepts_an_estimated_loss_beyond_its_bound(sides: list[tuple[int, int]], bound: float) -> None:
    found = verdict([a for a, _ in sides], [b for _, b in sides], bound)
    known = [b - a for a, b in sides if a >= 0 and b >= 0]
    if found.accepted:
        assert known and sum(known) / len(known) > -bound
    if known and sum(known) <= -bound * len(known):
        assert not found.accepted


def test_an_interrupted_canary_goes_on_and_a_cancelled_one_refuses(adapter: Path, tmp_path: Path) -> None:
    skill = lambda side, state: int(bool(side) or state % 2 == 0)  # noqa: E731
    first = Arm(skill, stop_after=50)
    assert not ask(first, adapter, tmp_path).accepted and len(first.made) == 50
    second = Arm(skill)
    assert ask(second, adapter, tmp_path).accepted and len(second.made) == 110


def test_a_refused_load_or_another_adapter_is_an_error_by_name(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(LoopError, match="aaaaaaaaaaaa was not loaded: of another model"):
        ask(Arm(lambda side, state: 1, refuse="of another model"), adapter, tmp_path)

    class Stubborn(Arm):
        def load_adapter(self, path: Path | None) -> Ack:
            return Ack(True, "", NEW)

    with pytest.raises(LoopError, match="the base model acted instead of aaaaaaaaaaaa"):
        ask(Stubborn(lambda side, state: 1), adapter, tmp_path / "other")


def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    assert rig_canary(CanaryPlan(("t",), 0), Arm(lambda side, state: 1), tmp_path, tmp_path) is None
    with pytest.raises(SettingsError, match="canary states"):
        CanaryPlan(("t",), -1)
    with pytest.raises(SettingsError, match="canary bound"):
        CanaryPlan(("t",), 1, 1.5)
