"""The align loop against a made-up rig: its phases, its files, and every way in which it ends."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from grape_policy.adapters import current_adapter, read_manifest
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_trainer import loop as loop_module
from grape_trainer.errors import LoopError, RegistryError, RigError, SettingsError
from grape_trainer.files import read_json
from grape_trainer.gate import Bounds
from grape_trainer.loop import AlignConfig, Progress, Verdict, align
from grape_trainer.registry import Registry
from grape_trainer.rig import Ack, Job, RigPool, Rollout, rollout_jobs
from grape_trainer.settings import settings
from grape_trainer.testing import QUICK, SyntheticRig


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vla(model: Path) -> Vla:
    return load_checkpoint(model)


def config(model: Path, tmp_path: Path, **changes: Any) -> AlignConfig:
    plain = {**QUICK, "max_updates": 2, "drift_bound": 0.0, "kl_bound": 0.0, "lora_rank": 4}
    told: dict[str, Any] = {
        "model": model,
        "registry": tmp_path / "adapters",
        "folder": tmp_path / "run",
        "tasks": ("carrot_on_plate", "spoon_on_towel"),
        "states": 2,
        "rollouts": 4,
        "settings": settings(**plain),
        # a random checkpoint moves far in two updates
        "gate": Bounds(kl=0.0),
        "in_process": True,
    }
    return AlignConfig(**{**told, **changes})


def test_two_iterations_swap_twice_and_write_everything(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")
    heard: list[Progress] = []
    result = align(config(model, tmp_path, iterations=2), rig, heard.append)
    registry = Registry(tmp_path / "adapters")
    assert result.changed and result.adapter_id == registry.current == rig.serving
    assert result.reason == "all 2 iterations done"
    assert rig.loads == ["", *(i["adapter_after"] for i in result.iterations)]
    assert len(registry.list()) == 2 and registry.verify() == []
    first, second = result.iterations
    assert second["adapter_before"] == first["adapter_after"]
    assert read_manifest(registry.path(second["adapter_after"])).parent == first["adapter_after"]
    assert first["episodes"] == second["episodes"] == 16 and first["pairs"] > 0
    states = [{j.initial_state for j in rig.jobs[:16]}, {j.initial_state for j in rig.jobs[16:]}]
    assert states == [{100_000, 100_001}, {100_002, 100_003}]
    assert len({j.seed for j in rig.jobs}) == 32 and all(j.temperature == 1.0 for j in rig.jobs)
    order = list(dict.fromkeys((p.iteration, p.phase) for p in heard))
    assert order == [(k, phase) for k in (1, 2) for phase in loop_module.PHASES]
    assert all(0.0 <= p.fraction <= 1.0 for p in heard)
    for k in (1, 2):
        folder = tmp_path / f"run/iteration_{k}"
        names = ("rollouts.jsonl", "scores.json", "pairs.json", "train/metrics.jsonl", "summary.json")
        assert all((folder / name).is_file() for name in names)
        assert set(read_json(folder / "summary.json")["seconds"]) == set(loop_module.PHASES)
    assert read_json(tmp_path / "run/summary.json")["adapter_id"] == result.adapter_id
    # a run that has ended says so again and does nothing
    again = SyntheticRig(vla, tmp_path / "more")
    assert align(config(model, tmp_path, iterations=2), again).adapter_id == result.adapter_id
    assert not again.jobs and not again.loads


@pytest.fixture(scope="module")
def undisturbed(model: Path, vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of an iteration that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return align(config(model, folder), SyntheticRig(vla, folder / "bags")).adapter_id


@pytest.mark.parametrize("phase", loop_module.PHASES)
def test_cancelled_in_any_phase_it_keeps_the_adapter_and_goes_on_later(
    model: Path, vla: Vla, tmp_path: Path, phase: str, undisturbed: str
) -> None:
    rig = SyntheticRig(vla, tmp_path / "cut/bags")
    told = config(model, tmp_path / "cut")

    def stop(progress: Progress) -> None:
        # half way through where a phase has a half, else at its beginning
        if progress.phase == phase and (progress.fraction >= 0.4 or phase in ("pair", "gate", "swap")):
            rig.stop.set()

    result = align(told, rig, stop, canary=lambda folder: Verdict(True, ""))
    assert result.reason.startswith(f"cancelled in phase {phase} of iteration 1") and "base model" in result.reason
    assert not result.changed and rig.serving == "" and current_adapter(tmp_path / "cut/adapters") is None
    done = len(rig.jobs)
    rig.stop.clear()
    again = align(told, rig, canary=lambda folder: Verdict(True, ""))
    assert again.changed and again.adapter_id == undisturbed == rig.serving
    assert len(rig.jobs) == 16 and (phase != "collect" or done < 16)


def test_a_rig_that_fails_can_be_gone_on_with(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags", fail_after=5)
    told = config(model, tmp_path)
    with pytest.raises(ConnectionError):
        align(told, rig)
    assert len(rig.jobs) == 5
    rig.fail_after = None
    assert align(told, rig).changed and len(rig.jobs) == 16
    assert len({j.key for j in rig.jobs}) == 16


def test_a_refused_canary_keeps_the_old_adapter(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")
    tried: list[str] = []

    def canary(folder: Path) -> Verdict:
        tried.append(rig.load_adapter(folder).adapter_id)
        return Verdict(False, "12 of 24 instead of 17", {"success": 0.5})

    result = align(config(model, tmp_path, iterations=3), rig, canary=canary)
    assert not result.changed and rig.serving == "" == Registry(tmp_path / "adapters").current
    assert "gate refused" in result.reason and "12 of 24" in result.reason and "goes on serving" in result.reason
    assert len(result.iterations) == 1
    (entry,) = Registry(tmp_path / "adapters").list()
    assert entry.adapter_id == tried[0] and entry.manifest["verdict"]["accepted"] is False
    assert read_json(tmp_path / "run/summary.json")["iterations"][0]["gate"]["figures"] == {"success": 0.5}
    with pytest.raises(RegistryError, match="the gate refused it: 12 of 24"):
        Registry(tmp_path / "adapters").promote(entry.adapter_id)


def test_an_adapter_beyond_the_bounds_is_kept_but_does_not_serve(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")
    result = align(config(model, tmp_path, gate=Bounds(kl=1e-9)), rig)
    assert not result.changed and rig.serving == "" and rig.loads == ["", ""]
    assert "the gate refused the new adapter: KL to the reference" in result.reason
    (entry,) = Registry(tmp_path / "adapters").list()
    checks = {check["name"]: check["passed"] for check in entry.manifest["verdict"]["checks"]}
    assert checks == {"held-out preference accuracy": None, "KL to the reference": False, "canary": None}


def test_training_waits_as_long_as_it_is_held(model: Path, vla: Vla, tmp_path: Path) -> None:
    heard: list[str] = []
    reasons = iter(["an episode is running", "an episode is running"])
    told = config(model, tmp_path)
    result = align(
        told, SyntheticRig(vla, tmp_path / "bags"), lambda p: heard.append(p.message), hold=lambda: next(reasons, "")
    )
    assert result.changed and heard.count("waiting: an episode is running") == 2


def test_bags_that_were_collected_elsewhere_are_one_iteration(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")
    bags: list[str] = []
    rig.collect(rollout_jobs(("carrot_on_plate",), 2, 4, 100_000, 0), lambda rollout: bags.append(rollout.bag))
    idle = SyntheticRig(vla, tmp_path / "none")
    result = align(config(model, tmp_path, tasks=(), bags=tuple(bags)), idle)
    assert result.changed and not idle.jobs and idle.serving == result.adapter_id
    assert result.iterations[0]["episodes"] == 8
    with pytest.raises(SettingsError, match="iterations"):
        config(model, tmp_path, bags=tuple(bags), iterations=2)


def test_a_canary_that_breaks_leaves_what_served(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")

    def canary(folder: Path) -> Verdict:
        rig.load_adapter(folder)
        raise RigError("the world is gone")

    with pytest.raises(RigError, match="the world is gone"):
        align(config(model, tmp_path), rig, canary=canary)
    assert rig.serving == ""
    assert align(config(model, tmp_path), rig).changed and len(rig.jobs) == 16


def test_a_policy_that_refuses_keeps_the_old_adapter(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags", refuse="slot is too small")
    result = align(config(model, tmp_path), rig)
    assert not result.changed and "slot is too small" in result.reason
    assert Registry(tmp_path / "adapters").current == ""


def test_no_strict_preference_ends_with_the_reason(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")
    told = config(model, tmp_path, settings=settings(min_margin=1e9))
    rig.successes = lambda number: False
    result = align(told, rig)
    assert not result.changed and "no strict preferences among 16 episodes (0 successes)" in result.reason
    assert rig.loads == [""] and not (tmp_path / "run/iteration_1/train").exists()


def test_a_stop_by_a_bound_keeps_the_old_adapter(model: Path, vla: Vla, tmp_path: Path) -> None:
    chosen = settings(**{**QUICK, "kl_bound": 1e-12, "check_every": 1})
    result = align(config(model, tmp_path, settings=chosen), SyntheticRig(vla, tmp_path / "bags"))
    assert not result.changed and "KL to the reference" in result.reason


def test_a_crash_right_after_the_swap_is_gone_on_from(
    model: Path, vla: Vla, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")

    class Killed(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Align, "_finish", crash)
        with pytest.raises(Killed):
            align(config(model, tmp_path, iterations=2), rig)
    served = Registry(tmp_path / "adapters").current
    assert served
    result = align(config(model, tmp_path, iterations=2), rig)
    assert result.iterations[0]["adapter_after"] == served and result.iterations[0]["adapter_before"] == ""
    assert result.changed and len(rig.jobs) == 32 and len(Registry(tmp_path / "adapters").list()) == 2


def test_unfit_bags_are_left_out_with_their_reasons(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags")
    roll = rig._roll

    def sometimes(job: Job) -> Rollout:
        number = len(rig.jobs)
        before = rig.serving
        if number == 2:
            rig.serving = "f" * 64
        rollout = roll(job)
        rig.serving = before
        if number == 1:
            file = next(Path(rollout.bag).glob("*.mcap"))
            file.write_bytes(file.read_bytes()[:500])
        return rollout

    rig._roll = sometimes  # type: ignore[method-assign]
    result = align(config(model, tmp_path), rig)
    assert result.changed and result.iterations[0]["episodes"] == 14
    reasons = " ".join(result.iterations[0]["excluded"])
    assert "cut off" in reasons and "recorded under ffff" in reasons


def test_the_training_process_gives_the_same_adapter(model: Path, vla: Vla, tmp_path: Path) -> None:
    heard: list[Progress] = []
    own = config(model, tmp_path / "own", in_process=False, tasks=("carrot_on_plate",))
    result = align(own, SyntheticRig(vla, tmp_path / "own/bags"), heard.append)
    here = dataclasses.replace(own, in_process=True, folder=tmp_path / "here", registry=tmp_path / "registry")
    assert align(here, SyntheticRig(vla, tmp_path / "here/bags")).adapter_id == result.adapter_id
    assert result.changed


def test_another_configuration_in_the_same_folder_is_refused(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags", fail_after=1)
    with pytest.raises(ConnectionError):
        align(config(model, tmp_path), rig)
    with pytest.raises(LoopError, match=r"align\.json"):
        align(config(model, tmp_path, seed=1), rig)


def test_the_training_is_shared_by_as_many_processes_as_told(
    model: Path, vla: Vla, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def here(told: Any, progress: Any, cancelled: Any, processes: int) -> Any:
        asked.append(processes)
        return loop_module.run_training.in_process(told, progress, cancelled)

    monkeypatch.setattr(loop_module.run_training, "in_own_process", here)
    told = config(model, tmp_path, in_process=False, processes=3)
    assert align(told, SyntheticRig(vla, tmp_path / "bags")).changed and asked == [3]
    # how many they are decides nothing
    assert told.fingerprint == config(model, tmp_path).fingerprint


@pytest.mark.parametrize("method", ["step_dpo", "success_only", "filtered_bc"])
def test_every_method_closes_the_loop(model: Path, vla: Vla, tmp_path: Path, method: str) -> None:
    plain = {**QUICK, "max_updates": 1, "drift_bound": 0.0, "kl_bound": 0.0, "lora_rank": 4, "method": method}
    told = config(model, tmp_path, settings=settings(**plain))
    result = align(told, SyntheticRig(vla, tmp_path / "bags"))
    assert result.changed
    assert read_manifest(Registry(tmp_path / "adapters").path(result.adapter_id)).settings["method"] == method


def test_nothing_to_imitate_ends_with_the_reason(model: Path, vla: Vla, tmp_path: Path) -> None:
    rig = SyntheticRig(vla, tmp_path / "bags", successes=lambda number: False)
    result = align(config(model, tmp_path, settings=settings(method="filtered_bc")), rig)
    assert not result.changed and "(0 successes)" in result.reason and rig.loads == [""]


def test_demonstrations_are_nothing_for_a_loop(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="method: sft"):
        config(model, tmp_path, settings=settings(method="sft"))


@pytest.mark.parametrize("wrong", [{"tasks": ()}, {"iterations": 0}, {"states": 0}, {"rollouts": 1}])
def test_wrong_configurations_are_refused_by_field(model: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        config(model, tmp_path, **wrong)


class CountingRig:
    """Each job takes until two rigs are at work."""

    def __init__(self, barrier: threading.Barrier, refuse: bool = False) -> None:
        self.barrier, self.refuse, self.loaded, self.keys = barrier, refuse, [], []  # type: ignore[var-annotated]

    def collect(self, jobs: Any, done: Any) -> None:
        for job in jobs:
            self.barrier.wait(10.0)
            self.keys.append(job.key)
            done(Rollout(job.key, "bag"))

    def load_adapter(self, path: Path | None) -> Ack:
        if self.refuse and path is not None:
            return Ack(False, "no")
        self.loaded.append(path)
        return Ack(True, "", "id" if path else "")

    def cancelled(self) -> bool:
        return False


def test_a_pool_shares_the_jobs_and_serves_on_all_or_none(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)
    rigs = [CountingRig(barrier), CountingRig(barrier)]
    jobs = rollout_jobs(("a",), 3, 2, 0, 0)
    done: list[str] = []
    RigPool(rigs).collect(jobs, lambda rollout: done.append(rollout.key))
    assert sorted(done) == sorted(job.key for job in jobs) and all(len(rig.keys) == 3 for rig in rigs)
    mixed = [CountingRig(barrier), CountingRig(barrier, refuse=True)]
    assert not RigPool(mixed).load_adapter(tmp_path).accepted
    assert mixed[0].loaded == [tmp_path, None] and mixed[1].loaded == []
    with pytest.raises(RigError):
        RigPool([])


def test_jobs_are_distinct_and_reproducible() -> None:
    jobs = rollout_jobs(("a", "b"), 3, 2, 100_000, 7, "clean")
    assert len({j.key for j in jobs}) == 12 and jobs == rollout_jobs(("a", "b"), 3, 2, 100_000, 7, "clean")
    assert all(0 <= j.seed < 2**63 for j in jobs)
    assert {j.seed for j in jobs}.isdisjoint(j.seed for j in rollout_jobs(("a", "b"), 3, 2, 100_000, 8, "clean"))
    assert json.loads(json.dumps([dataclasses.asdict(j) for j in jobs]))
