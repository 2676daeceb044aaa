"""The comparison at toy scale: the same whether interrupted or not; its statistics against independent ways to them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from grape import compare
from grape.clustered import clustered
from grape.compare import Comparison
from grape.compare_plan import CompareError, Plan, Policy, policies, read_arms
from grape.compare_table import SFT, TrainedPolicy, table
from grape.evaluation import Job, Result, grid
from grape_episode import statistics
from grape_policy.adapters import read_manifest
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_trainer import run_training
from grape_trainer.config import TrainConfig
from grape_trainer.files import read_lines
from grape_trainer.iteration import IterationFiles
from grape_trainer.result import Result as Trained
from grape_trainer.rig import Job as RigJob
from grape_trainer.rig import Rollout
from grape_trainer.testing import QUICK, SyntheticRig

TASK = "carrot_on_plate"
OVERRIDES = {**QUICK, "lora_rank": 2, "holdout_steps": 8, "holdout_pairs": 2, "kl_bound": 0.0, "drift_bound": 0.0}


class Interrupted(BaseException):
    """Somebody pulled the plug."""


class Rollouts(SyntheticRig):
    """Made-up rollouts, each named by its job alone, two of three successes. The plug is pulled once ``dies_after`` are
    noted, when the bag of the next is written but not noted."""

    def __init__(self, vla: Vla, bags: Path, dies_after: int | None = None) -> None:
        super().__init__(vla, bags, successes=lambda seed: seed % 3 > 0)
        self.bags, self.dies_after = bags, dies_after

    def collect(self, jobs: Sequence[RigJob], done: Callable[[Rollout], None]) -> None:
        for number, job in enumerate(jobs):
            self.root = self.bags / str(job.seed)
            rollout = self._roll(job)
            if number == self.dies_after:
                raise Interrupted
            done(rollout)


class Trials:
    """Made-up trials: an adapter's success hangs on its weights and the state. ``dies_after`` so many."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.dies_after, self.ran = dies_after, 0

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        for job in jobs:
            if self.ran == self.dies_after:
                raise Interrupted
            self.ran += 1
            name = read_manifest(Path(job.adapter)).adapter_id if job.adapter else SFT
            drawn = hashlib.sha256(f"{name}/{job.task}/{job.initial_state}".encode()).digest()
            good = drawn[0] < (180 if job.adapter else 100)
            yield Result(job, good, True, drawn[1] < 60, 20 + drawn[2] % 30, int(good), "success" if good else "limit")


class Trainer:
    """Trains in this process; the plug is pulled after ``dies_after`` updates in all."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.dies_after, self.updates = dies_after, 0
        self.told: list[TrainConfig] = []

    def __call__(
        self,
        config: TrainConfig,
        told: Callable[[int, int, float, float], None],
        cancelled: Callable[[], bool],
    ) -> Trained | None:
        self.told.append(config)

        def progress(done: int, total: int, loss: float, drift: float) -> None:
            self.updates += 1
            if self.updates == self.dies_after:
                raise Interrupted
            told(done, total, loss, drift)

        return run_training.in_process(config, progress, cancelled)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vla(model: Path) -> Vla:
    return load_checkpoint(model)


def plan(model: Path, out: Path, **more: object) -> Plan:
    told = {"seeds": 2, "rollout_states": 2, "rollouts": 4, "updates": 2, "states": 5, "overrides": OVERRIDES, **more}
    return Plan(model, out, (TASK,), **told)  # type: ignore[arg-type]


def comparison(
    vla: Vla,
    told: Plan,
    rollouts: int | None = None,
    train: Trainer | None = None,
    trials: Trials | None = None,
) -> Comparison:
    return Comparison(told, lambda bags: Rollouts(vla, bags, rollouts), trials or Trials(), train or Trainer())


@pytest.fixture(scope="module")
def whole(model: Path, vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    """An undisturbed comparison."""
    out, trainer = tmp_path_factory.mktemp("whole") / "out", Trainer()
    comparison(vla, plan(model, out), train=trainer).run()
    return out, trainer


def test_some_policies_alone_and_the_rest_later_in_the_same_folder(model: Path, vla: Vla, tmp_path: Path) -> None:
    comparison(vla, plan(model, tmp_path / "out", seeds=1, names=("filtered BC",))).run()
    found = json.loads((tmp_path / "out" / compare.COMPARISON).read_text())
    assert [row["policy"] for row in found["rows"]] == [SFT, "filtered BC"]
    trainer = Trainer()
    more = ("filtered BC", "TPO balanced")
    comparison(vla, plan(model, tmp_path / "out", seeds=1, names=more), rollouts=0, train=trainer).run()
    assert {Path(config.output).name for config in trainer.told} == {"tpo_balanced-0"}
    found = json.loads((tmp_path / "out" / compare.COMPARISON).read_text())
    assert [row["policy"] for row in found["rows"]] == [SFT, *more]
    assert [(d["policy"], d["against"]) for d in found["differences"]][-1] == ("TPO balanced", "filtered BC")


def test_every_method_has_the_same_rollouts_updates_and_states(whole: tuple[Path, Trainer]) -> None:
    out, trainer = whole
    found = json.loads((out / compare.COMPARISON).read_text())
    names = [SFT, *(policy.name for policy in policies())]
    assert [row["policy"] for row in found["rows"]] == names
    assert [row["success"]["trials"] for row in found["rows"]] == [5, 10, 10, 10, 10, 10]
    assert {(line["updates"], line["stop"]) for line in found["training"]} == {(2, "finished")}
    assert len({line["adapter_id"] for line in found["training"]}) == 10
    pairs = [json.loads(Path(config.pairs).read_text()) for config in trainer.told]
    assert len(pairs) == 10 and len({tuple(sorted(held["episodes"])) for held in pairs}) == 1
    methods = {(config.preset, config.resolved().method, config.resolved().ranking) for config in trainer.told}
    assert methods == {("paper", "tpo", "paper")} | {
        ("default", method, "balanced") for method in ("tpo", "success_only", "step_dpo", "filtered_bc")
    }
    jobs = [line["job"] for line in read_lines(out / "trials.jsonl")]
    assert {job["initial_state"] for job in jobs} == set(range(5)) and {job["temperature"] for job in jobs} == {0.0}
    assert found["budget"]["rollouts_in_all"] == 8 and 0 < found["budget"]["rollouts_successful"] < 8
    for line in found["training"]:
        assert line["kl"] > 0 and line["drift_chosen"] is not None and line["steps"] > 0
        assert (line["accuracy"] is None) == (line["method"] == "filtered_bc") == (line["accuracy_on"] is None)


def test_an_interrupted_comparison_ends_the_same(
    model: Path, vla: Vla, tmp_path: Path, whole: tuple[Path, Trainer]
) -> None:
    told = plan(model, tmp_path / "out")
    stops: tuple[dict[str, Any], ...] = (
        {"rollouts": 3},
        {"rollouts": 2},
        {"train": Trainer(dies_after=2)},
        {"train": Trainer(dies_after=9)},
        {"trials": Trials(dies_after=7)},
    )
    for where in stops:
        with pytest.raises(Interrupted):
            comparison(vla, told, **where).run()
        assert not (told.out / compare.COMPARISON).exists()
    last = Trials()
    comparison(vla, told, trials=last).run()
    assert last.ran == 5 + 10 * 5 - 7
    assert (told.out / compare.COMPARISON).read_bytes() == (whole[0] / compare.COMPARISON).read_bytes()
    nothing, trainer = Trials(dies_after=0), Trainer(dies_after=1)
    comparison(vla, told, rollouts=0, train=trainer, trials=nothing).run()
    assert trainer.told == []
    with pytest.raises(CompareError, match="updates 2, not 3"):
        comparison(vla, replace(told, updates=3)).run()
    with pytest.raises(CompareError, match=r"temperature 1\.0, not 0\.5"):
        comparison(vla, replace(told, temperature=0.5)).run()


def test_a_finished_comparison_takes_more_states(
    model: Path, vla: Vla, tmp_path: Path, whole: tuple[Path, Trainer]
) -> None:
    more = Trials()
    found = comparison(vla, plan(model, whole[0], states=7), train=Trainer(dies_after=1), trials=more).run()
    assert more.ran == 2 * 11 and found["rows"][0]["success"]["trials"] == 7


def test_a_folder_of_something_else_is_left_alone(model: Path, vla: Vla, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CompareError, match="holds something else"):
        comparison(vla, plan(model, tmp_path)).run()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(CompareError, match="rollouts: must be at least 2"):
        plan(model, tmp_path, rollouts=1)
    with pytest.raises(CompareError, match="no policy 'TPO' to compare; there are filtered BC"):
        plan(model, tmp_path, names=("TPO",))
    with pytest.raises(CompareError, match="preset: TPO with preset paper"):
        plan(model, tmp_path, preset="paper")


ARMS = """
- name: TPO, no anchor
  set: {supervised_weight: 0.0, ranking: success}
- {name: cloning, method: filtered_bc, set: {learning_rate: 0.001}}
- {name: TPO}
- {name: TPO safety, objective: safety}
"""


def test_policies_from_a_file_each_with_its_own_settings_and_states(model: Path, vla: Vla, tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text(ARMS)
    arms = read_arms(tmp_path / "arms.yaml")
    assert arms[0] == Policy("TPO, no anchor", "tpo", "default", {"supervised_weight": 0.0, "ranking": "success"})
    trainer, out = Trainer(), tmp_path / "out"
    some = plan(model, out, seeds=1, arms=arms, first_state=300, names=("TPO", "cloning"))
    assert [policy.name for policy in some.policies] == ["cloning", "TPO"]
    comparison(vla, plan(model, out, seeds=1, arms=arms, first_state=300), train=trainer).run()
    told = {Path(config.output).name: (config.resolved(), Path(config.pairs).name) for config in trainer.told}
    first, second, third = told["tpo_no_anchor-0"], told["cloning-0"], told["tpo-0"]
    assert (first[0].supervised_weight, first[0].ranking, first[1]) == (0.0, "success", "pairs_tpo_no_anchor.json")
    assert (second[0].method, second[0].learning_rate) == ("filtered_bc", 0.001)
    assert third[0].lora_rank == 2 and third[1] == second[1] == "pairs_default.json"
    assert {json.loads((out / name).read_text())["ranking"] for name in (first[1], third[1])} == {"success", "balanced"}
    assert {line["job"]["initial_state"] for line in read_lines(out / "trials.jsonl")} == set(range(300, 305))
    safe = json.loads((out / told["tpo_safety-0"][1]).read_text())
    assert (
        safe["objective"] == "safety" and json.loads((out / "pairs_default.json").read_text())["objective"] != "safety"
    )


def test_a_variant_is_that_of_rollouts_and_trials(model: Path, vla: Vla, tmp_path: Path) -> None:
    told = plan(model, tmp_path / "out", seeds=1, variant="obstacle", names=("filtered BC",))
    comparison(vla, told).run()
    assert {line["job"]["variant"] for line in read_lines(told.out / "trials.jsonl")} == {"obstacle"}
    keys = [line["key"] for line in read_lines(IterationFiles(told.out, 1).rollouts_path)]
    assert keys and all("/obstacle/" in key for key in keys)
    with pytest.raises(CompareError, match="variant 'obstacle', not 'clean'"):
        comparison(vla, replace(told, variant="clean")).run()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not readable as YAML"),
        ("{}", "expected a list"),
        ("[{method: tpo}]", "entry 1: expected a policy with a name"),
        ("[{name: a, colour: red}]", r"entry 1 \(a\): colour is not understood"),
        ("[{name: a, objective: fame}]", r"entry 1 \(a\): objective 'fame': one of task_completion, safety"),
        ("[{name: a, set: 3}]", r"entry 1 \(a\): set is not understood"),
        ("[{name: A b}, {name: a-b}, {name: a_b}]", "entry 3: a second policy 'a_b'"),
        ("[{name: SFT}]", "a second policy 'SFT'"),
        ("[{name: a, set: {betta: 1}}]", "unknown setting 'betta'"),
    ],
)
def test_a_spoiled_file_of_policies_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "arms.yaml").write_text(text)
    with pytest.raises(CompareError, match=said) as caught:
        read_arms(tmp_path / "arms.yaml")
    assert "arms.yaml" in str(caught.value)


def made(outcomes: dict[str, np.ndarray]) -> dict[tuple[str, int], list[Result]]:
    """Results of 0 and 1 by policy, (seeds, states)."""
    found = {}
    for name, seeds in outcomes.items():
        for seed, states in enumerate(seeds):
            jobs = grid([TASK], range(len(states)), [f"{name}-{seed}" if name != SFT else ""], "clean", 0, 0.0)
            found[name, seed] = [
                Result(job, bool(good), True, False, 20 if good else 60, int(good), "")
                for job, good in zip(jobs, states, strict=True)
            ]
    return found


def test_the_table_holds_the_figures_of_the_trials() -> None:
    random = np.random.default_rng(1)
    rates = {SFT: (1, 0.5), "BC": (3, 0.55), "TPO": (3, 0.75)}
    outcomes = {name: random.random((seeds, 200)) < rate for name, (seeds, rate) in rates.items()}
    trained = [TrainedPolicy("TPO", "tpo", "default", 0, "", {"kl": float("nan"), "stop": "finished"})]
    found = table([TASK], made(outcomes), trained)
    json.dumps(found, allow_nan=False)
    assert found["training"][0]["kl"] is None
    z = 1.959963984540054
    for row in found["rows"]:
        own = outcomes[row["policy"]]
        p, n = own.mean(), own.size
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        got = row["success"]
        assert [got["rate"], got["low"], got["high"]] == pytest.approx([p, centre - half, centre + half])
        assert got["trials"] == n and [s["rate"] for s in row["seeds"]] == pytest.approx(list(own.mean(axis=1)))
    gaps = {(d["policy"], d["against"]): d for d in found["differences"]}
    assert list(gaps) == [("BC", SFT), ("TPO", SFT), ("TPO", "BC")]
    for (name, other), gap in gaps.items():
        assert gap["points"] == pytest.approx(100 * (outcomes[name].mean() - outcomes[other].mean()))
        assert gap["noise"] is (gap["low"] <= 0 <= gap["high"]) and gap["words"].endswith("noise") is gap["noise"]
        assert gap["collision"]["points"] == 0 and gap["collision"]["noise"]
        assert gap["success_steps"]["steps"] == 0
    assert not gaps["TPO", SFT]["noise"] and "better" in gaps["TPO", SFT]["words"]


@given(hs.integers(1, 3), hs.integers(2, 4), hs.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_the_clustered_interval_is_that_of_all_draws_of_rows_and_columns(seeds: int, states: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(1, states)), random.normal(size=(seeds, states))
    got = clustered(first, second)
    delta = second - first
    assert got.difference == pytest.approx(delta.mean()) and got.trials == delta.size
    rows, columns = (list(itertools.product(range(n), repeat=n)) for n in (seeds, states))
    every = np.array([delta[list(row)].mean(axis=0)[list(column)].mean() for row in rows for column in columns])
    # five standard errors of a share of 10 000 draws
    for bound, share in ((got.low, 0.025), (got.high, 0.975)):
        assert (every < bound - 1e-9).mean() <= share + 0.008
        assert (every <= bound + 1e-9).mean() >= share - 0.008


def test_where_nothing_varies_there_is_still_an_interval() -> None:
    got = clustered(np.zeros((1, 20)), np.zeros((3, 20)))
    assert got.difference == 0 and got.low == pytest.approx(-(1 - 0.05 ** (1 / 20))) and not got.beyond_noise
    assert clustered(np.zeros((1, 20)), np.zeros((3, 20)), span=60.0).high == pytest.approx(-60 * got.low)


def test_one_seed_gives_the_interval_of_the_paired_bootstrap() -> None:
    random = np.random.default_rng(2)
    first, second = random.random(300) < 0.5, random.random(300) < 0.6
    alone = statistics.paired(list(map(float, first)), list(map(float, second)))
    got = clustered([first], [second])
    assert got.difference == pytest.approx(alone.difference)
    assert [got.low, got.high] == pytest.approx([alone.low, alone.high], abs=0.006)


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Three seeds of which one fails altogether: more states must not make that certain."""
    first = np.full((1, 600), 0.5)
    same, apart = np.full((3, 600), 0.6), np.repeat([[0.9], [0.8], [0.1]], 600, axis=1)
    same[:, ::2] += 0.1
    same[:, 1::2] -= 0.1
    assert clustered(first, same).beyond_noise and not clustered(first, apart).beyond_noise


def test_trials_that_are_left_out_do_not_count() -> None:
    nan = math.nan
    got = clustered([[20.0, 30.0, nan, 10.0]], [[18.0, nan, 5.0, 10.0], [16.0, 28.0, 9.0, nan]])
    assert got.trials == 4 and got.difference == pytest.approx((-2 + 0 - 4 - 2) / 4)
    assert clustered([[nan]], [[1.0]]).trials == 0
    with pytest.raises(ValueError, match="clustered difference"):
        clustered([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ValueError, match="clustered difference"):
        clustered([[1.0], [1.0]], [[1.0], [1.0], [1.0]])


def test_the_interval_covers_the_truth_nearly_as_often_as_it_says() -> None:
    """Many seeds and states with effects of both, as the bootstrap assumes."""
    covered = 0
    for trial in range(60):
        random = np.random.default_rng(trial)
        seeds, states = random.normal(0, 0.1, (8, 1)), random.normal(0, 0.2, (1, 60))
        second = 0.3 + seeds + states + random.normal(0, 0.2, (8, 60))
        got = clustered(np.zeros((1, 60)), second, seed=trial)
        covered += got.low <= 0.3 <= got.high
    assert covered >= 51
