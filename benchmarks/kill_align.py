"""The trainer killed at random moments of an alignment, and started again: the same adapters, a whole registry.

    python benchmarks/kill_align.py --kills 20

Two iterations of collect (lock-step rollouts of grape-mini in the simulated tabletop), score, pair, train (in its own
process), swap. Run once undisturbed; then, for every kill, once more from nothing: after a random time kill -9 hits the
process of the loop or that of the training, and the same command is given again. Each must end with the adapters of
the undisturbed run, both of them, by their hashes, and the registry must verify right after the kill and at the end.

Prints one JSON object; exits 1 where an adapter differs or a registry is damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _paths
from rich.console import Console
from rich.progress import track

ITERATIONS = 2
TRAINING = {"learning_rate": 1e-3, "max_updates": 3, "checkpoint_every": 1, "check_every": 2, "lora_rank": 8}
TRAINING |= {"warmup": 0, "batch_pairs": 2, "epochs": 4, "drift_bound": 0.0, "kl_bound": 0.0}


class LoopRig:
    """A Rig of one world and one policy in this process, in lock-step; rollouts of at most ``step_limit`` steps."""

    def __init__(self, model: Path, bags: Path, step_limit: int) -> None:
        from grape.closed_loop import ClosedLoop

        self._loop, self._bags, self._step_limit = ClosedLoop(model), bags, step_limit
        self._adapter = ""

    def collect(self, jobs: Sequence[Any], done: Callable[[Any], None]) -> None:
        from grape import evaluation
        from grape_episode.synthetic import write_episode
        from grape_trainer.rig import Rollout

        for job in jobs:
            wanted = evaluation.Job(job.task, "clean", job.initial_state, job.seed, job.temperature, self._adapter)
            made = self._loop.run(wanted, job.objective, self._step_limit)
            name = made.episode.identity.episode_id
            bag = write_episode(made.episode, self._bags / name)
            done(Rollout(job.key, str(bag), name, made.result.end_reason, "", made.result.adapter_id))

    def load_adapter(self, path: Path | None) -> Any:
        from grape_policy.adapters import read_adapter
        from grape_trainer.rig import Ack

        self._adapter = str(path) if path else ""
        self._loop.serve(self._adapter)
        return Ack(True, "", read_adapter(path, self._loop.base_hash).manifest.adapter_id if path else "")

    def cancelled(self) -> bool:
        return False


def work(folder: Path, model: Path, rig: str) -> None:
    """One alignment in ``folder``, gone on with where there is one."""
    from grape_trainer.gate import Bounds
    from grape_trainer.loop import AlignConfig, align
    from grape_trainer.settings import settings

    synthetic = rig == "synthetic"
    config = AlignConfig(
        model=model,
        registry=folder / "registry",
        folder=folder / "run",
        tasks=("carrot_on_plate",),
        iterations=ITERATIONS,
        states=2,
        rollouts=3,
        variant="" if synthetic else "clean",
        settings=settings(**TRAINING),
        in_process=synthetic,
        gate=Bounds(0.0, 0.0),  # what is learnt here is of no use
    )
    held: Any
    if synthetic:
        from grape_policy.checkpoint import load_checkpoint
        from grape_trainer.testing import SyntheticRig

        held = SyntheticRig(load_checkpoint(model), folder / "bags")
    else:
        held = LoopRig(model, folder / "bags", step_limit=12)
    result = align(config, held)
    if len(result.iterations) != ITERATIONS:
        raise SystemExit(f"{folder}: {result.reason}")


def children(pid: int) -> dict[int, str]:
    """Process ids and command lines of a process's children, at this moment."""
    found = {}
    try:
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found[int(word)] = Path(f"/proc/{word}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        pass  # it has just ended
    return found


class Trial:
    """Alignments of one folder, each in a process of its own."""

    def __init__(self, folder: Path, model: Path, rig: str) -> None:
        self.folder = folder
        self.lasted = 0.0
        folder.mkdir()
        self.command = [sys.executable, __file__, "--work", str(folder), "--model", str(model), "--rig", rig]

    def start(self) -> subprocess.Popen[bytes]:
        log = open(self.folder / "log", "ab")  # noqa: SIM115  (the process writes into it)
        return subprocess.Popen(self.command, stdout=log, stderr=log)

    def begun(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until the imports are over and the alignment is under way; that moment."""
        while not (self.folder / "run/align.json").exists() and process.poll() is None:
            time.sleep(0.02)
        return time.monotonic()

    def finish(self) -> tuple[list[str], float]:
        """Run to the end; the ids of the adapters of both iterations, and the seconds it took. Raises RuntimeError with
        the last line said."""
        process = self.start()
        begun = self.begun(process)
        if process.wait() != 0:
            raise RuntimeError((self.folder / "log").read_text(errors="replace").strip().splitlines()[-1])
        told = json.loads((self.folder / "run/summary.json").read_text())
        return [str(iteration["adapter_after"]) for iteration in told["iterations"]], time.monotonic() - begun

    def phase(self) -> str:
        """Where the alignment is."""
        try:
            told = json.loads((self.folder / "run/align.json").read_text())
            return f"{told['iteration']} {told['phase']}"
        except (OSError, ValueError):
            return "start"

    def damaged(self) -> int:
        """Adapters of the registry that do not verify."""
        from grape_trainer.registry import Registry

        return len(Registry(self.folder / "registry").verify())

    def kill(self, after: float, training: bool) -> str:
        """Start; kill -9 so many seconds after it is under way. Which process was hit, empty where it was over."""
        process = self.start()
        begun = self.begun(process)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            pass
        else:
            self.lasted = time.monotonic() - begun
            return ""
        own = [pid for pid, command in children(process.pid).items() if "grape_trainer.train" in command]
        os.kill(own[0] if training and own else process.pid, signal.SIGKILL)
        process.wait()
        return "training" if training and own else "loop"


def measure(kills: int, model: Path, rig: str, seed: int, root: Path) -> dict[str, Any]:
    """The undisturbed run, then one trial a kill."""
    draw = random.Random(seed)
    whole = Trial(root / "whole", model, rig)
    wanted, undisturbed = whole.finish()
    duration = undisturbed
    hit: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    different = damaged = 0
    for number in track(range(kills), "killing", console=Console(stderr=True)):
        trial = Trial(root / f"kill_{number}", model, rig)
        victim = ""
        while not victim:
            victim = trial.kill(draw.uniform(0.0, 0.98) * duration, draw.random() < 0.5)
            if not victim:  # over before: the machine has become faster
                duration = min(duration, trial.lasted)
                trial = Trial(root / f"kill_{number}_{draw.random()}", model, rig)
        hit[victim] += 1
        phases[trial.phase()] += 1
        damaged += trial.damaged()
        different += trial.finish()[0] != wanted
        damaged += trial.damaged()
    return {
        "kills": sum(hit.values()),
        "hit": dict(hit),
        "phases": dict(sorted(phases.items())),
        "different": different,
        "damaged": damaged,
        "adapters": [name[:12] for name in wanted],
        "undisturbed_s": undisturbed,
        "rig": rig,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--rig", choices=("world", "synthetic"), default="world", help="synthetic: made-up rollouts")
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.model, options.rig)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if options.rig == "synthetic":
            from grape_policy.testing import write_random_checkpoint

            model = write_random_checkpoint(Path(folder) / "model")
        found = measure(options.kills, model, options.rig, options.seed, Path(folder))
    good = found["kills"] == options.kills and found["different"] == found["damaged"] == 0
    print(json.dumps({**found, "ok": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
