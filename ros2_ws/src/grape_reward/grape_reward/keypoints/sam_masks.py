"""Masks by segment-anything: of everything in an image, or of what lies in boxes.

The automatic search is that of the package's own generator without crops: a grid of points, three masks each, those
kept of which the model is sure and which hardly change with the threshold, of overlapping ones the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from grape_episode.geometry import Array
from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.masks import Color, Mask, Region
from grape_reward.keypoints.nms import suppress
from grape_reward.keypoints.sam_model import load_sam, part

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class SamSettings:
    """The generator's parameters, with its defaults. ``points_per_side`` of the grid; ``predicted_iou`` and
    ``stability``: least values of a mask; ``stability_offset`` of the logits; ``overlap``: of two boxes that overlap
    more, one stays; ``min_area`` pixels: smaller holes are filled, smaller islands removed. Raises KeypointsError."""

    points_per_side: int = 32
    points_per_batch: int = 32
    predicted_iou: float = 0.88
    stability: float = 0.95
    stability_offset: float = 1.0
    overlap: float = 0.7
    min_area: int = 100

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1 or self.min_area < 0:
            raise KeypointsError("SamSettings: points_per_side and points_per_batch must be at least 1, min_area 0")


class Segmenter:
    """One image embedded, masks for prompts in it. ``model`` is segment-anything's ``Sam``; logits above ``threshold``
    are the mask."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._shape = (0, 0)
        self.threshold = float(model.mask_threshold)

    @torch.inference_mode()
    def look(self, color: Color) -> None:
        """Embed an image (H, W, 3) uint8 RGB; its longer side is resized to the model's size."""
        size = self._model.image_encoder.img_size
        height, width = self._shape = color.shape[:2]
        self._scale = np.array([int(side * size / max(height, width) + 0.5) for side in (width, height)])
        small = np.array(Image.fromarray(color).resize(tuple(self._scale.tolist()), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None].to(self._model.device)
        self._embedding = self._model.image_encoder(self._model.preprocess(pixels))

    @torch.inference_mode()
    def at_points(self, points: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, 3, H, W) and predicted IoU (N, 3) of the masks at points (N, 2) in pixels, u right, v down."""
        where = self._scaled(points)[:, None]
        return self._masks((where, torch.ones(where.shape[:2], dtype=torch.int, device=where.device)), None, True)

    @torch.inference_mode()
    def in_boxes(self, boxes: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, 1, H, W) and predicted IoU (N, 1) of the masks in boxes (N, 4): left, top, right, bottom."""
        corners = self._scaled(np.asarray(boxes).reshape(-1, 2))
        return self._masks(None, corners.reshape(-1, 4), False)

    def _scaled(self, pixels: Array) -> torch.Tensor:
        scaled = np.asarray(pixels, dtype=np.float64) * (self._scale / np.array(self._shape[::-1]))
        return torch.as_tensor(scaled, dtype=torch.float32, device=self._model.device)

    def _masks(self, points: Any, boxes: torch.Tensor | None, several: bool) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = self._model.prompt_encoder(points=points, boxes=boxes, masks=None)
        low, quality = self._model.mask_decoder(
            image_embeddings=self._embedding,
            image_pe=self._model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return self._model.postprocess_masks(low, tuple(self._scale[::-1].tolist()), self._shape), quality


class SamMasks:
    """Masks of everything, best first. ``score`` is the IoU that the model predicts. ``report`` is called with how many
    of how many points are searched and a word: on a CPU a search takes minutes."""

    described = "segment-anything"

    def __init__(self, model: Any, settings: SamSettings | None = None, report: Report | None = None) -> None:
        self._segmenter = Segmenter(model)
        self._report = report or (lambda done, total, said: None)
        self.settings = settings or SamSettings()
        self._overlap = self.settings.overlap

    def __call__(self, color: Color) -> list[Mask]:
        self._report(0, self.settings.points_per_side**2, "image")
        self._segmenter.look(color)
        # A grid of 32 a side finds up to 3,072 masks: they wait with eight pixels a byte.
        found = [(np.packbits(mask.region), mask.score, bounding_box(mask.region)) for mask in self._search(color)]
        kept = suppress(np.array([box for *_, box in found]), np.array([score for _, score, _ in found]), self._overlap)
        regions = (np.unpackbits(found[index][0], count=color[..., 0].size) for index in kept)
        masks = [
            Mask(region.reshape(color.shape[:2]).astype(np.bool_), found[index][1])
            for index, region in zip(kept, regions, strict=True)
        ]
        return self._tidied(masks)

    def _search(self, color: Color) -> Iterator[Mask]:
        total, done = self.settings.points_per_side**2, 0
        for points in self._batches(color):
            self._report(done, total, "points")
            yield from self._at(points)
            done += len(points)
        self._report(total, total, "points")

    def _batches(self, color: Color) -> Iterator[Array]:
        side, size = self.settings.points_per_side, self.settings.points_per_batch
        ticks = (np.arange(side) + 0.5) / side
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2) * color.shape[1::-1]
        for start in range(0, len(grid), size):
            yield grid[start : start + size]

    def _at(self, points: Array) -> list[Mask]:
        settings = self.settings
        logits, quality = self._segmenter.at_points(points)
        logits, quality = logits.flatten(0, 1), quality.flatten()
        sure = quality > settings.predicted_iou
        logits, quality = logits[sure], quality[sure]
        steady = stability(logits, self._segmenter.threshold, settings.stability_offset) >= settings.stability
        regions = (logits[steady] > self._segmenter.threshold).cpu().numpy()
        return [Mask(region, score) for region, score in zip(regions, quality[steady].tolist(), strict=True)]

    def _tidied(self, masks: list[Mask]) -> list[Mask]:
        """Without small holes and islands; of what became alike by it, what was tidy before stays."""
        least = self.settings.min_area
        if not least or not masks:
            return masks
        remove = part("utils.amg").remove_small_regions
        tidied, untouched = [], []
        for mask in masks:
            region, filled = remove(mask.region, least, mode="holes")
            region, removed = remove(region, least, mode="islands")
            tidied.append(Mask(np.asarray(region, dtype=np.bool_), mask.score))
            untouched.append(float(not filled and not removed))
        boxes = np.array([bounding_box(mask.region) for mask in tidied])
        return [tidied[index] for index in suppress(boxes, np.array(untouched), self._overlap)]


def stability(logits: torch.Tensor, threshold: float, offset: float) -> torch.Tensor:
    """(N,) IoU of the masks (N, H, W) cut ``offset`` above and ``offset`` below the threshold; 0 for an empty one."""
    inner = (logits > threshold + offset).flatten(1).sum(1)
    outer = (logits > threshold - offset).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def bounding_box(region: Region) -> Array:
    """(4,) left, top, right, bottom: the first and the last pixels; zeros for an empty region."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float64)


def sam_masks(
    file: Path, settings: SamSettings | None = None, device: str = "cpu", report: Report | None = None
) -> SamMasks:
    """The source with the weights in a safetensors file. Raises WeightsError."""
    return SamMasks(load_sam(file, device), settings, report)
