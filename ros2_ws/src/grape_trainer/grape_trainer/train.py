"""``python -m grape_trainer.train CONFIG.json``: pairs and bags in, a PEFT adapter with its manifest out.

The output folder gets ``adapter/`` (PEFT folder and manifest.json), ``metrics.jsonl``, ``result.json`` and, while
it runs, ``checkpoints/``: started again after any end, the same command goes on where it was."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grape_policy.adapters import AdapterError, AdapterManifest, adapter_hash, read_adapter
from grape_policy.checkpoint import CheckpointError, Vla, load_checkpoint
from grape_trainer import peft_folder
from grape_trainer.errors import SettingsError, TrainerError, TrainingError
from grape_trainer.files import read_json, write_json
from grape_trainer.learner import Learner
from grape_trainer.pairs import PairSet, read_pairs
from grape_trainer.settings import Settings, settings
from grape_trainer.training import Result, Training
from grape_trainer.trajectories import ByteCache, Library

RESULT = "result.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
Progress = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class TrainConfig:
    """What the training process is told. ``model``: checkpoint folder; ``adapter``: PEFT folder to go on with,
    empty for a new one; ``threads``: of torch, 0 leaves them; ``settings``: overrides of ``preset``."""

    model: str
    pairs: str
    output: str
    adapter: str = ""
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    def resolved(self) -> Settings:
        """Raises SettingsError naming a preset or field."""
        return settings(self.preset, **{k: v for k, v in self.settings.items() if k != "preset"})

    def write(self, path: Path) -> Path:
        write_json(path, dataclasses.asdict(self))
        return path


def read_config(path: Path) -> TrainConfig:
    """Raises SettingsError naming the file and the field."""
    data = read_json(path, SettingsError)
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    for name, value in data.items():
        if name not in fields:
            raise SettingsError(f"{path}: unknown field {name!r}: one of {', '.join(fields)}")
        wanted = {"settings": dict, "threads": int}.get(name, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SettingsError(f"{path}: field {name}: expected {wanted.__name__}, not {value!r}")
    for name in ("model", "pairs", "output"):
        if not data.get(name):
            raise SettingsError(f"{path}: field {name} is missing")
    config = TrainConfig(**data)
    if config.dtype not in DTYPES:
        raise SettingsError(f"{path}: field dtype: one of {', '.join(DTYPES)}, not {config.dtype!r}")
    config.resolved()
    return config


def train(config: TrainConfig, progress: Progress = lambda done, total, metrics: None) -> Result:
    """Run or go on with a training run; a finished one returns its result at once.

    Raises TrainerError, naming the file, setting or pair."""
    if config.threads:
        torch.set_num_threads(config.threads)
    resolved = config.resolved()
    output = Path(config.output)
    pairs = read_pairs(Path(config.pairs))
    try:
        vla = load_checkpoint(Path(config.model), config.device, DTYPES[config.dtype])
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
    held = read_json(output / RESULT, TrainingError)
    if held.pop("fingerprint", None) != mark:
        raise TrainingError(
            f"{output / RESULT}: of a run with other settings, pairs or model; give another output folder"
        )
    try:
        return Result(**held)
    except TypeError as error:
        raise TrainingError(f"{output / RESULT}: {error}") from None


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 1 where training failed, 2 for wrong use; one line on stderr."""
    parser = argparse.ArgumentParser(prog="grape_trainer.train", description="Trajectory-wise preference optimisation.")
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with _bar() as progress:
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
