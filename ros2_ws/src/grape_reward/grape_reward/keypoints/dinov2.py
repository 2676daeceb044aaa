"""DINOv2's patch features, by transformers, from a folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from grape_episode.geometry import Array
from grape_reward.keypoints.errors import WeightsError
from grape_reward.keypoints.features import FeatureMap
from grape_reward.keypoints.masks import Color
from grape_reward.keypoints.pretrained import load_weights, loaded, normalised

_KINDS = ("dinov2", "dinov2_with_registers")


class Dinov2Features:
    """Features of the last layer's patches (ViT-S/14 as in ReKep, or any other size, with registers or without).

    The image is resized to whole patches and normalised as in DINOv2's own training."""

    def __init__(self, model: Any, name: str = "") -> None:
        self._model = model
        self.described = f"dinov2 {name}".strip()

    @torch.inference_mode()
    def __call__(self, color: Color, cloud: Array) -> FeatureMap:
        patch = self._model.config.patch_size
        height, width = color.shape[:2]
        rows, columns = max(1, height // patch), max(1, width // patch)
        small = Image.fromarray(color).resize((columns * patch, rows * patch), Image.Resampling.BILINEAR)
        tokens = self._model(normalised(np.asarray(small)).to(self._model.device)).last_hidden_state
        patches = tokens[0, -rows * columns :].float().cpu().numpy()
        return FeatureMap(patches.reshape(rows, columns, -1), height, width)


def load_dinov2(folder: Path, device: str = "cpu") -> Dinov2Features:
    """Raises WeightsError naming the folder where it holds another model or a damaged one."""
    config = loaded(folder, lambda: AutoConfig.from_pretrained(folder, local_files_only=True))
    if config.model_type not in _KINDS:
        raise WeightsError(f"{folder}: model_type {config.model_type!r}: expected {' or '.join(_KINDS)}")
    return Dinov2Features(load_weights(AutoModel, folder).to(device), folder.name)
