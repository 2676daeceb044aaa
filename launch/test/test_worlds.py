"""Suites of worlds: fixed disjoint ids, pairing, tables against figures counted by hand."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from grape import evaluate_cli, worlds, worlds_cli
from grape import evaluation as ev
from grape.console import CommandError
from grape.paths import params
from grape.suites import load_suite
from grape.worlds_cli import Request, command, evaluate_worlds, read_plan, write_trials
from grape_policy.adapters import read_manifest
from grape_policy.checkpoint import load_checkpoint
from grape_policy.testing import write_random_adapter, write_random_checkpoint
from grape_sim.scene import make_scene
from grape_sim.unseen import KINDS

SUITES = ("in_domain", *worlds.UNSEEN_SUITES, "avoidance")
SHIPPED = sorted(path.stem for path in (params("sim.yaml").parents[1] / "suites").glob("*.yaml"))


def ids(name: str) -> set[int]:
    return {state for item in load_suite(name).items for state in item.states}


def test_every_suite_has_one_for_tuning_and_shares_no_state_with_it() -> None:
    assert set(SHIPPED) == {*SUITES, *(f"tuning_{name}" for name in SUITES), "safety"}
    reporting = set().union(*(ids(name) for name in SUITES))
    tuning = set().union(*(ids(f"tuning_{name}") for name in SUITES))
    assert min(reporting) >= 60_000 and max(reporting) < 70_000 <= min(tuning) and max(tuning) < 80_000
    assert not (reporting | tuning) & ids("safety")
    for name in SUITES:
        one, other = load_suite(name), load_suite(f"tuning_{name}")
        assert [(i.task, i.variant) for i in one.items] == [(i.task, i.variant) for i in other.items]
        assert sum(len(item.states) for item in one.items) >= 200, "200 states a cell"


def test_an_unseen_suite_shows_every_kind_in_every_task() -> None:
    for name in ("subject", "physical", "semantic", "visual", "grounding"):
        for item in load_suite(name).items:
            assert item.variant == name
            kinds = {make_scene(item.task, item.variant, state).kind for state in item.states[:10]}
            assert kinds == set(KINDS[name])


def plan(**changed) -> worlds.Plan:
    given = {
        "suites": (load_suite("in_domain"), load_suite("grounding"), load_suite("action")),
        "policies": (worlds.Policy("base", ("",)), worlds.Policy("tpo", ("/a", "/b"))),
        "states": 6,
    }
    return worlds.Plan(**{**given, **changed})


def result(job: ev.Job) -> ev.Result:
    """Base succeeds on even states, adapter a on all but multiples of 3, b everywhere; temperature 1 never does."""
    state = job.initial_state
    good = {"": state % 2 == 0, "/a": state % 3 != 0, "/b": True}[job.adapter] and job.temperature == 0
    return ev.Result(job, good, True, state % 6 == 0, 20 + state % 7 if good else 60, -1, "success", mistaken=not good)


class Fake:
    def run(self, jobs: Sequence[ev.Job]) -> Iterator[ev.Result]:
        return (result(job) for job in jobs)


def test_every_policy_is_tried_on_the_same_states_with_the_same_seeds() -> None:
    wanted = worlds.jobs(plan())
    assert len(wanted) == len({job.key for job in wanted}) == (24 + 24 + 12) * 3 * 2
    assert all(job.ends_by == ev.WORLD and job.step_limit == 60 for job in wanted)
    by_state: dict[tuple, set] = {}
    for job in wanted:
        state = (job.task, job.variant, job.initial_state)
        by_state.setdefault(state, set()).add((job.adapter, job.temperature, job.seed))
    assert all(len(found) == 6 and len({seed for *_, seed in found}) == 1 for found in by_state.values())
    first = wanted[: 3 * 3 * 2]
    assert {job.adapter for job in first} == {"", "/a", "/b"}, "an interrupted run has tried everybody"


def test_rows_and_differences_are_what_one_counts(tmp_path: Path) -> None:
    wanted = plan()
    results = ev.run(worlds.jobs(wanted), Fake(), tmp_path / "r.jsonl")
    told = worlds.table(wanted, results[::-1])
    json.dumps(told, allow_nan=False)
    rows = {(row["policy"], row["suite"], row["decoding"]): row for row in told["rows"]}
    suites, decodings = ("in_domain", "grounding", "action"), ("greedy", "temperature 1")
    assert set(rows) == set(itertools.product(("base", "tpo"), suites, decodings))
    row = rows["tpo", "in_domain", "greedy"]
    counted = [result(job).success for job in worlds.jobs(wanted) if job.variant == "clean" and job.adapter
               and job.temperature == 0 and job.initial_state < 64_000]  # fmt: skip
    assert row["success"]["trials"] == len(counted) == 48
    assert row["success"]["rate"] == pytest.approx(np.mean(counted))
    assert row["success"]["low"] < row["success"]["rate"] < row["success"]["high"]
    kinds = rows["base", "grounding", "greedy"]["kinds"]
    assert set(kinds) == set(KINDS["grounding"]) and sum(cell["trials"] for cell in kinds.values()) == 24
    gaps = {(gap["suite"], gap["decoding"]): gap for gap in told["differences"]}
    assert set(gaps) == set(itertools.product((*suites, worlds.TOGETHER), decodings))
    assert gaps["in_domain", "greedy"]["points"] == pytest.approx(100 * (np.mean(counted) - 0.5))
    both = [gaps[suite, "greedy"]["points"] for suite in ("grounding", "action")]
    assert gaps[worlds.TOGETHER, "greedy"]["points"] == pytest.approx(np.mean(both)), "each suite weighs the same"
    assert gaps["in_domain", "temperature 1"]["noise"]


def test_the_states_of_several_suites_are_drawn_together() -> None:
    """A state that decides in five suites at once is one piece of evidence, not five."""
    rng = np.random.default_rng(3)
    good = rng.random(40) < 0.5

    def cell(variant: str, luck: np.ndarray) -> dict:
        def side(adapter: str) -> list[ev.Result]:
            return [
                ev.Result(
                    ev.Job("t", variant, n, n, 0.0, adapter),
                    bool(luck[n]) if adapter else False,
                    True,
                    False,
                    9,
                    -1,
                    "",
                )
                for n in range(40)
            ]

        return {("base", 0): side(""), ("new", 0): side("x")}

    same = worlds.unseen_together("new", "base", [cell(str(k), good) for k in range(5)])
    mixed = worlds.unseen_together("new", "base", [cell(str(k), rng.permutation(good)) for k in range(5)])
    assert same["points"] == pytest.approx(mixed["points"])
    assert same["high"] - same["low"] > 1.7 * (mixed["high"] - mixed["low"])


def test_a_trial_without_a_result_is_named() -> None:
    wanted = plan()
    results = [result(job) for job in worlds.jobs(wanted)]
    with pytest.raises(worlds.WorldsError, match="suite in_domain: no result of base on carrot_on_plate 60000"):
        worlds.table(wanted, [r for r in results if r.job.initial_state != 60_000])


def test_trials_are_written_flat(tmp_path: Path) -> None:
    wanted = plan(suites=(load_suite("visual"),), temperatures=(0.0,))
    results = [result(job) for job in worlds.jobs(wanted)]
    write_trials(tmp_path / "trials.parquet", worlds.flat(wanted, results))
    rows = pyarrow.parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert len(rows) == 24 * 3 and {row["kind"] for row in rows} == set(KINDS["visual"])
    assert sum(row["success"] for row in rows) == sum(r.success for r in results)


def test_policies_are_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert worlds.read_policies(f"base, {a},tpo={a}+{b}") == (
        worlds.Policy("base", ("",)), worlds.Policy("a", (a,)), worlds.Policy("tpo", (a, b)),
    )  # fmt: skip
    for words, told in ((f"{a},{a}", "a is given twice"), ("nowhere", "nowhere: no such folder"), (",", "at least one"),
                        (f"x={a}+{b},y={a}+{b}+{a}", "2 and 3 training seeds")):  # fmt: skip
        with pytest.raises(worlds.WorldsError, match=told):
            worlds.read_policies(words)


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"suites": "in_domain,in_domain"}, "in_domain is given twice"),
        ({"suites": "nowhere"}, "'nowhere'"),
        ({"temperatures": "0,warm"}, "--temperatures"),
        ({"temperatures": "0,0"}, "each once"),
        ({"states": 101}, "it has 100, not 101"),
    ],
)
def test_what_cannot_be_run_is_named_before_anything_runs(tmp_path: Path, changed: dict, told: str) -> None:
    given = Request(tmp_path, "in_domain", "base", "0", 1, 0, 1, tmp_path / "out")
    with pytest.raises(Exception, match=told):
        read_plan(Request(**{**vars(given), **changed}))


def test_a_finished_folder_gives_its_report_again_without_a_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_random_checkpoint(tmp_path / "tiny")
    adapter = write_random_adapter(tmp_path / "a", load_checkpoint(model), rank=2, seed=1)
    folder = str(adapter.resolve())
    words = f"base,tpo={adapter}"
    asked = Request(model, "in_domain", words, "0", 2, 0, 1, tmp_path / "out dir", film=False)
    runs: list[int] = []

    class Counting:
        def __init__(self, model: Path, workers: int) -> None:
            self.ids = {"": "", folder: read_manifest(adapter).adapter_id}

        def run(self, jobs: Sequence[ev.Job]) -> Iterator[ev.Result]:
            runs.append(len(jobs))
            return (replace(result(replace(j, adapter="")), job=j, adapter_id=self.ids[j.adapter]) for j in jobs)

    monkeypatch.setattr("grape.workers.WorldWorkers", Counting)
    told = evaluate_worlds(asked)
    assert runs == [16] and told["differences"][0]["noise"]
    report = asked.out / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(report)
    assert "16 new rollouts" in report.read_text() and read_manifest(adapter).adapter_id in report.read_text()
    report.unlink()
    evaluate_worlds(asked)
    assert runs == [16] and "0 new rollouts" in report.read_text()
    # another adapter in the same folder: what was tried is not its
    write_random_adapter(adapter, load_checkpoint(model), rank=2, seed=2)
    with pytest.raises(worlds.WorldsError, match=r"was tried as adapter .* and is now .*: give another --out"):
        evaluate_worlds(asked)


def test_the_command_of_a_report_can_be_given_again(tmp_path: Path) -> None:
    asked = Request(tmp_path / "a b", "in_domain,action", "", "0,1", 3, 7, 2, tmp_path / "out")
    told = shlex.split(command(asked))
    assert told[:2] == ["grape", "eval"] and told[told.index("--model") + 1] == str(tmp_path / "a b")
    given = dict(zip(told[2::2], told[3::2], strict=True))
    assert given["--suite"] == "in_domain,action" and given["--policies"] == "base" and given["--seed"] == "7"
    assert given["--states"] == "3" and given["--temperatures"] == "0,1" and given["--out"] == str(tmp_path / "out")


def test_no_film_reaches_the_report_and_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(worlds_cli, "evaluate_worlds", asked.append)
    evaluate_cli.evaluate_command(suite="in_domain", policies="base")
    evaluate_cli.evaluate_command(suite="in_domain", policies="base", film=False)
    assert [request.film for request in asked] == [True, False]
    assert [request.temperatures for request in asked] == ["0,1", "0,1"]
    for others in ({"suite": "safety"}, {}):
        with pytest.raises(CommandError, match="--no-film: only with --policies"):
            evaluate_cli.evaluate_command(**others, film=False)
        with pytest.raises(CommandError, match="--temperatures: only with --policies"):
            evaluate_cli.evaluate_command(**others, temperatures="0.5")
