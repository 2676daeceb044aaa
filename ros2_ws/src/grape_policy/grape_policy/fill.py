"""The tensors of a checkpoint's files put into a module, or a list of what does not match."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grape_policy.keys import MASK_TOKEN, UNUSED_PREFIX, Rule, file_name, to_module, tower_rules
from grape_policy.model import OpenVla
from grape_policy.weights import INDEX, CheckpointError, Progress, TensorFile

LISTED = 8


def fill_model(
    model: OpenVla,
    files: Sequence[TensorFile],
    index: Mapping[str, str],
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Give the meta-device `model` weights of its own, of `dtype` on `device`, read from `files` one tensor at a time.

    index: tensor name -> file name as `model.safetensors.index.json` has it, or empty. progress: called with (tensors
    read, tensors in all). Raises CheckpointError that lists every missing, unexpected, misshapen and duplicate key.
    """
    filling = _Filling(model, device, dtype)
    count = Progress(sum(len(file) for file in files), progress)
    for file in files:
        for name, tensor in file.tensors():
            filling.take(name, tensor, file.path.name)
            count.advance()
    faults = filling.faults({file_name(name): shard for name, shard in index.items()})
    if faults:
        raise CheckpointError(f"{files[0].path.parent}: weights do not fit config.json: {faults}")
    model.load_state_dict(filling.state, assign=True)
    model.make_buffers(device)


@dataclass
class _Filling:
    """What has been read so far. `origin`: name in the file -> the file's name."""

    model: OpenVla
    device: torch.device
    dtype: torch.dtype
    origin: dict[str, str] = field(default_factory=dict)
    duplicate: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rules: dict[str, Rule] = tower_rules(self.model.spec)
        self.expected = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        source_of = {target: rule.source for rule in self.rules.values() for target in rule.targets}
        self.wanted = {source_of.get(name, name) for name in self.expected if name != MASK_TOKEN}
        mask = torch.zeros(self.expected[MASK_TOKEN], device=self.device, dtype=self.dtype)
        self.state: dict[str, Tensor] = {MASK_TOKEN: mask}

    def take(self, stored: str, tensor: Tensor, file: str) -> None:
        """A tensor of a file; copied, as its memory is that of the next one."""
        name = file_name(stored)
        if name in self.origin:
            self.duplicate.append(f"{name} in {self.origin[name]} and in {file}")
            return
        self.origin[name] = file
        if name.startswith(UNUSED_PREFIX):
            return
        if name not in self.wanted:
            self.unexpected.append(name)
            return
        try:
            parts = to_module(self.rules.get(name), name, tensor)
        except ValueError as error:
            self.misshapen.append(str(error))
            return
        for target, part in parts.items():
            if tuple(part.shape) != self.expected[target]:
                self.misshapen.append(f"{name} {tuple(part.shape)} for {self.expected[target]}")
            else:
                self.state[target] = part.to(device=self.device, dtype=self.dtype, copy=True)

    def faults(self, index: Mapping[str, str]) -> str:
        """What does not match, by kind; empty when all does."""
        absent = {name for name in index if name not in self.origin}
        faults = {
            "missing": [name for name in self.wanted if name not in self.origin and name not in absent],
            f"named in {INDEX} but absent": [f"{name} in {index[name]}" for name in absent],
            "unexpected": self.unexpected,
            "misshapen": list(dict.fromkeys(self.misshapen)),
            "duplicate": self.duplicate,
        }
        return "; ".join(f"{kind}: {_listed(sorted(names))}" for kind, names in faults.items() if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
