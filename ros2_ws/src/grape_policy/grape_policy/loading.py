"""From the settings of a node to a warm engine that serves the registry's current adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from grape_policy.adapters import AdapterError, current_adapter
from grape_policy.checkpoint import CheckpointError, load_checkpoint
from grape_policy.config import ConfigError
from grape_policy.engine import Engine
from grape_policy.errors import LoadError
from grape_policy.parameters import DTYPES, MERGED, EngineSettings
from grape_policy.processing import ProcessingError


def load_engine(settings: EngineSettings, progress: Callable[[int, int], None] | None = None) -> Engine:
    """Load the checkpoint, flip to the current adapter of the registry, and warm up on a black image.

    ``progress``: called with (tensors read, tensors in all). Raises LoadError. A current adapter that is refused is an
    error: serving the base model in its place would go unnoticed."""
    if settings.dtype not in DTYPES:
        raise LoadError(f"parameter dtype: {settings.dtype!r} is none of {', '.join(DTYPES)}")
    try:
        place = torch.device(settings.device)
        if place.type == "cuda" and not torch.cuda.is_available():
            raise LoadError(f"parameter device: {settings.device!r}: there is no CUDA device")
    except RuntimeError:
        raise LoadError(f"parameter device: {settings.device!r} is no torch device") from None
    try:
        vla = load_checkpoint(
            Path(settings.model), place, getattr(torch, settings.dtype), settings.center_crop, progress
        )
        engine = Engine(
            vla,
            threads=settings.threads,
            unnorm_key=settings.unnorm_key or None,
            max_rank=settings.adapter_rank,
            merged=settings.adapter_mode == MERGED,
            action_tokens_only=settings.action_tokens_only,
        )
        current = current_adapter(Path(settings.registry)) if settings.registry else None
        if current is not None:
            engine.load_adapter(current)
            engine.flip()
        side = vla.spec.image_size
        for step in range(settings.warmup):
            engine.act(np.zeros((side, side, 3), np.uint8), "warm up", 0, step, 0.0)
    except (CheckpointError, AdapterError, ConfigError, ProcessingError) as problem:
        raise LoadError(" ".join(str(problem).split())) from None
    return engine
