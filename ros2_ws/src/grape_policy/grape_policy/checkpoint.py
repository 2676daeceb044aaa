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
from safetensors.torch import save_file
from tokenizers import Tokenizer

from grape_policy.codec import ActionCodec, NormStats, gripper_opening, gripper_value
from grape_policy.config import ConfigError, VlaSpec, parse_config, read_json
from grape_policy.fill import fill_model
from grape_policy.hub import resolve_checkpoint
from grape_policy.keys import to_openvla
from grape_policy.model import OpenVla
from grape_policy.processing import Processor
from grape_policy.weights import CheckpointError, Progress, TensorFile, file_hash, file_size, read_index, weight_files

__all__ = (
    "CheckpointError",
    "Vla",
    "base_hash",
    "load_checkpoint",
    "resolve_checkpoint",
    "save_checkpoint",
    "weight_files",
)

CONFIG, PREPROCESSOR, STATISTICS = "config.json", "preprocessor_config.json", "dataset_statistics.json"
TOKENIZER_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
MAKE_TOKENIZER = (
    "copy it from the base model's folder, or make it here, where transformers, sentencepiece and protobuf are "
    'installed, with: python -c "from transformers import LlamaTokenizerFast as T; '
    "T.from_pretrained('.').save_pretrained('.')\""
)


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


def base_hash(folder: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """sha256 hex over the weights, configuration, preprocessor, statistics and tokenizer files of a folder.

    It names the base model in every step and every adapter: a change in any of these files is another model.
    `load_checkpoint` gives it too, without reading the weights a second time. progress: called with (bytes, bytes in
    all). Raises CheckpointError.
    """
    files = weight_files(folder)
    count = Progress(sum(file_size(path) for path in files), progress)
    return _combined_hash(folder, {path.name: file_hash(path, count) for path in files})


def _combined_hash(folder: Path, weights: dict[str, str]) -> str:
    """weights: file name -> sha256 hex."""
    digest = hashlib.sha256()
    for name in (CONFIG, PREPROCESSOR, STATISTICS, *TOKENIZER_FILES):
        if (folder / name).exists():
            digest.update(f"{name} {file_hash(folder / name, Progress(0))}\n".encode())
    for name, content in weights.items():
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def load_checkpoint(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    center_crop: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Vla:
    """Load a checkpoint folder, or `org/name[@revision]` from the hub (see `hub.resolve_checkpoint`).

    Files are read once, tensor by tensor, and hashed on the way: beside what goes to `device` the host holds two
    tensors. progress: called with (tensors read, tensors in all), over all files.
    Raises CheckpointError that names the file, or lists the missing, unexpected, misshapen and duplicate keys.
    """
    folder = resolve_checkpoint(folder)
    try:
        spec = parse_config(read_json(folder / CONFIG), str(folder / CONFIG))
        tokenizer = _tokenizer(folder, spec)
        preprocessor = folder / PREPROCESSOR
        processor = Processor(spec, read_json(preprocessor), tokenizer, center_crop, str(preprocessor))
        statistics = folder / STATISTICS
        entries = read_json(statistics) if statistics.exists() else spec.norm_stats
        stats = NormStats(entries, str(statistics if statistics.exists() else folder / CONFIG))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    files = [TensorFile(path) for path in weight_files(folder)]
    model = _empty_model(spec, folder / CONFIG)
    fill_model(model, files, read_index(folder) or {}, torch.device(device), dtype, progress)
    model.eval().requires_grad_(False)
    found = _combined_hash(folder, {file.path.name: file.sha256 for file in files})
    return Vla(model, spec, processor, ActionCodec(spec.vocab_size, spec.action_bins), stats, found, folder)


def _empty_model(spec: VlaSpec, path: Path) -> OpenVla:
    """A module without memory for its weights."""
    try:
        with torch.device("meta"):
            return OpenVla(spec)
    except Exception as error:  # transformers' configurations raise what they like
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: no model can be built of it: {type(error).__name__}: {text}") from None


def _tokenizer(folder: Path, spec: VlaSpec) -> Tokenizer | None:
    path = folder / "tokenizer.json"
    if not path.exists():
        if (folder / "tokenizer.model").exists():
            raise CheckpointError(f"{path}: no such file, and tokenizer.model is not read; {MAKE_TOKENIZER}")
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= spec.padded_vocab_size:
        raise CheckpointError(
            f"{path}: has the token {highest}, but the model's vocabulary is {spec.padded_vocab_size}"
        )
    return tokenizer


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
