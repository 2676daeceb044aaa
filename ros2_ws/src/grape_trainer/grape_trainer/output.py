"""What a training run leaves: an adapter with its manifest, or a whole checkpoint with the adapter merged in."""

from __future__ import annotations

import datetime
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_policy.adapters import AdapterError, AdapterManifest, adapter_hash, read_adapter
from grape_policy.checkpoint import CONFIG, PREPROCESSOR, TOKENIZER_FILES, base_hash, save_checkpoint
from grape_policy.config import read_json
from grape_trainer import peft_folder
from grape_trainer.errors import TrainingError
from grape_trainer.files import publish_folder
from grape_trainer.learner import Learner
from grape_trainer.objectives import Item, is_pair
from grape_trainer.result import Result
from grape_trainer.settings import Settings


@dataclass(frozen=True)
class Pedigree:
    """Where an adapter comes from. ``parent``: id of the adapter that training went on from, empty for none."""

    items: Sequence[Item]
    parent: str = ""
    cost_programs: Sequence[str] = ()
    objective: str = ""


def write_adapter(folder: Path, learner: Learner, chosen: Settings, result: Result, pedigree: Pedigree) -> None:
    """Write the PEFT folder and its manifest. Raises TrainingError naming the file that came out wrong."""
    peft_folder.write_adapter(folder, learner.state(), learner.config)
    try:
        manifest = AdapterManifest(
            adapter_id=adapter_hash(folder),
            base_hash=learner.base_hash,
            parent=pedigree.parent,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            episodes=tuple(sorted({name for item in pedigree.items for name in item.episodes})),
            pairs=sum(map(is_pair, pedigree.items)),
            cost_program_hash=",".join(sorted(set(pedigree.cost_programs))),
            objective=pedigree.objective,
            settings=chosen.to_dict(),
            metrics={"status": result.status, "reason": result.reason, "updates": result.updates, **result.figures},
            verdict={},
        )
        peft_folder.write_manifest(folder, manifest)
        read_adapter(folder, learner.base_hash)
    except AdapterError as error:
        raise TrainingError(str(error)) from None


def write_model(folder: Path, learner: Learner, statistics: dict[str, Any] | None) -> str:
    """Merge the adapter into the weights and write them as a checkpoint; returns its base hash.

    ``statistics``: of the actions, by dataset key; None: the base model's. The learner is spent afterwards: its
    weights are the merged ones. Numbers are of the type that was trained with."""
    vla = learner.vla
    config, preprocessor = read_json(vla.folder / CONFIG), read_json(vla.folder / PREPROCESSOR)
    kept = vla.folder / "dataset_statistics.json"
    entries = statistics or (read_json(kept) if kept.exists() else config.get("norm_stats", {}))
    config["norm_stats"] = entries
    dtype = learner.dtype
    model = learner.peft.merge_and_unload()
    beside = folder.parent / f".new-{uuid.uuid4().hex}"
    save_checkpoint(beside, model, config, preprocessor, entries, vla.processor.tokenizer, dtype)
    for name in TOKENIZER_FILES:
        if (vla.folder / name).exists():
            shutil.copyfile(vla.folder / name, beside / name)
    found = base_hash(beside)
    if folder.exists():
        shutil.rmtree(folder)
    publish_folder(beside, folder)
    return found
