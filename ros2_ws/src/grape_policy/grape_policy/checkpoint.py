"""A checkpoint folder in OpenVLA's file format: load it, name it by its hash, write one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from grape_policy.codec import ActionCodec, NormStats, gripper_opening, gripper_value
from grape_policy.config import ConfigError, VlaSpec, parse_config, read_json
from grape_policy.keys import MASK_TOKEN, UNUSED_PREFIX, to_module, to_openvla, tower_rules
from grape_policy.model import OpenVla
from grape_policy.processing import Processor

CONFIG, PREPROCESSOR, STATISTICS = "config.json", "preprocessor_config.json", "dataset_statistics.json"
TOKENIZER_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
LISTED = 8


class CheckpointError(Exception):
    """A folder that cannot be served; the text names the file or the keys."""


@dataclass
class Vla:
    """A loaded checkpoint and everything needed to act with it; the model is in evaluation mode."""

    model: OpenVla
    spec: VlaSpec
    processor: Processor
    codec: ActionCodec
    stats: NormStats
    base_hash: str
    folder: Path

    def actions(self, tokens: ArrayLike, unnorm_key: str | None = None) -> NDArray[np.float64]:
        """(..., 7) action ids -> (..., 7) actions: metres, radians as `spec.rotation` names them, gripper opening.

        The gripper is 0 closed to 1 open whatever the checkpoint's convention; not clipped. unnorm_key: see
        `NormStats.of`, which raises ConfigError.
        """
        return gripper_opening(self.stats.unnormalise(self.codec.decode(tokens), unnorm_key), self.spec.gripper)

    def action_tokens(self, actions: ArrayLike, unnorm_key: str | None = None) -> NDArray[np.int64]:
        """The inverse of `actions` up to the width of a bin: the ids to train on, (..., 7)."""
        return self.codec.encode(self.stats.normalise(gripper_value(actions, self.spec.gripper), unnorm_key))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises CheckpointError for pickled weights, or none."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(path for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{pickled[0]}: pickled weights can run code when they are read and are refused; convert them once, on a "
            "machine you can lose, with safetensors.torch.save_file"
        )
    raise CheckpointError(f"{folder}: no *.safetensors file")


def base_hash(folder: Path) -> str:
    """sha256 hex over the weights, configuration, preprocessor, statistics and tokenizer files of a folder.

    It names the base model in every step and every adapter: a change in any of these files is another model.
    """
    names = [CONFIG, PREPROCESSOR, STATISTICS, *TOKENIZER_FILES]
    digest = hashlib.sha256()
    for path in [*(folder / name for name in names), *weight_files(folder)]:
        if path.exists():
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def load_checkpoint(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    center_crop: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Vla:
    """Load a checkpoint folder. Tensors are read one at a time, so that the host never holds a second copy.

    progress: called with (tensors read, tensors in all).
    Raises CheckpointError that names the file, or lists the missing, unexpected and misshapen keys.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such model folder")
    try:
        spec = parse_config(read_json(folder / CONFIG), str(folder / CONFIG))
        tokenizer = _tokenizer(folder)
        processor = Processor(spec, read_json(folder / PREPROCESSOR), tokenizer, center_crop)
        statistics = folder / STATISTICS
        entries = read_json(statistics) if statistics.exists() else spec.norm_stats
        stats = NormStats(entries, str(statistics if statistics.exists() else folder / CONFIG))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    files = weight_files(folder)
    with torch.device("meta"):
        model = OpenVla(spec)
    _fill(model, files, torch.device(device), dtype, progress)
    model.eval().requires_grad_(False)
    return Vla(model, spec, processor, ActionCodec(spec.vocab_size, spec.action_bins), stats, base_hash(folder), folder)


def _tokenizer(folder: Path) -> Tokenizer | None:
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None


def _fill(
    model: OpenVla,
    files: list[Path],
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Put the tensors of `files` into the meta-device `model`, or list what does not match."""
    rules = tower_rules(model.spec)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    source_of = {target: rule.source for rule in rules.values() for target in rule.targets}
    state: dict[str, Tensor] = {MASK_TOKEN: torch.zeros(expected[MASK_TOKEN], device=device, dtype=dtype)}
    unexpected: list[str] = []
    misshapen: list[str] = []
    for path in files:
        try:
            with safe_open(path, "pt", device="cpu") as file:
                names = list(file.keys())
                for done, name in enumerate(names):
                    if not name.startswith(UNUSED_PREFIX):
                        _take(to_module(rules.get(name), name, file.get_tensor(name)), expected, state, device, dtype)
                    if progress is not None:
                        progress(done + 1, len(names))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not readable as safetensors: {error}") from None
        except ValueError as error:
            misshapen.append(str(error))
    for name, tensor in list(state.items()):
        source = source_of.get(name, name)
        if name not in expected:
            unexpected.append(source)
        elif tuple(tensor.shape) != expected[name]:
            misshapen.append(f"{source} {tuple(tensor.shape)} for {expected[name]}")
    missing = sorted({source_of.get(name, name) for name in expected if name not in state})
    if missing or unexpected or misshapen:
        faults = {"missing": missing, "unexpected": sorted(unexpected), "misshapen": sorted(misshapen)}
        text = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise CheckpointError(f"{files[0].parent}: weights do not fit config.json: {text}")
    model.load_state_dict(state, assign=True)
    model.reset_rotary(device)
    siglip = model.vision_backbone.fused_featurizer.embeddings
    positions = torch.arange(siglip.num_positions, device=device).expand((1, -1))
    siglip.register_buffer("position_ids", positions, persistent=False)


def _take(
    tensors: dict[str, Tensor],
    expected: dict[str, tuple[int, ...]],
    state: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    for name, tensor in tensors.items():
        fits = expected.get(name) == tuple(tensor.shape)
        # A tensor that does not fit is kept by its shape alone, to be listed.
        state[name] = tensor.to(device=device, dtype=dtype) if fits else torch.empty(tensor.shape, device="meta")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def save_checkpoint(
    folder: Path,
    model: OpenVla,
    config: dict[str, Any],
    preprocessor: dict[str, Any],
    statistics: dict[str, Any],
    tokenizer: Tokenizer | None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write `model` as an OpenVLA checkpoint: weights under OpenVLA's names, rounded to `dtype`.

    config, preprocessor, statistics: the contents of the JSON files. The folder is created; files are overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().to(dtype) for name, tensor in model.state_dict().items()}
    save_file(to_openvla(model.spec, tensors), folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in ((CONFIG, config), (PREPROCESSOR, preprocessor), (STATISTICS, statistics)):
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<PAD>"}
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
