"""``python -m grape_trainer.train CONFIG.json``: pairs and bags in, a PEFT adapter with its manifest out.

The output folder gets ``adapter/`` (PEFT folder and manifest.json), ``metrics.jsonl``, ``result.json`` and, while
it runs, ``checkpoints/``: started again after any end, the same command goes on where it was."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from grape_policy.adapters import AdapterError, AdapterManifest, adapter_hash, read_adapter
from grape_policy.checkpoint import CheckpointError, Vla, load_checkpoint
from grape_trainer import peft_folder
from grape_trainer.config import TrainConfig, read_config
from grape_trainer.errors import SettingsError, TrainerError, TrainingError
from grape_trainer.files import read_json, write_json
from grape_trainer.learner import Learner
from grape_trainer.pairs import PairSet, read_pairs
from grape_trainer.result import RESULT, Result, read_result
from grape_trainer.settings import Settings
from grape_trainer.training import Training
from grape_trainer.trajectories import ByteCache, Library

Progress = Callable[[int, int, dict[str, Any]], None]


def train(config: TrainConfig, progress: Progress = lambda done, total, metrics: None) -> Result:
    """Run or go on with a training run; a finished one returns its result at once.

    Raises TrainerError, naming the file, setting or pair."""
    if config.threads:
        torch.set_num_threads(config.threads)
    resolved = config.resolved()
    output = Path(config.output)
    pairs = read_pairs(Path(config.pairs))
    try:
        vla = load_checkpoint(Path(config.model), config.device, getattr(torch, config.dtype))
        parent = Path(config.adapter) if config.adapter else None
        parent_id = adapter_hash(parent) if parent else ""
        if parent:
            read_adapter(parent, vla.base_hash)
    except (CheckpointError, AdapterError) as error:
        raise TrainingError(str(error)) from None
    mark = _fingerprint(config, resolved, pairs, vla.base_hash, parent_id)
    if (output / RESULT).exists():
        return _finished(output, mark)
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        return _train(config, resolved, pairs, vla, parent, parent_id, mark, progress)


def _train(
    config: TrainConfig,
    resolved: Settings,
    pairs: PairSet,
    vla: Vla,
    parent: Path | None,
    parent_id: str,
    mark: str,
    progress: Progress,
) -> Result:
    output = Path(config.output)
    cache = ByteCache(resolved.cache_mb * 2**20)
    learner = Learner(vla, resolved, cache, parent)
    paths = {c.episode_id: c.path for c in pairs.candidates}
    library = Library(paths, vla.processor.prompt, vla.spec.image_size, vla.base_hash, cache)
    result = Training(learner, library, pairs, resolved, output, mark, progress).run()
    try:
        _write_adapter(output / "adapter", learner, pairs, resolved, result, vla, parent_id)
    except AdapterError as error:
        raise TrainingError(str(error)) from None
    write_json(output / RESULT, {**dataclasses.asdict(result), "fingerprint": mark})
    return result


def _write_adapter(
    folder: Path, learner: Learner, pairs: PairSet, resolved: Settings, result: Result, vla: Vla, parent: str
) -> None:
    peft_folder.write_adapter(folder, learner.state(), learner.config)
    programs = sorted({c.cost_program_hash for c in pairs.candidates})
    manifest = AdapterManifest(
        adapter_id=adapter_hash(folder),
        base_hash=vla.base_hash,
        parent=parent,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        episodes=tuple(sorted({side for p in pairs.pairs for side in (p.chosen, p.rejected)})),
        pairs=len(pairs.pairs),
        cost_program_hash=",".join(programs),
        objective=pairs.objective,
        settings=resolved.to_dict(),
        metrics={"status": result.status, "reason": result.reason, "updates": result.updates, **result.figures},
        verdict={},
    )
    peft_folder.write_manifest(folder, manifest)
    read_adapter(folder, vla.base_hash)


@contextlib.contextmanager
def _alone(output: Path, patience: float = 30.0) -> Iterator[None]:
    """Hold the output folder's lock: a run whose starter was killed may still be on its way out."""
    with open(output / ".lock", "w") as lock:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise TrainingError(f"{output}: another process trains into this folder") from None
                time.sleep(0.1)
        yield


def _fingerprint(config: TrainConfig, resolved: Settings, pairs: PairSet, base_hash: str, parent: str) -> str:
    """Everything that decides the result, save where the files lie."""
    told: Mapping[str, Any] = {
        "settings": resolved.to_dict(),
        "pairs": [dataclasses.asdict(p) for p in pairs.pairs],
        "episodes": sorted(c.episode_id for c in pairs.candidates),
        "base_hash": base_hash,
        "adapter": parent,
        "dtype": config.dtype,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _finished(output: Path, mark: str) -> Result:
    if read_json(output / RESULT, TrainingError).get("fingerprint") != mark:
        raise TrainingError(
            f"{output / RESULT}: of a run with other settings, pairs or model; give another output folder"
        )
    return read_result(output)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 1 where training failed, 2 for wrong use; one line on stderr."""
    parser = argparse.ArgumentParser(prog="grape_trainer.train", description="Trajectory-wise preference optimisation.")
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    options = parser.parse_args(arguments)
    parent = os.getppid() if options.with_parent else 0
    try:
        config = read_config(options.config)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with _bar() as shown:

            def progress(done: int, total: int, metrics: dict[str, Any]) -> None:
                if parent and os.getppid() != parent:
                    raise TrainingError("the process that started this one has ended; start again to go on")
                shown(done, total, metrics)

            result = train(config, progress)
    except (TrainerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"status": result.status, "reason": result.reason, "changed": result.changed}))
    return 0


class _bar:
    """A progress bar on stderr with an estimate of the time left; silent where stderr is no terminal."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.shown = Progress(*columns, console=console, disable=not console.is_terminal)
        self.shown.start()
        task = self.shown.add_task("train", total=None)

        def progress(done: int, total: int, metrics: dict[str, Any]) -> None:
            words = f"train  loss {metrics['loss']:.3f}  drift {metrics['drift_chosen']:+.3f}"
            self.shown.update(task, completed=done, total=total, description=words)

        return progress

    def __exit__(self, *_: object) -> None:
        self.shown.stop()


if __name__ == "__main__":
    sys.exit(main())
