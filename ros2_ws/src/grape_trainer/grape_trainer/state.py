"""Checkpoints of a training run: safetensors and JSON, whole or not there, no pickle."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grape_trainer.errors import TrainingError
from grape_trainer.files import publish_folder, read_json, write_json

KEPT = 2
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class RunState:
    """Where a run is: ``update`` updates are done; ``weights`` and ``good`` are LoRA weights by name, the
    latter those of the last check that passed, after ``good_update`` updates; ``moments`` is AdamW's state by
    parameter number; ``rng`` is torch's generator."""

    update: int
    weights: dict[str, Tensor]
    good: dict[str, Tensor]
    good_update: int
    moments: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    rng: Tensor | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, state: RunState, fingerprint: str) -> Path:
    """Write ``<folder>/<update>`` and drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{state.update:06d}"
    if final.exists():
        return final
    beside = folder / f".new-{uuid.uuid4().hex}"
    beside.mkdir()
    save_file(state.weights, beside / "weights.safetensors")
    save_file(state.good, beside / "good.safetensors")
    moments = {f"{i}.{name}": t.contiguous() for i, own in state.moments.items() for name, t in own.items()}
    rng = state.rng if state.rng is not None else torch.get_rng_state()
    save_file({**moments, "rng": rng.clone()}, beside / "optimizer.safetensors")
    write_json(
        beside / "state.json",
        {
            "update": state.update,
            "good_update": state.good_update,
            "figures": state.figures,
            "fingerprint": fingerprint,
        },
    )
    publish_folder(beside, final)
    for old in _checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load(folder: Path, fingerprint: str) -> RunState | None:
    """The last checkpoint, None where there is none.

    Raises TrainingError naming the folder when it belongs to another run or cannot be read."""
    found = _checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    data = read_json(last / "state.json", TrainingError)
    if data.get("fingerprint") != fingerprint:
        raise TrainingError(f"{last}: belongs to a run with other settings, pairs or model; give another output folder")
    try:
        weights = load_file(last / "weights.safetensors")
        good = load_file(last / "good.safetensors")
        held = load_file(last / "optimizer.safetensors")
        rng = held.pop("rng")
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in held.items():
            number, name = key.split(".", 1)
            moments.setdefault(int(number), {})[name] = tensor
        return RunState(
            update=int(data["update"]),
            weights=weights,
            good=good,
            good_update=int(data["good_update"]),
            moments=moments,
            rng=rng,
            figures=data["figures"],
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{last}: not a checkpoint ({error})") from None


def moments_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """A copy of the optimizer's tensors by parameter number."""
    held = optimizer.state_dict()["state"]
    return {int(i): {name: own[name].detach().cpu().clone() for name in MOMENTS} for i, own in held.items()}


def restore_moments(optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
    """Put tensors of :func:`moments_of` back."""
    optimizer.load_state_dict({"state": dict(moments), "param_groups": optimizer.state_dict()["param_groups"]})


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name.isdigit())
