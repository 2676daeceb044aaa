"""The K-iteration align loop (Algorithm 1): collect, score, pair, train, gate, swap; any end can be gone on from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from grape_policy.adapters import AdapterError, read_manifest
from grape_trainer import deploy, run_training
from grape_trainer.config import TrainConfig
from grape_trainer.errors import LoopError, PolicyRefusedError
from grape_trainer.files import read_json, write_json
from grape_trainer.gate import Verdict, judge
from grape_trainer.iteration import IterationFiles
from grape_trainer.pairs import Excluded, PairSet
from grape_trainer.plan import AlignConfig, AlignResult, Canary, Progress
from grape_trainer.ranking import Candidate
from grape_trainer.registry import Registry
from grape_trainer.result import Result
from grape_trainer.rig import Rig, Rollout, rollout_jobs

STATE, SUMMARY = "align.json", "summary.json"
__all__ = ["PHASES", "Align", "AlignConfig", "AlignResult", "Canary", "Progress", "Verdict", "align"]
PHASES = ("collect", "score", "pair", "train", "gate", "swap")
POLL_SECONDS = 0.2


class Cancelled(Exception):
    """The rig was told to stop."""


class Stop(Exception):
    """The loop ends early and keeps the adapter that serves."""


class Align:
    """One run. ``report`` hears of progress; ``canary`` may refuse an adapter; ``hold`` says why training must wait,
    empty when it need not."""

    def __init__(
        self,
        config: AlignConfig,
        rig: Rig,
        report: Callable[[Progress], None] = lambda progress: None,
        canary: Canary | None = None,
        hold: Callable[[], str] = str,
    ) -> None:
        self.config, self.rig, self.report, self.canary, self.hold = config, rig, report, canary, hold
        self.registry = Registry(config.registry)
        self.path = config.folder / STATE
        self.state = self._state()

    def run(self) -> AlignResult:
        """All iterations that are left.

        Raises TrainerError of the phase that failed; the adapter that served goes on serving, and the next run
        of the same configuration goes on at that phase."""
        config, state = self.config, self.state
        if state["ended"]:
            return self._result(state["reason"])
        try:
            self._serve_current()
            while len(state["iterations"]) < config.iterations:
                self._iterate(len(state["iterations"]) + 1)
            reason = f"all {config.iterations} iterations done"
            state["ended"] = True
        except Stop as stop:
            reason = str(stop)
            state["ended"] = True
        except Cancelled:
            where = f"in phase {state['phase']} of" if state["phase"] else "before"
            reason = f"cancelled {where} iteration {len(state['iterations']) + 1}"
        kept = self.registry.current
        if not state["ended"] or reason.startswith("stopped"):
            reason += f"; {kept[:12] or 'the base model'} goes on serving"
        state["reason"] = reason
        self._save()
        return self._result(reason)

    def _iterate(self, number: int) -> None:
        files = IterationFiles(self.config.folder, number)
        if self.state["iteration"] != number:
            # kept: after a crash just behind the swap the registry names the new one
            self.state |= {"iteration": number, "sampled_with": self.registry.current}
        before = self.state["sampled_with"]
        summary: dict[str, Any] = {"iteration": number, "adapter_before": before, "adapter_after": before}
        try:
            self._phase(number, "collect", lambda: self._collect(files))
            entries = self._phase(number, "score", lambda: self._score(files, before))
            pairs = self._phase(number, "pair", lambda: files.pair(entries, self.config.settings))
            summary |= _pair_summary(pairs)
            successes = any(c.success == 1 for c in pairs.candidates)
            if not (successes if self.config.settings.clones else pairs.pairs):
                raise Stop(_no_pairs(pairs, number))
            result = self._phase(number, "train", lambda: self._train(files, before))
            summary["training"] = dataclasses.asdict(result)
            if not result.changed:
                raise Stop(f"stopped in iteration {number}: training kept the old weights: {result.reason}")
            adapter_id = self._phase(number, "gate", lambda: self._gate(files, number, result, summary))
            self._phase(number, "swap", lambda: self._swap(adapter_id, number))
        except Stop as stop:
            summary["reason"] = str(stop)
            self._finish(files, summary)
            raise
        self._finish(files, summary)

    def _finish(self, files: IterationFiles, summary: dict[str, Any]) -> None:
        summary["adapter_after"] = self.registry.current
        summary["seconds"] = self.state["seconds"]
        write_json(files.summary_path, summary)
        self.state["iterations"].append(summary)
        self.state["seconds"] = {}
        self._save()

    def _phase(self, number: int, phase: str, work: Callable[[], Any]) -> Any:
        self._check()
        self.state["phase"] = phase
        self._save()
        self.report(Progress(number, phase, 0.0, ""))
        begun = time.monotonic()
        try:
            return work()
        finally:
            seconds = self.state["seconds"]
            seconds[phase] = round(seconds.get(phase, 0.0) + time.monotonic() - begun, 3)

    def _collect(self, files: IterationFiles) -> None:
        config, number = self.config, files.number
        if config.bags:
            known = files.rollouts()
            for bag in config.bags:
                if bag not in known:
                    files.add(Rollout(bag, bag))
            return
        jobs = rollout_jobs(
            config.tasks,
            config.states,
            config.rollouts,
            config.first_state + (number - 1) * config.states,
            config.seed,
            config.variant,
            config.objective,
            config.temperature,
            config.step_limit,
        )
        missing = files.missing(jobs)
        done = len(jobs) - len(missing)

        def told(rollout: Rollout) -> None:
            nonlocal done
            if rollout.bag:
                files.add(rollout)
            done += 1
            said = f"{rollout.episode_id or rollout.key}: {rollout.end_reason} {rollout.detail}".strip()
            self.report(Progress(number, "collect", done / len(jobs), said))

        if missing and not files.scores_path.exists():
            self.rig.collect(missing, told)
            self._check()

    def _score(self, files: IterationFiles, sampled_with: str) -> list[Candidate | Excluded]:
        def told(done: int, total: int) -> None:
            self._check()
            self.report(Progress(files.number, "score", done / total, f"{done} of {total} episodes"))

        return files.score(sampled_with, self.config.objective, told)

    def _train(self, files: IterationFiles, before: str) -> Result:
        config = self.config
        told = TrainConfig(
            model=str(config.model.resolve()),
            pairs=str(files.pairs_path.resolve()),
            output=str(files.train_folder.resolve()),
            adapter=str(self.registry.path(before)) if before else "",
            registry=str(config.registry.resolve()),
            cache=str((config.folder / "log_probs").resolve()),
            preset=config.settings.preset,
            settings=config.settings.to_dict(),
            threads=config.threads,
            device=config.device,
            dtype=config.dtype,
        )

        def progress(done: int, total: int, loss: float, drift: float) -> None:
            text = f"update {done} of {total}, loss {loss:.3f}, drift of the chosen side {drift:+.3f} nats a step"
            self.report(Progress(files.number, "train", done / max(1, total), text))

        while why := self.hold():
            self._check()
            self.report(Progress(files.number, "train", 0.0, f"waiting: {why}"))
            time.sleep(POLL_SECONDS)
        if config.in_process:
            result = run_training.in_process(told, progress, self.rig.cancelled)
        else:
            result = run_training.in_own_process(told, progress, self.rig.cancelled, config.processes)
        if result is None:
            raise Cancelled
        return result

    def _gate(self, files: IterationFiles, number: int, result: Result, summary: dict[str, Any]) -> str:
        """The id of the new adapter, in the registry with its verdict. Raises Stop where that refuses it."""
        folder = files.train_folder / "adapter"
        canary: Verdict | None = None
        if self.canary is not None:
            self.report(Progress(number, "gate", 0.1, "canary"))
            try:
                canary = self.canary(folder)
                self._check()
            except BaseException:
                self._serve_current()
                raise
        try:
            metrics = read_manifest(folder).metrics
        except AdapterError as error:
            raise LoopError(str(error)) from None
        settings = self.config.settings
        verdict = judge(metrics, result.held_pairs, settings.holdout_pairs, self.config.gate, canary)
        adapter_id = self.registry.add(folder)
        self.registry.judge(adapter_id, verdict.to_dict())
        summary["gate"] = verdict.to_dict()
        summary["adapter_trained"] = adapter_id
        self.report(Progress(number, "gate", 1.0, verdict.reason))
        if not verdict.accepted:
            self._serve_current()
            raise Stop(f"stopped in iteration {number}: the gate refused the new adapter: {verdict.reason}")
        return adapter_id

    def _swap(self, adapter_id: str, number: int) -> None:
        self.report(Progress(number, "swap", 0.5, f"loading {adapter_id[:12]}"))
        self._check()
        try:
            deploy.promote(self.registry, adapter_id, self.rig.load_adapter)
        except PolicyRefusedError as refusal:
            self._serve_current()
            raise Stop(f"stopped in iteration {number}: {refusal}") from None
        self.report(Progress(number, "swap", 1.0, f"{adapter_id[:12]} serves"))

    def _serve_current(self) -> None:
        """What the registry says is what serves: after a crash between the two, or a canary's trial."""
        try:
            deploy.restore(self.registry, self.rig.load_adapter)
        except PolicyRefusedError as refusal:
            raise LoopError(f"{self.registry.root}: what should be serving does not: {refusal}") from None

    def _check(self) -> None:
        if self.rig.cancelled():
            raise Cancelled

    def _state(self) -> dict[str, Any]:
        mark = self.config.fingerprint
        if not self.path.exists():
            return {
                "fingerprint": mark,
                "adapter_before": self.registry.current,
                "iteration": 0,
                "sampled_with": "",
                "phase": "",
                "iterations": [],
                "seconds": {},
                "ended": False,
                "reason": "",
            }
        state = read_json(self.path, LoopError)
        if state.get("fingerprint") != mark:
            raise LoopError(f"{self.path}: of a run with another configuration; give another folder")
        return state

    def _save(self) -> None:
        write_json(self.path, self.state)

    def _result(self, reason: str) -> AlignResult:
        serving = self.registry.current
        changed = serving != self.state["adapter_before"]
        result = AlignResult(changed, serving, reason, self.config.folder, tuple(self.state["iterations"]))
        told = {**dataclasses.asdict(result), "folder": str(result.folder), "iterations": list(result.iterations)}
        write_json(self.config.folder / SUMMARY, told)
        return result


def align(
    config: AlignConfig,
    rig: Rig,
    report: Callable[[Progress], None] = lambda progress: None,
    canary: Canary | None = None,
    hold: Callable[[], str] = str,
) -> AlignResult:
    """Run or go on with the loop; see :class:`Align`."""
    return Align(config, rig, report, canary, hold).run()


def _pair_summary(pairs: PairSet) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for entry in pairs.excluded:
        reasons[entry.reason] = reasons.get(entry.reason, 0) + 1
    return {
        "episodes": len(pairs.candidates),
        "successes": sum(c.success for c in pairs.candidates),
        "pairs": len(pairs.pairs),
        "tasks": pairs.tasks(),
        "excluded": reasons,
        "shares": pairs.shares,
        "warnings": list(pairs.warnings),
    }


def _no_pairs(pairs: PairSet, number: int) -> str:
    successes = sum(c.success for c in pairs.candidates)
    text = (
        f"stopped in iteration {number}: no strict preferences among {len(pairs.candidates)} episodes "
        f"({successes} successes)"
    )
    if pairs.excluded:
        text += f", {len(pairs.excluded)} left out, e.g. {pairs.excluded[0].episode_id}: {pairs.excluded[0].reason}"
    return text
