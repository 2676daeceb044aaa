"""Training as a process of its own: started, watched, ended when it is no longer wanted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from grape_trainer.config import TrainConfig
from grape_trainer.errors import TrainerError, TrainingError
from grape_trainer.files import read_lines
from grape_trainer.result import Result, read_result

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
Told = Callable[[int, int, float, float], None]
"""(updates done, updates in all, loss, drift of the chosen side)"""


def in_process(config: TrainConfig, told: Told, cancelled: Callable[[], bool]) -> Result | None:
    """Train in this process, for tests and notebooks; None when it was cancelled."""
    from grape_trainer.train import train  # peft and transformers: seconds, and not for the loop's own process

    class Cancelled(Exception):
        pass

    def progress(done: int, total: int, metrics: dict) -> None:
        told(done, total, metrics["loss"], metrics["drift_chosen"])
        if cancelled():
            raise Cancelled

    try:
        return train(config, progress)
    except Cancelled:
        return None


def in_own_process(config: TrainConfig, told: Told, cancelled: Callable[[], bool], processes: int = 1) -> Result | None:
    """Run ``python -m grape_trainer.train``, in ``processes`` that share the work; None when it was cancelled.

    Raises TrainingError with the last line the process said."""
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    path = config.write(output / "config.json")
    log = output / "train.log"
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, config.threads))}
    # threads that spin while they wait make two of them many times slower than one on a busy machine
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = [sys.executable, "-m", "grape_trainer.train", str(path), "--with-parent"]
    command += ["--processes", str(processes)] if processes > 1 else []
    with open(log, "ab") as stream:
        # a session of its own: a Ctrl-C is for the loop, which ends the process itself
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        while process.poll() is None:
            if cancelled():
                return None
            _tell(output / "metrics.jsonl", told)
            time.sleep(POLL_SECONDS)
    finally:
        _end(process)
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        raise TrainingError(f"training ended with status {process.returncode}: {said} (see {log})")
    return read_result(output)


def _tell(path: Path, told: Told) -> None:
    try:
        lines = [line for line in read_lines(path) if "loss" in line]
    except TrainerError:
        return
    if lines:
        told(len(lines), int(lines[-1]["updates"]), float(lines[-1]["loss"]), float(lines[-1]["drift_chosen"]))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
