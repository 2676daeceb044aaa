"""The figures of a safety evaluation by a second way, their unknowns, and the files that are left behind."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape import safety_figures as sf
from grape import safety_report
from grape.safety_measures import Measures
from grape.safety_run import Ended, Plan, Policy, Trial, TrialResult, trials
from grape.suites import Item
from grape_episode.episode import ENDED_BY_OPERATOR, PERSON_DROVE
from grape_episode.synthetic import make_episode, write_episode

A, B = Policy("base", "", ""), Policy("adapter b", "/b", "b" * 64)
ITEMS = tuple(
    Item(name, "carrot_on_plate", "obstacle", tuple(range(50_000, 50_006)), ("sim",), "home", False, 60)
    for name in ("one", "two")
)
PLAN = Plan("safety", "h" * 64, "sim", ITEMS, (A, B), 0, 0.0, "m" * 64)
BY_NAME = {figure.name: figure for figure in sf.FIGURES}


def result(trial: Trial, seed: int = 0, real: bool = False, bag: str = "", **changes) -> TrialResult:
    """A plausible result, drawn from the trial and ``seed``; ``real``: no world says anything."""
    rng = np.random.default_rng([trial.initial_state, len(trial.policy), len(trial.item), seed])
    collided, vetoed = int(rng.random() < 0.4), int(rng.integers(0, 4))
    world = -1 if real else int(rng.random() < 0.5)
    ended = Ended(
        episode_id=f"{trial.item}-{trial.initial_state}-{trial.policy}",
        end_reason="step_limit",
        detail="60 steps",
        steps=int(rng.integers(10, 61)),
        success_reward=-1 if real else world,
        success_world=world,
        grasped=world,
        collision=-1 if real else collided,
        adapter_id="",
        bag=bag,
    )
    measures = Measures(
        accepted=ended.steps - vetoed,
        shortened=0,
        vetoed=vetoed,
        checks={"box": vetoed} if vetoed else {},
        stopped=False,
        collisions=None if real else collided,
        collision_force=None if real else 20.0 * collided,
        force=float(rng.uniform(0, 50)),
        clearance=float(rng.uniform(0, 0.2)),
        clearance_of="gate" if real else "world",
        driven=False,
    )
    return TrialResult(trial, replace(ended, **changes), measures)


def all_results(**changes) -> list[TrialResult]:
    return [result(trial, **changes) for trial in trials(PLAN)]


def test_shares_are_wilson_s_and_means_lie_in_their_bootstrap_interval():
    rows = [r for r in all_results() if r.trial.policy == "base"]
    found = sf.estimate(BY_NAME["collision"], rows)
    k, n, z = sum(r.ended.collision for r in rows), len(rows), 1.959963984540054
    centre = (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    assert (found.rate, found.trials) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    force = sf.estimate(BY_NAME["force"], rows)
    assert force.rate == pytest.approx(np.mean([r.measures.force for r in rows]))
    assert force.low < force.rate < force.high


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
def test_the_bootstrap_stays_within_the_sample_and_claims_nothing_where_nothing_varies(sample):
    found = sf.bootstrap(sample)
    if len(set(sample)) == 1:
        assert math.isnan(found.low) and math.isnan(found.high) and found.rate == sample[0]
    else:
        assert min(sample) - 1e-9 <= found.low <= found.high <= max(sample) + 1e-9


def test_the_bootstrap_s_spread_is_the_standard_error_s():
    sample = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = sf.bootstrap(list(sample))
    half = 1.96 * sample.std() / math.sqrt(len(sample))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def coverage(size: int, sides: int = 600) -> float:
    """Share of samples of ``size`` from a skewed distribution (mean 1) whose interval holds the mean."""
    samples = np.random.default_rng(2).gamma(2.0, 0.5, (sides, size))
    found = [sf.bootstrap(list(sample)) for sample in samples]
    return float(np.mean([one.low <= 1.0 <= one.high for one in found]))


def test_few_episodes_do_not_make_an_interval_too_narrow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sf, "RESAMPLES", 2_000)
    assert coverage(6) > 0.88, "the plain percentiles hold it in 82 of 100"
    assert coverage(40) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("name", ["force", "collision"])
def test_a_difference_of_few_states_is_never_called_more_than_noise(name: str):
    rows = all_results()
    first = [r for r in rows if r.trial.policy == "base"][:8]
    better = [
        replace(
            r,
            trial=replace(r.trial, policy="adapter b"),
            ended=replace(r.ended, collision=0),
            measures=replace(r.measures, force=r.measures.force - 5.0 - 0.1 * number),
        )
        for number, r in enumerate(first)
    ]
    first = [replace(r, ended=replace(r.ended, collision=int(number != 3))) for number, r in enumerate(first)]
    for count in range(1, 9):
        gap = sf.difference(BY_NAME[name], first[:count], better[:count])
        assert gap.trials == count and gap.difference < 0
        assert gap.beyond_noise is (count >= sf.LEAST_STATES), count
    plan = replace(PLAN, items=(replace(ITEMS[0], states=ITEMS[0].states[:5]),))
    few = [*first[:5], *better[:5]]
    html = safety_report.render(sf.summary(plan, few, 10), plan, few, 10)
    assert "too few states" in html and "nan" not in html.lower()


def test_differences_are_of_the_same_states_only():
    rows = all_results()
    first = [r for r in rows if r.trial.policy == "base"]
    second = [r for r in rows if r.trial.policy != "base"]
    gap = sf.difference(BY_NAME["force"], first, second)
    by_state = {r.trial.state: r.measures.force for r in first}
    wanted = np.mean([r.measures.force - by_state[r.trial.state] for r in second])
    assert gap.trials == 12 and gap.difference == pytest.approx(wanted)
    assert sf.difference(BY_NAME["force"], first[:-2], second).trials == 10
    shift = [replace(r, measures=replace(r.measures, force=by_state[r.trial.state] + 1)) for r in second]
    moved = sf.difference(BY_NAME["force"], first, shift)
    assert moved.difference == pytest.approx(1.0)
    assert not sf.difference(BY_NAME["force"], first, first).beyond_noise


def test_where_a_person_stepped_in_nothing_else_is_counted():
    rows = all_results()[:6]
    drove = replace(rows[0], ended=replace(rows[0].ended, detail=f"60 steps; {PERSON_DROVE}"))
    ended = replace(rows[1], ended=replace(rows[1].ended, end_reason="cancelled", detail=ENDED_BY_OPERATOR))
    bag = replace(rows[2], measures=replace(rows[2].measures, driven=True))
    mixed = [drove, ended, bag, *rows[3:]]
    assert sf.estimate(BY_NAME["success"], mixed).trials == 3
    person = sf.estimate(BY_NAME["person"], mixed)
    assert (person.rate, person.trials) == (0.5, 6)


def test_without_a_world_and_without_bags_it_is_unknown_and_said_so():
    real = replace(PLAN, robot="real")
    told = sf.summary(real, all_results(real=True), 24)
    assert {"success", "collision", "collision_force"} <= set(told["unknown"])
    assert told["figures"]["base"]["collision"] == {"rate": None, "low": None, "high": None, "trials": 0, "unit": ""}
    assert told["figures"]["base"]["vetoes"]["trials"] == 12 and told["figures"]["base"]["force"]["rate"] > 0
    html = safety_report.render(told, real, all_results(real=True), 24)
    assert "unknown" in html and "No world judges an arm" in html and "nan" not in html.lower()
    blind = [replace(r, measures=Measures()) for r in all_results()]
    assert {"vetoes", "force", "clearance", "gate_stop"} <= set(sf.summary(PLAN, blind, 24)["unknown"])


def test_the_worst_are_collisions_by_force_then_stops_then_the_closest():
    quiet = [
        replace(r, ended=replace(r.ended, collision=0), measures=Measures(vetoed=0, clearance=0.1, stopped=False))
        for r in all_results()
    ]
    close = replace(quiet[0], measures=replace(quiet[0].measures, clearance=0.01, vetoed=1))
    stopped = replace(quiet[1], measures=replace(quiet[1].measures, stopped=True))
    light, hard = (
        replace(r, ended=replace(r.ended, collision=1), measures=Measures(collision_force=force, clearance=0.0))
        for r, force in ((quiet[2], 2.0), (quiet[3], 90.0))
    )
    assert sf.worst([*quiet[4:], close, stopped, light, hard]) == [hard, light, stopped, close]
    assert sf.worst(quiet) == []
    assert "90.0 N" in sf.why(hard) and "the gate stopped" in sf.why(stopped) and "10 mm" in sf.why(close)


KEYS = {
    *("format", "suite", "suite_hash", "robot", "base_hash", "profile", "seed", "temperature", "episodes", "complete"),
    *("items", "policies", "figures", "by_item", "by_variant", "vetoes_by_check", "extremes", "end_reasons"),
    *("differences", "unknown", "worst"),
}


def test_the_summary_is_plain_json_with_the_documented_keys_and_the_report_is_one_file(tmp_path: Path):
    bag = write_episode(make_episode(seed=1, steps=5), tmp_path / "bag")
    rows = all_results(bag=str(bag))
    rows[3] = replace(
        rows[3],
        ended=replace(rows[3].ended, bag=str(tmp_path / "gone"), collision=1),
        measures=replace(rows[3].measures, collision_force=99.0),
    )
    told, report = safety_report.write(tmp_path, PLAN, rows, 24)
    assert json.loads((tmp_path / safety_report.SUMMARY).read_text()) == json.loads(json.dumps(told))
    assert set(told) == KEYS and told["complete"] and told["format"] == sf.FORMAT
    documented = (Path(__file__).resolve().parents[2] / "docs" / "safety_evaluation.md").read_text()
    for key in (*KEYS, *BY_NAME):
        assert f"`{key}`" in documented, key
    assert told["extremes"]["base"]["force"]["value"] == max(r.measures.force for r in rows if r.trial.policy == "base")
    html = report.read_text()
    assert html.count("<svg") == 4 and html.count("data:image/png;base64") >= 2
    assert not re.search(r'(src|href)="(?!data:|#)', html), "nothing is loaded from elsewhere"
    assert "adapter b minus base" in html and "no such bag" in html


def test_the_report_shows_every_figure_of_an_item_and_the_single_worst_episodes():
    rows = all_results()
    told = sf.summary(PLAN, rows, 24)
    html = safety_report.render(told, PLAN, rows, 24)
    assert told["by_variant"] == {"obstacle": told["figures"]}, "all items are of one variant"
    by_item = html[html.index("By item") :]
    for name in ("success", "collision", "clearance", "vetoes", "gate_stop", "collision_force", "force", "steps"):
        assert f"<th>{BY_NAME[name].title}</th>" in by_item, name
    for policy in ("base", "adapter b"):
        mine = [r.measures for r in rows if r.trial.policy == policy]
        assert f"<td>{1000 * min(m.clearance for m in mine):.0f} mm" in html
        assert f"<td>{max(m.force for m in mine):.1f} N" in html
    assert html.count("more than 100") == 1, "clearances beyond are marked, forces are not"
    near = [replace(r, measures=replace(r.measures, clearance=0.05)) for r in rows]
    assert "more than 100" not in safety_report.render(sf.summary(PLAN, near, 24), PLAN, near, 24)


def test_an_evaluation_that_was_cut_off_says_so_and_one_policy_needs_no_other(tmp_path: Path):
    alone = replace(PLAN, policies=(A,))
    rows = [r for r in all_results() if r.trial.policy == "base"][:5]
    told, report = safety_report.write(tmp_path, alone, rows, 12)
    assert not told["complete"] and told["differences"] == {} and "7 episodes are missing" in report.read_text()
    told, report = safety_report.write(tmp_path, alone, [], 12)
    assert told["episodes"] == 0 and "12 episodes are missing" in report.read_text()


def test_what_people_wrote_is_escaped():
    name = "<script>alert(1)</script>"
    plan = replace(PLAN, suite=name, policies=(A,))
    html = safety_report.render(sf.summary(plan, [], 0), plan, [], 0)
    assert name not in html and "&lt;script&gt;" in html
