"""`python -m grape_policy.train_mini --demos DIR --out models/grape-mini`: behaviour cloning of the small VLA.

Data parallel over single-threaded processes that average their gradients: two threads in one process wait for each
other in every one of some thousand small operations a step. Stops at any time (SIGINT, SIGTERM) with a checkpoint
written; run again with the same `--run` folder it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console

from grape_policy.mini import MiniSize
from grape_policy.mini_demos import DemosError, load_demos
from grape_policy.mini_run import Trainer


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run.

    steps: length of the schedule; stop: step at which to end before that (0: do not), for a model that leaves
    something to gain; batch: frames a step over all processes; decay: last share of the steps in which the learning
    rate falls linearly to a fiftieth; blur: standard deviation in bins of the targets at the start, falling linearly
    to 0 at the beginning of the decay; auxiliary: weight of the auxiliary losses; precision: of the products, bf16 or
    fp32.
    """

    demos: Path
    out: Path
    run: Path
    steps: int = 12000
    stop: int = 0
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    blur: float = 6.0
    auxiliary: float = 1.0
    brightness: float = 0.1
    seed: int = 0
    processes: int = 2
    validate_every: int = 250
    save_every: int = 250
    snapshot_every: int = 1000
    precision: str = "bf16"
    name: str = "grape-mini"
    size: MiniSize = MiniSize()  # noqa: RUF009  (frozen)


def _worker(rank: int, settings: TrainSettings, meeting: str) -> None:
    """One of the processes; rank 0 reports and writes."""
    torch.set_num_threads(1)
    stop = _StopFlag(ignore=rank > 0)
    if settings.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.processes)
    try:
        demos = load_demos(settings.demos)
        trainer = Trainer(settings, demos, rank, settings.processes)
        _loop(trainer, settings, stop, Console(stderr=True, highlight=False) if rank == 0 else None)
    finally:
        if settings.processes > 1:
            dist.destroy_process_group()


class _StopFlag:
    """Set by SIGINT or SIGTERM; the processes behind the first one hear of it through the gradients."""

    def __init__(self, ignore: bool) -> None:
        self.set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if ignore else self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.set = True


def _loop(trainer: Trainer, settings: TrainSettings, stop: _StopFlag, console: Console | None) -> None:
    end = min(settings.stop or settings.steps, settings.steps)
    first = trainer.resume()
    started, last = time.monotonic(), first
    if console is not None:
        what = f"{trainer.frames} frames, {trainer.parameters / 1e6:.2f} M parameters"
        console.print(f"{settings.name}: steps {first} to {end}, {what}")
    while trainer.step < end:
        stopped = trainer.train_step(stop.set)
        done = trainer.step == end or stopped
        if console is not None and (trainer.step % 50 == 0 or done):
            rate = (trainer.step - last) / max(time.monotonic() - started, 1e-9)
            left = (end - trainer.step) / max(rate, 1e-9) / 60.0
            trainer.log("train", {**trainer.averages(), "lr": trainer.learning_rate(), "steps_per_second": rate})
            console.print(f"step {trainer.step}: {trainer.last_line} {rate:.2f} steps/s, {left:.1f} min left")
            started, last = time.monotonic(), trainer.step
        if console is not None and (trainer.step % settings.validate_every == 0 or done):
            measured = trainer.validate()
            trainer.log("validate", measured)
            accuracy = " ".join(f"{value:.2f}" for value in measured["accuracy"])
            console.print(f"step {trainer.step}: validation loss {measured['loss']:.3f}, accuracy {accuracy}")
        if console is not None and (trainer.step % settings.save_every == 0 or done):
            trainer.save_state()
        if console is not None and settings.snapshot_every and trainer.step % settings.snapshot_every == 0:
            trainer.export(settings.run / f"step_{trainer.step}")
        if stopped:
            break
    if console is not None:
        trainer.export(settings.out)
        console.print(f"{settings.out}: written after {trainer.step} of {end} steps")


def train(settings: TrainSettings) -> None:
    """Train, and write the checkpoint to `settings.out`. Raises DemosError for demonstrations that cannot be read."""
    load_demos(settings.demos)  # makes the memory map once, and fails before anything is started
    settings.run.mkdir(parents=True, exist_ok=True)
    text = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    (settings.run / "settings.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        meeting = os.path.join(folder, "meeting")
        context = mp.get_context("spawn")
        others = [context.Process(target=_worker, args=(r, settings, meeting)) for r in range(1, settings.processes)]
        for process in others:
            process.start()
        try:
            _worker(0, settings, meeting)
            for process in others:
                process.join(30.0)
        finally:
            for process in others:
                process.kill()


def main(argv: list[str] | None = None) -> int:
    default = TrainSettings(Path(), Path(), Path())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--demos", type=Path, required=True, help="folder with shards of demonstrations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint to write")
    parser.add_argument("--run", type=Path, help="folder for state, metrics and snapshots; default: OUT-run")
    for name, text in (
        ("steps", "optimiser steps of the schedule"),
        ("stop", "step at which to end before that; 0: do not"),
        ("batch", "frames a step, over all processes"),
        ("lr", "learning rate before the decay"),
        ("decay", "share of the steps in which the learning rate falls"),
        ("blur", "deviation in bins of the targets at the start"),
        ("auxiliary", "weight of the auxiliary losses"),
        ("brightness", "deviation of the random brightness and contrast"),
        ("seed", "of weights, order and augmentation"),
        ("processes", "single-threaded processes"),
        ("snapshot_every", "steps between loadable checkpoints in RUN; 0: none"),
        ("validate_every", "steps between validations"),
        ("precision", "of the products: bf16 or fp32"),
        ("name", "name of the model and key of its statistics"),
    ):
        value = getattr(default, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=text)
    arguments = vars(parser.parse_args(argv))
    arguments["run"] = arguments["run"] or arguments["out"].with_name(arguments["out"].name + "-run")
    try:
        train(TrainSettings(**arguments))
    except DemosError as error:
        print(f"train_mini: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
