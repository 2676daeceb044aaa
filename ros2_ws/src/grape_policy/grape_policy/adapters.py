"""LoRA adapters on disk: a PEFT folder plus `manifest.json`, read without trusting any of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from grape_policy.config import ConfigError, read_json

WEIGHTS, CONFIG, MANIFEST, CURRENT = "adapter_model.safetensors", "adapter_config.json", "manifest.json", "current"
PREFIX = "base_model.model."

# Modules to train by the last part of their names: the language model's and the projector's. The towers use some of
# the same names; `lora_targets` lists full names.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2", "fc3")
TOWERS = "vision_backbone."

# What changes the arithmetic beyond `x + scale * B(A(x))`: each must be empty.
UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "fan_in_fan_out",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "megatron_config",
)
BASE_CHANGING = ("pissa", "olora", "corda", "loftq")
# Says where the base lay at training time, not what was learned.
VOLATILE = ("base_model_name_or_path", "inference_mode", "revision")


class AdapterError(Exception):
    """An adapter that is refused; the text names the file or field and the reason."""


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


def lora_targets(model: torch.nn.Module, towers: bool = False) -> list[str]:
    """Full names of the linear layers to train: language model and projector, with `towers` the vision towers too.

    `lm_head` is never among them, as in OpenVLA's own adapters.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (towers if name.startswith(TOWERS) else name.rsplit(".", 1)[-1] in LORA_TARGETS)
    ]


def adapter_hash(folder: Path) -> str:
    """sha256 hex of the weights file and the canonical configuration: the adapter's id. Raises AdapterError."""
    digest = hashlib.sha256()
    try:
        with (folder / WEIGHTS).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise AdapterError(_absent(folder, error)) from None
    config = {key: value for key, value in _json(folder / CONFIG).items() if key not in VOLATILE}
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)  # peft writes sets in any order
    digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


def read_manifest(folder: Path) -> AdapterManifest:
    """The manifest of an adapter's folder. Raises AdapterError that names the field."""
    path = folder / MANIFEST
    content = _json(path)
    for name in ("adapter_id", "base_hash"):
        if not isinstance(content.get(name), str) or not content[name]:
            raise AdapterError(f"{path}: field {name} is missing")
    known = {f.name for f in dataclasses.fields(AdapterManifest)}
    values = {name: value for name, value in content.items() if name in known}
    values["episodes"] = tuple(values.get("episodes", ()))
    return AdapterManifest(**values)


def read_adapter(folder: Path, base_hash: str) -> LoraWeights:
    """Read and check an adapter for the base model `base_hash`.

    Raises AdapterError with the reason: no folder, no manifest, another base model, pickled or truncated weights, a
    manifest of other files, a kind of LoRA that is not supported, unpaired or non-finite tensors.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such adapter folder")
    manifest = read_manifest(folder)
    if manifest.base_hash != base_hash:
        raise AdapterError(
            f"{folder / MANIFEST}: trained on base model {manifest.base_hash[:12]}, this one is {base_hash[:12]}"
        )
    found = adapter_hash(folder)
    if found != manifest.adapter_id:
        raise AdapterError(f"{folder / MANIFEST}: names adapter {manifest.adapter_id[:12]}, the files are {found[:12]}")
    config = _json(folder / CONFIG)
    alpha, rslora = _check_config(config, folder / CONFIG)
    layers = {}
    for name, (a, b) in _read_pairs(folder / WEIGHTS).items():
        rank = a.shape[0]
        layers[name] = (a, b * (alpha / (math.sqrt(rank) if rslora else rank)))
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


def _check_config(config: dict[str, Any], path: Path) -> tuple[float, bool]:
    """lora_alpha and use_rslora of a configuration that is supported."""
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {config.get('peft_type')!r}, only LORA is served")
    for name in UNSUPPORTED:
        if config.get(name):
            raise AdapterError(f"{path}: {name} is not supported")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias {config['bias']!r} is not supported")
    if str(config.get("init_lora_weights", "")).lower().startswith(BASE_CHANGING):
        raise AdapterError(f"{path}: init_lora_weights {config['init_lora_weights']!r} changes the base model")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"{path}: lora_alpha {alpha!r} is no number")
    return float(alpha), bool(config.get("use_rslora", False))


def _read_pairs(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A, B) in fp32."""
    try:
        with safe_open(path, "pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not readable as safetensors: {error}") from None
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, side = key.removesuffix(".weight").rpartition(".")
        if not key.startswith(PREFIX) or side not in ("lora_A", "lora_B") or not key.endswith(".weight"):
            raise AdapterError(f"{path}: unexpected tensor {key}")
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{path}: {key} is not finite")
        sides.setdefault(module.removeprefix(PREFIX), {})[side] = tensor
    if not sides:
        raise AdapterError(f"{path}: holds no tensors")
    pairs = {}
    for name, pair in sides.items():
        if len(pair) != 2:
            missing = ({"lora_A", "lora_B"} - set(pair)).pop()
            raise AdapterError(f"{path}: {name}: {missing} is missing")
        a, b = pair["lora_A"], pair["lora_B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise AdapterError(f"{path}: {name}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit together")
        pairs[name] = (a, b)
    return pairs


def _absent(folder: Path, error: OSError) -> str:
    pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
    if pickled:
        return f"{folder / pickled[0]}: pickled weights can run code when they are read; save with safe_serialization"
    return f"{folder / WEIGHTS}: not readable: {error.strerror}"


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ConfigError as error:
        raise AdapterError(str(error)) from None
