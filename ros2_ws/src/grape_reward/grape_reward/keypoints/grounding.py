"""Boxes of things named in words, by GroundingDINO (transformers), and their masks by segment-anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, GroundingDinoForObjectDetection

from grape_episode.geometry import Array
from grape_reward.keypoints.errors import KeypointsError, WeightsError
from grape_reward.keypoints.masks import Color, Mask
from grape_reward.keypoints.nms import suppress
from grape_reward.keypoints.pretrained import load_weights, loaded, normalised
from grape_reward.keypoints.sam_masks import Segmenter


@dataclass(frozen=True)
class GroundingSettings:
    """``score``: least probability of a box; ``overlap``: of two boxes of a name that overlap more, one stays. The
    image's shorter side is resized to ``short`` pixels, unless the longer would exceed ``long``."""

    score: float = 0.3
    overlap: float = 0.5
    short: int = 800
    long: int = 1333


@dataclass(frozen=True, eq=False)
class Detection:
    """``box`` (4,) pixels: left, top, right, bottom. ``score`` in [0, 1]."""

    name: str
    box: Array
    score: float


class Detector:
    """Finds named things. ``model``: GroundingDinoForObjectDetection; ``tokenizer``: its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, settings: GroundingSettings | None = None) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.settings = settings or GroundingSettings()

    @torch.inference_mode()
    def scores(self, color: Color, names: Sequence[str]) -> tuple[Array, Array]:
        """Boxes (Q, 4) pixels and the probability (Q, N) that each holds each of the names: of a name's tokens the
        likeliest counts. Raises KeypointsError for a name that is empty or too long for the model."""
        text, spans = prompt(names)
        words = self._tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        offsets = words.pop("offset_mapping")[0].numpy()
        if len(offsets) > self._model.config.max_text_len:
            raise KeypointsError(f"names: {len(offsets)} tokens, the model reads {self._model.config.max_text_len}")
        pixels = self._pixels(color)
        answer = self._model(
            pixel_values=pixels,
            pixel_mask=torch.ones_like(pixels[:, 0], dtype=torch.long),
            **{key: value.to(self._model.device) for key, value in words.items()},
        )
        likely = answer.logits[0].float().sigmoid().cpu().numpy()[:, : len(offsets)]
        of_name = [
            (offsets[:, 0] < end) & (offsets[:, 1] > begin) & (offsets[:, 1] > offsets[:, 0]) for begin, end in spans
        ]
        height, width = color.shape[:2]
        centre_size = answer.pred_boxes[0].float().cpu().numpy() * [width, height, width, height]
        half = centre_size[:, 2:] / 2
        boxes = np.concatenate([centre_size[:, :2] - half, centre_size[:, :2] + half], axis=1)
        boxes = np.clip(boxes, 0.0, [width - 1, height - 1, width - 1, height - 1])
        return boxes, np.stack([likely[:, tokens].max(axis=1) for tokens in of_name], axis=1)

    def __call__(self, color: Color, names: Sequence[str]) -> list[Detection]:
        """Every thing found, by name in the order given, best first. Raises KeypointsError naming what is not found."""
        boxes, likely = self.scores(color, names)
        owner, found = likely.argmax(axis=1), []
        for index, name in enumerate(names):
            mine = np.flatnonzero((owner == index) & (likely[:, index] >= self.settings.score))
            if not len(mine):
                best = float(likely[owner == index, index].max(initial=0.0))
                raise KeypointsError(
                    f"{name}: not found in the image (best score {best:.2f}, needed {self.settings.score:.2f})"
                )
            kept = mine[suppress(boxes[mine], likely[mine, index], self.settings.overlap)]
            found += [Detection(name, boxes[one], float(likely[one, index])) for one in kept]
        return found

    def _pixels(self, color: Color) -> torch.Tensor:
        height, width = color.shape[:2]
        # Rounded as in the model's own preparation, where a pixel more is another grid of patches.
        short = min(float(self.settings.short), self.settings.long * min(height, width) / max(height, width))
        longer = int(short * max(height, width) / min(height, width))
        size = (longer, round(short)) if width >= height else (round(short), longer)
        small = Image.fromarray(color).resize(size, Image.Resampling.BILINEAR)
        return normalised(np.asarray(small)).to(self._model.device)


class GroundedMasks:
    """Masks of the things with these names: GroundingDINO's boxes are segment-anything's prompts."""

    def __init__(self, detector: Detector, segmenter: Segmenter, names: Sequence[str]) -> None:
        self._detector, self._segmenter, self._names = detector, segmenter, tuple(names)
        self.described = f"GroundingDINO ({', '.join(names)}) and segment-anything"

    def __call__(self, color: Color) -> list[Mask]:
        """One mask a box; ``score`` is the box's. Raises KeypointsError naming what is not found."""
        found = self._detector(color, self._names)
        self._segmenter.look(color)
        logits, _ = self._segmenter.in_boxes(np.stack([one.box for one in found]))
        regions = (logits[:, 0] > self._segmenter.threshold).cpu().numpy()
        return [Mask(region, one.score, one.name) for region, one in zip(regions, found, strict=True)]


def prompt(names: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The model's text, ``carrot. plate.``, and where each name stands in it (first character, end)."""
    text, spans = "", []
    for name in names:
        word = name.strip().lower()
        if not word or "." in word or "?" in word:
            raise KeypointsError(f"names: {name!r}: a name is words without full stops")
        spans.append((len(text), len(text) + len(word)))
        text += f"{word}. "
    if not spans:
        raise KeypointsError("names: none given")
    return text.rstrip(), spans


def load_detector(folder: Path, settings: GroundingSettings | None = None, device: str = "cpu") -> Detector:
    """Raises WeightsError naming the folder where it holds another model or a damaged one."""
    config = loaded(folder, lambda: AutoConfig.from_pretrained(folder, local_files_only=True))
    if config.model_type != "grounding-dino":
        raise WeightsError(f"{folder}: model_type {config.model_type!r}: expected 'grounding-dino'")
    # Its own kernel would be built, or fetched, when first used; plain torch does the same.
    config.disable_custom_kernels = True
    tokenizer = loaded(folder, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))
    model = load_weights(GroundingDinoForObjectDetection, folder, config=config)
    return Detector(model.to(device), tokenizer, settings)
