"""The comparison of training methods: the same rollouts and updates for each, then fresh trials on the same states."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape import evaluation
from grape.compare_table import SFT, TrainedPolicy, table
from grape_policy.adapters import read_manifest
from grape_policy.checkpoint import base_hash
from grape_trainer.config import TrainConfig
from grape_trainer.files import read_json, read_lines, write_json
from grape_trainer.iteration import IterationFiles
from grape_trainer.pairs import build, write_pairs
from grape_trainer.result import RESULT, Result, read_result
from grape_trainer.rig import Rig, Rollout, rollout_jobs
from grape_trainer.settings import Settings, settings

FIRST_ROLLOUT_STATE = 100_000
"""Initial-state ids of the rollouts are from here on; those of the trials are 0, 1, ..."""
PLAN, SECONDS, COMPARISON = "plan.json", "seconds.json", "comparison.json"

Tell = Callable[[str, int, int, str], None]
"""(phase, done, total, message)"""
Train = Callable[[TrainConfig, Callable[[int, int, float, float], None], Callable[[], bool]], Result | None]
"""``run_training.in_process`` or ``in_own_process``."""


class CompareError(Exception):
    """A comparison cannot be run; the text names what is wrong."""


@dataclass(frozen=True)
class Policy:
    """What is trained: a name for the tables, a method and a preset of grape_trainer."""

    name: str
    method: str
    preset: str


def policies(preset: str = "default", names: Sequence[str] = ()) -> tuple[Policy, ...]:
    """What is compared with SFT. All but TPO as printed share ``preset``, so that they differ in method alone; the last
    is the one that the others are set against. ``names``: of those wanted, in this order, empty: all.

    Raises CompareError naming an unknown one."""
    known = (
        Policy("filtered BC", "filtered_bc", preset),
        Policy("success-only pairs", "success_only", preset),
        Policy("step-wise DPO", "step_dpo", preset),
        Policy("TPO paper", "tpo", "paper"),
        Policy("TPO balanced" if preset == "default" else f"TPO {preset}", "tpo", preset),
    )
    for name in names:
        if name not in (policy.name for policy in known):
            raise CompareError(f"no policy {name!r} to compare; there are {', '.join(p.name for p in known)}")
    return tuple(policy for policy in known if not names or policy.name in names)


@dataclass(frozen=True)
class Plan:
    """``rollout_states``: initial states a task, with ``rollouts`` each; ``updates``: of every training run, ``seeds``
    runs a policy; ``states``: trials a task, policy and seed; ``workers``: training runs at a time. ``preset`` and
    ``names``: see :func:`policies`; ``overrides``: of every preset."""

    model: Path
    out: Path
    tasks: tuple[str, ...]
    seeds: int = 3
    rollout_states: int = 16
    rollouts: int = 4
    updates: int = 30
    states: int = 50
    workers: int = 1
    preset: str = "default"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        policies(self.preset, self.names)
        for name in ("seeds", "rollout_states", "rollouts", "updates", "states", "workers"):
            least = 2 if name == "rollouts" else 1
            if getattr(self, name) < least:
                raise CompareError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        if self.preset == "paper":
            raise CompareError("preset: TPO with preset paper is compared in any case; give another one for the rest")
        if self.states > FIRST_ROLLOUT_STATE:
            raise CompareError(f"states: at most {FIRST_ROLLOUT_STATE}: from there on are those of the rollouts")

    @property
    def policies(self) -> tuple[Policy, ...]:
        return policies(self.preset, self.names)

    def told(self, policy: Policy, seed: int) -> Settings:
        """The settings of one training run: the preset's, with the shared budget of updates."""
        # as many epochs as updates: enough whatever an epoch gives
        budget = {"max_updates": self.updates, "epochs": self.updates}
        return settings(policy.preset, **{**self.overrides, "method": policy.method, "seed": seed, **budget})

    @property
    def fixed(self) -> dict[str, Any]:
        """What a folder is held to. More seeds, states or policies may be asked of a folder that is there."""
        names = ("rollout_states", "rollouts", "updates", "preset")
        return {
            "base_hash": base_hash(self.model),
            "tasks": list(self.tasks),
            **{name: getattr(self, name) for name in names},
            "overrides": dict(self.overrides),
        }


class Comparison:
    """One comparison in ``plan.out``. Every phase keeps what it has finished, so that the same call goes on.

    ``collector``: makes the rig that writes bags into the folder it is given, with the base model serving;
    ``runner``: of the trials; ``train``: one training run."""

    def __init__(
        self,
        plan: Plan,
        collector: Callable[[Path], Rig],
        runner: evaluation.Runner,
        train: Train,
        tell: Tell = lambda phase, done, total, said: None,
    ) -> None:
        self.plan, self._collector, self._runner, self._train, self._tell = plan, collector, runner, train, tell
        self.files = IterationFiles(plan.out, 1)
        self._seconds_path = plan.out / SECONDS

    def run(self) -> dict[str, Any]:
        """All phases that are left; what OUT/comparison.json then holds.

        Raises CompareError where the folder holds something else, and the typed errors of the phases."""
        self._own()
        with self._clock("collect"):
            self._collect()
        with self._clock("pair"):
            files = self._pair()
        with self._clock("train"):
            trained = self._train_all(files)
        with self._clock("trials"):
            results = self._trials(trained)
        found = {"budget": self._budget(), **table(self.plan.tasks, results, trained)}
        write_json(self.plan.out / COMPARISON, found)
        return found

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by phase, summed over the runs that were not killed."""
        return read_json(self._seconds_path) if self._seconds_path.exists() else {}

    @contextmanager
    def _clock(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds
            seconds[phase] = round(seconds.get(phase, 0.0) + time.monotonic() - begun, 1)
            write_json(self._seconds_path, seconds)

    def _own(self) -> None:
        out, wanted = self.plan.out, self.plan.fixed
        if (out / PLAN).exists():
            held = read_json(out / PLAN)
            for name, value in wanted.items():
                if held.get(name) != value:
                    raise CompareError(
                        f"{out}: holds a comparison with {name} {held.get(name)!r}, not {value!r}; give another --out"
                    )
        elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise CompareError(f"{out}: holds something else than a comparison; give another --out")
        else:
            write_json(out / PLAN, wanted)

    def _collect(self) -> None:
        plan, files = self.plan, self.files
        jobs = rollout_jobs(plan.tasks, plan.rollout_states, plan.rollouts, FIRST_ROLLOUT_STATE, seed=0)
        missing = files.missing(jobs)
        done = len(jobs) - len(missing)

        def told(rollout: Rollout) -> None:
            nonlocal done
            if rollout.bag:
                files.add(rollout)
                done += 1
            self._tell("collect", done, len(jobs), f"{rollout.key}: {rollout.end_reason}")

        if missing:
            # a folder of its own each time: a run that was ended may have left bags that nobody noted
            root = plan.out / "episodes"
            number = 1 + len(list(root.iterdir())) if root.exists() else 1
            self._collector(root / f"{number:03d}").collect(missing, told)
            missing = files.missing(jobs)
        if missing:
            raise CompareError(f"{len(missing)} of {len(jobs)} rollouts were not recorded, the first {missing[0].key}")

    def _pair(self) -> dict[str, Path]:
        """The pairs file of each preset, by its name: the same rollouts, each ranked as the preset says."""
        entries = self.files.score("", "task_completion", lambda done, total: self._tell("score", done, total, ""))
        paths = {}
        for preset in {policy.preset for policy in self.plan.policies}:
            paths[preset] = self.plan.out / f"pairs_{preset}.json"
            if not paths[preset].exists():
                told = settings(preset, **self.plan.overrides)
                write_pairs(paths[preset], build(entries, told.ranking, told.m, told.lambdas, told.min_margin))
        return paths

    def _train_all(self, pairs: Mapping[str, Path]) -> list[TrainedPolicy]:
        wanted = [(policy, seed) for seed in range(self.plan.seeds) for policy in self.plan.policies]
        lock, stop = threading.Lock(), threading.Event()
        finished = 0

        def one(policy: Policy, seed: int) -> TrainedPolicy:
            nonlocal finished
            if stop.is_set():
                raise CompareError(f"training of {policy.name} was ended")
            folder = self.plan.out / "train" / f"{policy.name.lower().replace(' ', '_')}-{seed}"
            config = self._config(policy, seed, pairs[policy.preset], folder)

            def told(done: int, total: int, loss: float, drift: float) -> None:
                words = f"{policy.name}, seed {seed}: update {done} of {total}, loss {loss:.3f}"
                self._tell("train", finished, len(wanted), words)

            if not (folder / RESULT).exists() and self._train(config, told, stop.is_set) is None:
                raise CompareError(f"training of {policy.name} was ended")
            with lock:
                finished += 1
                self._tell("train", finished, len(wanted), f"{policy.name}, seed {seed}")
            return _trained(policy, seed, folder)

        with ThreadPoolExecutor(self.plan.workers) as pool:
            runs = [pool.submit(one, policy, seed) for policy, seed in wanted]
            try:
                return [run.result() for run in runs]
            except BaseException:
                stop.set()  # the others keep what they have and end
                raise

    def _config(self, policy: Policy, seed: int, pairs: Path, folder: Path) -> TrainConfig:
        told = self.plan.told(policy, seed)
        return TrainConfig(
            model=str(self.plan.model.resolve()),
            pairs=str(pairs.resolve()),
            output=str(folder.resolve()),
            cache=str((self.plan.out / "log_probs").resolve()),
            preset=told.preset,
            settings=told.to_dict(),
            threads=1,
        )

    def _trials(self, trained: Sequence[TrainedPolicy]) -> dict[tuple[str, int], list[evaluation.Result]]:
        """Results by (policy, training seed), each in the order of tasks and states; SFT has the seed 0 alone."""
        sides = {(SFT, 0): ""} | {(t.policy, t.seed): t.adapter for t in trained}
        jobs = {
            side: evaluation.grid(self.plan.tasks, range(self.plan.states), [adapter], "clean", 0, 0.0)
            for side, adapter in sides.items()
        }
        # policy by policy: a change of the adapter costs more than a change of the scene
        results = evaluation.run(
            [job for own in jobs.values() for job in own],
            self._runner,
            self.plan.out / "trials.jsonl",
            lambda done, total, said: self._tell("trials", done, total, said),
        )
        by_key = {result.job.key: result for result in results}
        return {side: [by_key[job.key] for job in own] for side, own in jobs.items()}

    def _budget(self) -> dict[str, Any]:
        plan = self.plan
        lines = read_json(self.files.scores_path)["episodes"]
        successes = sum(line["kind"] == "candidate" and line["entry"]["success"] == 1 for line in lines)
        chosen = {policy.name: plan.told(policy, 0).to_dict() for policy in plan.policies}
        return {
            "model": plan.model.name,
            **plan.fixed,
            "rollouts_in_all": len(lines),
            "rollouts_left_out": sum(line["kind"] == "excluded" for line in lines),
            "rollouts_successful": successes,
            "seeds": plan.seeds,
            "states": plan.states,
            "settings": chosen,
        }


def _trained(policy: Policy, seed: int, folder: Path) -> TrainedPolicy:
    result = read_result(folder)
    check = result.figures.get("check", {})
    steps = sum(line["steps"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line)
    figures: dict[str, Any] = {name: check.get(name) for name in ("kl", "kl_reverse", "entropy")}
    figures |= {name: check.get(name) for name in ("drift_chosen", "drift_rejected", "accuracy")}
    figures |= {
        "accuracy_on": ("held-out" if result.held_pairs else "training") if "accuracy" in check else None,
        "stop": result.status,
        "reason": result.reason,
        "updates": result.updates,
        "kept_update": result.kept_update,
        "items": result.pairs,
        "held_items": result.held_pairs,
        "episodes_left_out": len(result.left_out),
        "steps": steps,
        "adapter_id": read_manifest(folder / "adapter").adapter_id,
    }
    return TrainedPolicy(policy.name, policy.method, policy.preset, seed, str((folder / "adapter").resolve()), figures)
