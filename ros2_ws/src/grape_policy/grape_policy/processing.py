"""From a camera frame and an instruction to the model's inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from grape_policy.config import ConfigError, VlaSpec

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
RESAMPLING |= {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
CROP_AREA = 0.9


class ProcessingError(Exception):
    """An image or instruction that is no input for the model; the text names what is wrong with it."""


class Processor:
    """Image and prompt processing of one checkpoint."""

    def __init__(
        self, spec: VlaSpec, preprocessor: dict[str, Any], tokenizer: Tokenizer | None, center_crop: bool = False
    ) -> None:
        """preprocessor: the parsed `preprocessor_config.json`; tokenizer None: prompts must be given as ids.

        Raises ConfigError for a resize strategy or interpolation that is not supported.
        """
        self.spec, self.tokenizer, self.center_crop = spec, tokenizer, center_crop
        strategy = preprocessor.get("image_resize_strategy", "resize-naive")
        if strategy != "resize-naive":
            raise ConfigError(f"preprocessor_config.json: image_resize_strategy {strategy!r} is not supported")
        try:
            kinds = set(preprocessor["interpolations"])
            means, stds = (torch.tensor(preprocessor[name], dtype=torch.float32) for name in ("means", "stds"))
        except KeyError as error:
            raise ConfigError(f"preprocessor_config.json: missing field {error}") from None
        if len(kinds) != 1 or not kinds <= set(RESAMPLING):
            raise ConfigError(f"preprocessor_config.json: interpolations {sorted(kinds)} are not supported")
        if means.shape != (2, 3) or stds.shape != (2, 3):
            raise ConfigError("preprocessor_config.json: means and stds must be two triples")
        self.resampling = RESAMPLING[kinds.pop()]
        self.mean, self.std = means.view(1, 6, 1, 1), stds.view(1, 6, 1, 1)
        empty = spec.empty_token_id
        if empty is None and tokenizer is not None:
            empty = tokenizer.token_to_id("▁")
        self.empty_token_id = empty

    def model_input(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The exact image that the model sees: (H, W, 3) uint8 -> (S, S, 3) uint8.

        Raises ProcessingError for any other shape or type.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
            raise ProcessingError(f"image must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
        if self.center_crop:
            rgb = center_crop(rgb)
        side = self.spec.image_size
        if rgb.shape[:2] == (side, side):
            return np.ascontiguousarray(rgb)
        return np.array(Image.fromarray(rgb).resize((side, side), self.resampling))

    def pixels(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 6, S, S) fp32, normalised once for each tower."""
        tensor = images if isinstance(images, Tensor) else torch.tensor(images)
        batch = tensor.permute(0, 3, 1, 2).float().div(255.0)
        return (torch.cat([batch, batch], dim=1) - self.mean.to(batch.device)) / self.std.to(batch.device)

    def prompt(self, instruction: str) -> Tensor:
        """Prompt ids (L,) of an instruction, from BOS to the empty token. Raises ProcessingError when it is empty."""
        if not instruction.strip():
            raise ProcessingError("the instruction is empty")
        if self.tokenizer is None:
            raise ProcessingError("the checkpoint has no tokenizer.json: prompts must be given as ids")
        ids = self.tokenizer.encode(PROMPT.format(instruction=instruction.strip().lower())).ids
        bos = self.tokenizer.token_to_id("<s>")
        if bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return self.close_prompt(torch.tensor(ids))

    def close_prompt(self, ids: Tensor) -> Tensor:
        """Append the empty token to (L,) ids where it is not already there.

        Built on ids, not on text: an empty token does not survive a round trip through a tokenizer.
        """
        if self.empty_token_id is None or int(ids[-1]) == self.empty_token_id:
            return ids
        return torch.cat([ids, ids.new_tensor([self.empty_token_id])])


def center_crop(rgb: NDArray[np.uint8], area: float = CROP_AREA) -> NDArray[np.uint8]:
    """The central `area` of (H, W, 3), resampled bilinearly (no antialias) to the same size.

    Samples lie as TensorFlow's crop_and_resize puts them: the box's borders on the first and last sample.
    """
    result = rgb.astype(np.float64)
    for axis in (0, 1):
        size = rgb.shape[axis]
        margin = (1.0 - math.sqrt(area)) / 2.0
        at = np.linspace(margin, 1.0 - margin, size) * (size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        weight = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        result = (1.0 - weight) * result.take(low, axis) + weight * result.take(high, axis)
    return np.minimum(result * (255.5 / 255.0), 255.0).astype(np.uint8)
