"""The order of a safety evaluation, its resuming, its ends; with a policy that only notes what it is told."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape import safety_run
from grape.safety_measures import Measures
from grape.safety_run import Adapter, Ended, Plan, Policy, SafetyError, Trial
from grape.suites import Item
from grape_trainer.rig import Ack

A, B, C = Policy("base", "", ""), Policy("adapter b", "/b", "b" * 64), Policy("adapter c", "/c", "c" * 64)
SERVED = Adapter("5" * 64, "/served")


def item(name: str = "one", states: tuple[int, ...] = (5, 6)) -> Item:
    return Item(name, "carrot_on_plate", "obstacle", states, ("sim",), "home", False, 30)


def plan_of(*policies: Policy, items: tuple[Item, ...] = (item(),)) -> Plan:
    return Plan("safety", "h" * 64, "sim", items, policies or (A, B), 0, 0.0, "m" * 64)


class Desk:
    """A port. ``end``: end reason by (policy, state); ``cancel_after`` episodes; ``die_after`` episodes."""

    def __init__(self, **settings) -> None:
        self.now = SERVED
        self.ran: list[Trial] = []
        self.loads: list[str] = []
        self.cleared = 0
        self.end: dict[tuple[str, int], str] = settings.get("end", {})
        self.refused: set[str] = settings.get("refused", set())
        self.cancel_after = settings.get("cancel_after", 10**6)
        self.die_after = settings.get("die_after", 10**6)
        self.steps = settings.get("steps", 7)
        self.swapped = settings.get("swapped", "")
        self.giving_back = False

    def serving(self) -> Adapter:
        return self.now

    def load(self, path: str) -> Ack:
        self.loads.append(path)
        if path in self.refused:
            return Ack(False, "its shapes do not fit", self.now.adapter_id)
        known = {policy.path: policy.adapter_id for policy in (A, B, C)} | {SERVED.path: SERVED.adapter_id}
        self.now = Adapter(known[path], path)
        return Ack(True, "", self.now.adapter_id)

    def run(self, trial: Trial, record: bool) -> Ended | None:
        if self.cancelled():
            return None
        if len(self.ran) >= self.die_after:
            raise KeyboardInterrupt
        self.ran.append(trial)
        reason = self.end.get((trial.policy, trial.initial_state), "step_limit")
        served = self.swapped or self.now.adapter_id
        return Ended(trial.key, reason, "why", self.steps, 0, 1, 1, 0, served, "bag" if record else "")

    def measure(self, ended: Ended) -> Measures:
        return Measures(accepted=7, stopped=ended.end_reason == "gate_fault")

    def clear_gate(self, told) -> None:
        self.cleared += 1
        told("waiting")

    def cancelled(self) -> bool:
        return not self.giving_back and len(self.ran) >= self.cancel_after

    def give_back(self) -> None:
        self.giving_back = True


def told_nobody(done: int, total: int, message: str) -> None:
    assert 0 <= done <= total and message


def evaluate(plan: Plan, desk: Desk, folder: Path):
    return safety_run.run(plan, desk, folder, told_nobody, desk.give_back)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_every_policy_runs_every_state_with_its_seed_and_no_policy_always_begins(policies, states, items):
    sides = tuple(Policy(f"p{n}", f"/{n}", str(n)) for n in range(policies))
    made = tuple(item(f"i{n}", tuple(range(10 * n, 10 * n + states))) for n in range(items))
    wanted = list(safety_run.trials(replace(plan_of(*sides, items=made), seed=3)))
    assert len(wanted) == len({trial.key for trial in wanted}) == policies * states * items
    assert {trial.seed - trial.initial_state for trial in wanted} == {3}
    for number in range(0, len(wanted), policies):
        group = wanted[number : number + policies]
        assert len({trial.state for trial in group}) == 1 and {t.policy for t in group} == {p.name for p in sides}
        assert group[0].policy == sides[(number // policies) % states % policies].name


def test_the_adapter_is_swapped_between_episodes_and_what_served_before_serves_again(tmp_path: Path):
    desk = Desk()
    results = evaluate(plan_of(A, B), desk, tmp_path)
    assert [(t.policy, t.initial_state) for t in desk.ran] == [("base", 5), (B.name, 5), (B.name, 6), ("base", 6)]
    assert desk.loads == ["", "/b", "", "/served"], "no swap where the right one serves"
    assert desk.now == SERVED
    assert [r.trial for r in results] == desk.ran and results[0].measures.accepted == 7
    assert safety_run.read_results(tmp_path / safety_run.RESULTS) == results


def test_an_evaluation_that_was_killed_goes_on_and_gives_back_what_served_before_it(tmp_path: Path):
    whole = Desk()
    evaluate(plan_of(A, B), whole, tmp_path / "whole")
    desk = Desk()
    folder = tmp_path / "cut"
    wanted = list(safety_run.trials(plan_of(A, B)))
    # killed -9 in the third episode: B serves, and half a line was written
    safety_run._own(plan_of(A, B), folder, SERVED)
    evaluate(plan_of(A, B), died := Desk(cancel_after=2), folder)
    (folder / safety_run.RESULTS).open("a").write('{"trial": {"it')
    held = json.loads((folder / safety_run.PLAN).read_text())
    (folder / safety_run.PLAN).write_text(json.dumps({**held, safety_run.BEFORE: asdict(SERVED)}))
    desk.now = Adapter(B.adapter_id, B.path)
    results = evaluate(plan_of(A, B), desk, folder)
    assert died.ran == wanted[:2] and desk.ran == wanted[2:], "nothing twice, nothing left out"
    assert [r.trial for r in results] == wanted and desk.now == SERVED
    assert [asdict(r) for r in results] == [
        asdict(r) for r in safety_run.read_results(tmp_path / "whole" / safety_run.RESULTS)
    ]
    again = Desk()
    assert evaluate(plan_of(A, B), again, folder) == results and not again.ran and not again.loads


def test_after_a_kill_a_person_s_own_choice_is_kept(tmp_path: Path):
    safety_run._own(plan_of(A, B), tmp_path, SERVED)
    desk = Desk()
    desk.now = Adapter(C.adapter_id, C.path)
    evaluate(plan_of(A, B), desk, tmp_path)
    assert desk.now.path == C.path


@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancelled_at_any_point_what_served_before_serves_again(tmp_path: Path, after: int):
    desk = Desk(cancel_after=after)
    results = evaluate(plan_of(B, C), desk, tmp_path)
    assert len(results) == len(desk.ran) == after and desk.now == SERVED and desk.giving_back


def test_an_interruption_gives_back_too_and_stays_what_it_is(tmp_path: Path):
    desk = Desk(die_after=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan_of(B, C), desk, tmp_path)
    assert desk.now == SERVED and len(safety_run.read_results(tmp_path / safety_run.RESULTS)) == 1


def test_more_states_or_policies_of_the_same_kind_go_on_or_are_refused(tmp_path: Path):
    evaluate(plan_of(A, B), Desk(), tmp_path)
    more = Desk()
    evaluate(plan_of(A, B, items=(item(states=(5, 6, 7)),)), more, tmp_path)
    assert {trial.initial_state for trial in more.ran} == {7}
    for other in (
        plan_of(A, C),
        replace(plan_of(A, B), suite_hash="x"),
        replace(plan_of(A, B), base_hash="x"),
        replace(plan_of(A, B), robot="real"),
        replace(plan_of(A, B), profile="other 1"),
    ):
        with pytest.raises(SafetyError, match=r"evaluation.json: \w+ is another evaluation's"):
            evaluate(other, Desk(), tmp_path)


def test_stops_of_the_gate_count_and_are_cleared(tmp_path: Path):
    desk = Desk(end={("base", 5): "gate_fault", (B.name, 5): "vetoed", (B.name, 6): "cancelled"})
    results = evaluate(plan_of(A, B), desk, tmp_path)
    assert desk.cleared == 1 and len(results) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"end": {(B.name, 5): "error"}}, "item one, initial state 5, adapter b: error: why"),
        ({"end": {(B.name, 5): "stale_camera"}}, "stale_camera"),
        ({"end": {("base", 5): "gate_fault"}, "steps": 0}, "base: gate_fault: why"),
        ({"refused": {"/b"}}, "adapter /b: its shapes do not fit"),
        ({"swapped": "e" * 64}, "adapter eeeeeeeeeeee has served: somebody swapped it"),
    ],
)
def test_what_says_nothing_of_the_policy_stops_the_evaluation_by_name(tmp_path: Path, settings, words):
    desk = Desk(**settings)
    with pytest.raises(SafetyError, match=words):
        evaluate(plan_of(A, B), desk, tmp_path)
    assert desk.now == SERVED and len(safety_run.read_results(tmp_path / safety_run.RESULTS)) <= 1


def test_a_results_file_that_is_none_is_named(tmp_path: Path):
    (tmp_path / safety_run.RESULTS).write_text('{"a": 1}\n')
    with pytest.raises(SafetyError, match=r"results.jsonl: line 1 is no result"):
        evaluate(plan_of(), Desk(), tmp_path)
    (tmp_path / safety_run.RESULTS).write_text("no\n")
    with pytest.raises(SafetyError, match=r"results.jsonl: line 1"):
        evaluate(plan_of(), Desk(), tmp_path)
