"""What the models of transformers share here: how they are loaded, and what their images look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers.utils import logging

from grape_reward.keypoints.errors import WeightsError
from grape_reward.keypoints.masks import Color

# Of ImageNet, with which DINOv2 and GroundingDINO were trained.
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def normalised(color: Color) -> torch.Tensor:
    """(1, 3, H, W) float32 of an image (H, W, 3) uint8 RGB."""
    scaled = (color.astype(np.float32) / 255.0 - _MEAN) / _STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))[None]


def loaded(folder: Path, load: Callable[[], Any]) -> Any:
    """What ``load`` gives. Raises WeightsError naming the folder where its files are damaged or of another kind."""
    # Bars and tables of transformers' own would stand around the one line that a person is to read.
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_weights(kind: Any, folder: Path, **more: Any) -> Any:
    """A model of the class ``kind`` with the safetensors in ``folder``, ready to infer. Raises WeightsError naming the
    folder, also where a tensor is missing: transformers would go on with random numbers in its place."""
    model, told = loaded(
        folder,
        lambda: kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **more
        ),
    )
    missing = sorted(told["missing_keys"])
    if missing:
        raise WeightsError(
            f"{folder}: {len(missing)} tensors are missing, {missing[0]} the first: weights of another model"
        )
    return model.eval()


def best_device(named: str = "auto") -> str:
    """``named``, or for ``auto`` the GPU where there is one."""
    return named if named != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
