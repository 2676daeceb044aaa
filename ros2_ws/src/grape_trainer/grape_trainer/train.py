"""``python -m grape_trainer.train CONFIG.json``: episodes in, a PEFT adapter with its manifest out.

The output folder gets ``adapter/`` (PEFT folder and manifest.json; of method ``sft`` ``model/``, a checkpoint, as well
or instead), ``snapshots/`` where the settings ask for them, ``metrics.jsonl``, ``left_out.json``, ``result.json`` and,
while it runs, ``checkpoints/``: started again after any end, the same command goes on where it was. ``--processes N``,
``accelerate launch`` and torchrun share the work among processes, with the same result."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grape_policy.adapters import AdapterError, adapter_hash, read_adapter
from grape_policy.checkpoint import CheckpointError, Vla, load_checkpoint
from grape_trainer import data, recorded
from grape_trainer.config import TrainConfig, read_config
from grape_trainer.errors import SettingsError, TrainerError, TrainingError
from grape_trainer.files import read_json, write_json
from grape_trainer.learner import Learner
from grape_trainer.log_probs import Adapters, LogProbs
from grape_trainer.output import write_adapter, write_model
from grape_trainer.processes import GoneError, Team, join_team, members
from grape_trainer.result import LEFT_OUT, RESULT, RUNNING, SNAPSHOTS, Result, read_result
from grape_trainer.settings import Settings
from grape_trainer.training import Training
from grape_trainer.trajectories import ByteCache

Progress = Callable[[int, int, dict[str, Any]], None]
"""(updates done, updates, metrics of the last one)"""


def train(
    config: TrainConfig,
    progress: Progress = lambda done, total, metrics: None,
    checking: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Run or go on with a training run; a finished one returns its result at once. ``progress`` hears of updates,
    ``checking`` before that of episodes whose log-probs have been checked (done, total).

    Raises TrainerError, naming the file, setting or pair."""
    if config.threads:
        torch.set_num_threads(config.threads)
    chosen = config.resolved()
    output = Path(config.output)
    team, device = join_team(config.device)
    try:
        vla = load_checkpoint(Path(config.model), device, getattr(torch, config.dtype))
        parent = Path(config.adapter) if config.adapter else None
        parent_id = adapter_hash(parent) if parent else ""
        if parent:
            read_adapter(parent, vla.base_hash)
    except (CheckpointError, AdapterError) as error:
        raise TrainingError(str(error)) from None
    found = data.source(config, chosen, vla, parent_id)
    mark = data.fingerprint(config, chosen, found, vla.base_hash, parent_id)
    if (output / RESULT).exists():
        return _finished(output, mark)
    if not team.first:
        return _train(config, chosen, found, vla, parent_id, mark, progress, checking, team)
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        return _train(config, chosen, found, vla, parent_id, mark, progress, checking, team)


def _train(
    config: TrainConfig,
    chosen: Settings,
    found: data.Source,
    vla: Vla,
    parent_id: str,
    mark: str,
    progress: Progress,
    checking: Callable[[int, int], None],
    team: Team,
) -> Result:
    team.barrier()  # the first process holds the folder
    output = Path(config.output)
    parent = Path(config.adapter) if config.adapter else None
    registry = Path(config.registry) if config.registry else None
    adapters = Adapters(vla.base_hash, registry, {parent_id: parent} if parent else None)
    reference = parent_id if chosen.reference == "previous" else ""
    cache = ByteCache(chosen.cache_mb * 2**20)
    learner = Learner(vla, chosen, cache, parent, adapters.get(reference))
    cached = Path(config.cache) if config.cache else output / "log_probs"
    log_probs = LogProbs(learner, adapters, cached)
    ready, found = data.checked(found, log_probs, chosen, reference, team, checking)
    if chosen.action_blur:
        ready = dataclasses.replace(ready, log_probs=LogProbs(learner, adapters, cached, chosen.action_blur))
    left_out = recorded.reasons(found.left_out)
    if team.first:
        write_json(output / LEFT_OUT, {"left_out": left_out, "recorded_difference": ready.worst})
        for one in left_out:
            print(f"left out: {one['episode_id']}: {one['reason']}", file=sys.stderr, flush=True)

    def keep(update: int, figures: dict[str, Any]) -> None:
        so_far = Result(
            RUNNING, f"a snapshot after update {update}", update, update, True, 0, 0, {"check": figures}, 0.0
        )
        write_adapter(output / SNAPSHOTS / f"{update:05d}", learner, chosen, so_far, found.pedigree)

    result = Training(learner, ready, chosen, output, data.narrowed(mark, found), progress, team, keep).run()
    result = dataclasses.replace(result, left_out=left_out)
    if team.first:
        if found.statistics is None:
            # an adapter on other statistics would be served with the base's and act wrongly
            write_adapter(output / "adapter", learner, chosen, result, found.pedigree)
        if chosen.method == "sft":
            write_model(output / "model", learner, found.statistics)
        write_json(output / RESULT, {**dataclasses.asdict(result), "fingerprint": mark})
    team.barrier()
    return result


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


def _finished(output: Path, mark: str) -> Result:
    if read_json(output / RESULT, TrainingError).get("fingerprint") != mark:
        raise TrainingError(
            f"{output / RESULT}: of a run with other settings, pairs or model; give another output folder"
        )
    return read_result(output)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 1 where training failed, 2 for wrong use; one line on stderr."""
    parser = argparse.ArgumentParser(prog="grape_trainer.train", description="Preference optimisation and cloning.")
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    parser.add_argument("--processes", type=int, default=1, help="processes of this machine that share the work")
    options = parser.parse_args(arguments)
    parent = os.getppid() if options.with_parent else 0
    try:
        config = read_config(options.config)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with members(options.processes, options.config), _bar() as shown:

            def tell(words: str, done: int, total: int) -> None:
                if parent and os.getppid() != parent:
                    raise ParentGoneError("the process that started this one has ended; start again to go on")
                shown(words, done, total)

            result = train(config, lambda done, total, last: tell(_words(last), done, total), partial(tell, "check"))
    except (TrainerError, ParentGoneError, OSError) as error:
        # the others end because one did: its own words are the reason
        if not (isinstance(error, GoneError) and int(os.environ.get("RANK", "0"))):
            print(f"error: {error}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps({"status": result.status, "reason": result.reason, "changed": result.changed}))
    return 0


class ParentGoneError(Exception):
    """Whoever started this process has ended. Not a fault of an episode: the check of the episodes lets it pass."""


def _words(metrics: dict[str, Any]) -> str:
    return f"train  loss {metrics['loss']:.3f}  drift {metrics['drift_chosen']:+.3f}"


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr with an estimate of the time left; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("train", total=None)
        yield lambda words, done, total: shown.update(task, completed=done, total=total, description=words)


if __name__ == "__main__":
    sys.exit(main())
