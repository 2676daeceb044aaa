"""LoRA adapters on disk: a PEFT folder plus `manifest.json`, read without trusting any of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from grape_policy.adapter_config import AdapterError, LoraSettings, parse_settings
from grape_policy.adapter_modules import check_modules
from grape_policy.config import ConfigError, VlaSpec, read_json
from grape_policy.keys import UNUSED_PREFIX

__all__ = (
    "CONFIG",
    "CURRENT",
    "LORA_TARGETS",
    "MANIFEST",
    "PREFIX",
    "TOWERS",
    "WEIGHTS",
    "AdapterError",
    "AdapterManifest",
    "LoraWeights",
    "adapter_hash",
    "current_adapter",
    "lora_targets",
    "read_adapter",
    "read_manifest",
)

WEIGHTS, CONFIG, MANIFEST, CURRENT = "adapter_model.safetensors", "adapter_config.json", "manifest.json", "current"
PREFIX = "base_model.model."

# Where `lm_head` carries LoRA, peft saves the frozen layer as well; the base hash says that it is this model's own.
FROZEN_HEAD = PREFIX + "language_model.lm_head.base_layer.weight"

# Modules to train by the last part of their names: the language model's and the projector's. The towers use some of
# the same names; `lora_targets` lists full names.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2", "fc3")
HEAD = "lm_head"
TOWERS = "vision_backbone."

# Says where the base lay at training time, not what was learned.
VOLATILE = ("base_model_name_or_path", "inference_mode", "revision")


@dataclass(frozen=True)
class AdapterManifest:
    """Where an adapter comes from. `created` is ISO 8601; `parent` an adapter id or empty; `pairs` a count."""

    adapter_id: str
    base_hash: str
    parent: str = ""
    created: str = ""
    episodes: tuple[str, ...] = ()
    pairs: int = 0
    cost_program_hash: str = ""
    objective: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into the adapter's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class LoraWeights:
    """A checked adapter. `layers`: module name -> A (r, in) and B (out, r), the scale folded into B."""

    manifest: AdapterManifest
    rank: int
    layers: dict[str, tuple[Tensor, Tensor]]
    path: Path


def lora_targets(model: torch.nn.Module, towers: bool = False, head: bool = False) -> list[str]:
    """Full names of the linear layers to train: language model and projector, with `towers` the vision towers too,
    with `head` the `lm_head`, which OpenVLA's own adapters leave out."""
    known = (*LORA_TARGETS, HEAD) if head else LORA_TARGETS
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (towers if name.startswith(TOWERS) else name.rsplit(".", 1)[-1] in known)
    ]


def adapter_hash(folder: Path) -> str:
    """sha256 hex of the weights file and the canonical configuration: the adapter's id. Raises AdapterError."""
    with _open_weights(folder) as file:
        weights = hashlib.file_digest(file, "sha256").digest()
    return _identity(weights, _json(folder / CONFIG))


def _identity(weights: bytes, config: dict[str, Any]) -> str:
    """weights: sha256 of the weights file."""
    config = {key: value for key, value in config.items() if key not in VOLATILE}
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)  # peft writes sets in any order
    digest = hashlib.sha256(weights)
    digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


def read_manifest(folder: Path) -> AdapterManifest:
    """The manifest of an adapter's folder. Raises AdapterError that names the field."""
    path = folder / MANIFEST
    content = _json(path)
    for name in ("adapter_id", "base_hash"):
        if not isinstance(content.get(name), str) or not content[name]:
            raise AdapterError(f"{path}: field {name} is missing")
    kinds = {"episodes": list, "pairs": int, "settings": dict, "metrics": dict, "verdict": dict}
    known = {f.name for f in dataclasses.fields(AdapterManifest)}
    values = {name: value for name, value in content.items() if name in known}
    for name, value in values.items():
        kind = kinds.get(name, str)
        if not isinstance(value, kind):
            raise AdapterError(f"{path}: field {name} is of type {type(value).__name__}, expected {kind.__name__}")
    values["episodes"] = tuple(values.get("episodes", ()))
    return AdapterManifest(**values)


def read_adapter(folder: Path, base_hash: str, spec: VlaSpec | None = None) -> LoraWeights:
    """Read and check an adapter for the base model `base_hash`.

    With the model's `spec` its modules are checked too: every one that the adapter's configuration targets must be
    there, once, and no other. The file is read once, into memory: what was checked is what serves, whatever happens
    to the file. Pairs on SigLIP's pooling head, which no output depends on, are left out; names of OpenVLA's own code
    are kept, a pair on a convolution becomes matrices.

    Raises AdapterError with the file and the reason: no folder, no manifest, another base model, pickled, truncated or
    unreadable weights, a manifest of other files, a kind of LoRA that is not supported, missing, unpaired, misshapen
    or non-finite tensors.
    """
    folder = Path(folder)
    _check_folder(folder)
    manifest = read_manifest(folder)
    if manifest.base_hash != base_hash:
        raise AdapterError(
            f"{folder / MANIFEST}: trained on base model {manifest.base_hash[:12]}, this one is {base_hash[:12]}"
        )
    path = folder / WEIGHTS
    with _open_weights(folder) as file:
        content = file.read()
    config = _json(folder / CONFIG)
    found = _identity(hashlib.sha256(content).digest(), config)
    if found != manifest.adapter_id:
        raise AdapterError(f"{folder / MANIFEST}: names adapter {manifest.adapter_id[:12]}, the files are {found[:12]}")
    settings = parse_settings(config, folder / CONFIG)
    pairs = {name: pair for name, pair in _read_pairs(content, path).items() if not name.startswith(UNUSED_PREFIX)}
    if not pairs:
        raise AdapterError(f"{path}: holds no tensors that the model uses")
    if spec is not None:
        check_modules(pairs, config, spec, path)
    layers = {name: _scaled(name, a, b, settings, path) for name, (a, b) in pairs.items()}
    return LoraWeights(manifest, max(a.shape[0] for a, _ in layers.values()), layers, folder)


def current_adapter(registry_root: Path) -> Path | None:
    """Folder of the adapter that the registry's file `current` names; None where there is none.

    Raises AdapterError when it names a folder that is not there.
    """
    pointer = registry_root / CURRENT
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{pointer}: not readable: {error}") from None
    if not name:
        return None
    folder = registry_root / name
    if Path(name).name != name or not folder.is_dir():
        raise AdapterError(f"{pointer}: names adapter {name!r}, which is not in {registry_root}")
    return folder


def _read_pairs(content: bytes, path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A, B) in fp32, of the bytes of the file `path`."""
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type of numbers that torch does not have
        raise AdapterError(f"{path}: not readable as safetensors: {error}") from None
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        if key == FROZEN_HEAD:
            continue
        module, _, side = key.removesuffix(".weight").rpartition(".")
        if not key.startswith(PREFIX) or side not in ("lora_A", "lora_B") or not key.endswith(".weight"):
            raise AdapterError(f"{path}: unexpected tensor {key}")
        if not tensor.is_floating_point():
            raise AdapterError(f"{path}: {key} is {tensor.dtype}, no floating-point numbers")
        numbers = tensor.to(torch.float32, copy=True)
        if not bool(torch.isfinite(numbers).all()):
            raise AdapterError(f"{path}: {key} is not finite")
        sides.setdefault(module.removeprefix(PREFIX), {})[side] = numbers
    if not sides:
        raise AdapterError(f"{path}: holds no tensors")
    pairs = {}
    for name, pair in sides.items():
        if len(pair) != 2:
            missing = ({"lora_A", "lora_B"} - set(pair)).pop()
            raise AdapterError(f"{path}: {name}: {missing} is missing")
        a, b = pair["lora_A"], pair["lora_B"]
        if a.ndim == 4 and b.ndim == 4 and b.shape[2:] == (1, 1):
            a, b = a.flatten(1), b.flatten(1)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise AdapterError(f"{path}: {name}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit together")
        pairs[name] = (a, b)
    return pairs


def _scaled(name: str, a: Tensor, b: Tensor, settings: LoraSettings, path: Path) -> tuple[Tensor, Tensor]:
    """The pair with its scale folded into B."""
    rank, configured = a.shape[0], settings.rank_of(name)
    if configured is not None and configured != rank:
        raise AdapterError(f"{path}: {name}: A and B have rank {rank}, {CONFIG} says {configured}")
    b = b * settings.scale_of(name, rank)
    if not bool(torch.isfinite(b).all()):
        raise AdapterError(f"{path}: {name}: B is not finite after scaling")
    return a, b


def _check_folder(folder: Path) -> None:
    try:
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no such adapter folder")
        if not any(folder.iterdir()):
            raise AdapterError(f"{folder}: is empty")
    except OSError as error:
        raise AdapterError(f"{folder}: not readable: {error.strerror}") from None


def _open_weights(folder: Path) -> BufferedReader:
    path = folder / WEIGHTS
    try:
        # looked at before it is opened: opening a pipe blocks
        if not stat.S_ISREG(path.stat().st_mode):
            raise AdapterError(f"{path}: not readable: no regular file")
        return path.open("rb")
    except FileNotFoundError:
        if path.is_symlink():
            raise AdapterError(f"{path}: not readable: a link to a file that is not there") from None
        pickled = [file.name for kind in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(kind))]
        if pickled:
            raise AdapterError(
                f"{folder / pickled[0]}: pickled weights can run code when they are read; save with safe_serialization"
            ) from None
        raise AdapterError(f"{path}: no such file") from None
    except OSError as error:
        raise AdapterError(f"{path}: not readable: {error.strerror}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ConfigError as error:
        raise AdapterError(str(error)) from None
