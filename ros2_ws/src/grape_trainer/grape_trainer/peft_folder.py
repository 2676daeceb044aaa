"""Adapters on disk as peft writes them: adapter_model.safetensors, adapter_config.json, manifest.json."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grape_policy.adapters import CONFIG, MANIFEST, WEIGHTS, AdapterManifest
from grape_trainer.errors import TrainingError
from grape_trainer.files import publish_folder, read_json, write_json


def write_adapter(folder: Path, weights: Mapping[str, Tensor], config: LoraConfig) -> Path:
    """Write weights and configuration into ``folder``, which appears whole; one that is there is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".new-{uuid.uuid4().hex}"
    beside.mkdir()
    save_file({name: weights[name].contiguous() for name in sorted(weights)}, beside / WEIGHTS)
    held = config.to_dict()
    # sets have no order, and names of one machine do not belong into an adapter's identity
    held = {key: sorted(value) if isinstance(value, set) else value for key, value in held.items()}
    held |= {"base_model_name_or_path": None, "inference_mode": True}
    held = {key: getattr(value, "value", value) for key, value in held.items()}
    write_json(beside / CONFIG, held)
    if folder.exists():
        shutil.rmtree(folder)
    publish_folder(beside, folder)
    return folder


def write_manifest(folder: Path, manifest: AdapterManifest) -> None:
    """Write or replace ``manifest.json``, atomically."""
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def read_config(folder: Path) -> LoraConfig:
    """The LoRA configuration of an adapter, made trainable. Raises TrainingError naming the file."""
    path = folder / CONFIG
    held = read_json(path, TrainingError)
    if held.get("peft_type") != "LORA":
        raise TrainingError(f"{path}: peft_type is {held.get('peft_type')!r}, expected 'LORA'")
    held["inference_mode"] = False
    try:
        return LoraConfig.from_peft_type(**held)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{path}: {error}") from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The LoRA weights by name. Raises TrainingError naming the file."""
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: {error}") from None
