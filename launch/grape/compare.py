"""The comparison of training methods: the same rollouts and updates for each, then fresh trials on the same states."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grape import evaluation
from grape.compare_plan import FIRST_ROLLOUT_STATE, CompareError, Plan, Policy
from grape.compare_table import SFT, TrainedPolicy, table
from grape_policy.adapters import read_manifest
from grape_reward.spec import DEFAULT_OBJECTIVE
from grape_trainer.config import TrainConfig
from grape_trainer.files import read_json, read_lines, write_json
from grape_trainer.iteration import IterationFiles
from grape_trainer.pairs import Excluded, build, write_pairs
from grape_trainer.ranking import Candidate
from grape_trainer.result import RESULT, Result, read_result
from grape_trainer.rig import Rig, Rollout, rollout_jobs

PLAN, SECONDS, COMPARISON = "plan.json", "seconds.json", "comparison.json"

Tell = Callable[[str, int, int, str], None]
"""(phase, done, total, message)"""
Train = Callable[[TrainConfig, Callable[[int, int, float, float], None], Callable[[], bool]], Result | None]
"""``run_training.in_process`` or ``in_own_process``."""


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
            # a folder of before there was a choice
            held = {"temperature": 1.0, "variant": "clean", **read_json(out / PLAN)}
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
        jobs = rollout_jobs(
            plan.tasks,
            plan.rollout_states,
            plan.rollouts,
            FIRST_ROLLOUT_STATE,
            0,
            # empty where it is the usual one: the name is part of the rollouts' seeds
            "" if plan.variant == "clean" else plan.variant,
            temperature=plan.temperature,
        )
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
        """The pairs file of each policy, by its name: the same rollouts, each ranked as the settings say."""
        paths = {}
        for policy in self.plan.policies:
            entries = self._entries(policy.objective)
            paths[policy.name] = path = self.plan.out / policy.pairs_file
            if not path.exists():
                told = self.plan.told(policy, 0)
                write_pairs(path, build(entries, told.ranking, **told.pair_rules))
        return paths

    def _entries(self, objective: str) -> list[Candidate | Excluded]:
        """The rollouts as scored towards ``objective``."""
        files = IterationFiles(self.plan.out, 1, "" if objective == DEFAULT_OBJECTIVE else objective)
        return files.score("", objective, lambda done, total: self._tell(f"score {objective}", done, total, ""))

    def _train_all(self, pairs: Mapping[str, Path]) -> list[TrainedPolicy]:
        wanted = [(policy, seed) for seed in range(self.plan.seeds) for policy in self.plan.policies]
        lock, stop = threading.Lock(), threading.Event()
        finished = 0

        def one(policy: Policy, seed: int) -> TrainedPolicy:
            nonlocal finished
            if stop.is_set():
                raise CompareError(f"training of {policy.name} was ended")
            folder = self.plan.out / "train" / f"{policy.slug}-{seed}"
            config = self._config(policy, seed, pairs[policy.name], folder)

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
            side: evaluation.grid(self.plan.tasks, self.plan.trial_states, [adapter], self.plan.variant, 0, 0.0)
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
        entries = self._entries(plan.policies[0].objective)
        candidates = [entry for entry in entries if isinstance(entry, Candidate)]
        chosen = {policy.name: plan.told(policy, 0).to_dict() for policy in plan.policies}
        return {
            "model": plan.model.name,
            **plan.fixed,
            "rollouts_in_all": len(entries),
            "rollouts_left_out": len(entries) - len(candidates),
            "rollouts_successful": sum(entry.success == 1 for entry in candidates),
            "seeds": plan.seeds,
            "states": plan.states,
            "first_state": plan.first_state,
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
