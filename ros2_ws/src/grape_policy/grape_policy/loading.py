"""From the names in a node's parameters to a warm policy that serves the registry's current adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grape_policy.adapters import AdapterError, current_adapter
from grape_policy.checkpoint import CheckpointError, Vla, load_checkpoint
from grape_policy.config import ConfigError
from grape_policy.engine import Engine
from grape_policy.processing import ProcessingError
from grape_policy.swap import AdapterSwitch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadError(ValueError):
    """A policy that cannot be served as asked; one line that names the parameter, file or field."""


@dataclass(frozen=True)
class Policy:
    """A checkpoint that serves: ``engine.act`` belongs to one thread, ``switch`` to any."""

    vla: Vla
    engine: Engine
    switch: AdapterSwitch


def load_policy(
    model: Path, device: str, dtype: str, registry: Path | None, threads: int, warmup: int, unnorm_key: str | None
) -> Policy:
    """Load the checkpoint in folder ``model``, flip to the current adapter of ``registry``, and run ``warmup``
    inferences of ``threads`` threads on a black image. ``unnorm_key``: see :class:`Engine`.

    Raises LoadError. A current adapter that is refused is an error: serving the base model in its place would go
    unnoticed."""
    if dtype not in DTYPES:
        raise LoadError(f"parameter dtype: {dtype!r} is none of {', '.join(DTYPES)}")
    try:
        place = torch.device(device)
        if place.type == "cuda" and not torch.cuda.is_available():
            raise LoadError(f"parameter device: {device!r}: there is no CUDA device")
    except RuntimeError:
        raise LoadError(f"parameter device: {device!r} is no torch device") from None
    try:
        vla = load_checkpoint(model, place, DTYPES[dtype])
        engine = Engine(vla, threads, unnorm_key)
        current = current_adapter(registry) if registry is not None else None
        if current is not None:
            engine.load_adapter(current)
            engine.flip()
        side = vla.spec.image_size
        for step in range(warmup):
            engine.act(np.zeros((side, side, 3), np.uint8), "warm up", 0, step, 0.0)
    except (CheckpointError, AdapterError, ConfigError, ProcessingError) as problem:
        raise LoadError(" ".join(str(problem).split())) from None
    return Policy(vla, engine, AdapterSwitch(engine))
