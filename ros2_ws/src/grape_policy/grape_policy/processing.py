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

from grape_policy.config import PROMPT, ConfigError, VlaSpec
from grape_policy.errors import ProcessingError

STRATEGY = "resize-naive"
RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
RESAMPLING |= {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
CROP_AREA = 0.9


__all__ = ("PROMPT", "ProcessingError", "Processor", "center_crop")


class Processor:
    """Image and prompt processing of one checkpoint."""

    def __init__(
        self,
        spec: VlaSpec,
        preprocessor: dict[str, Any],
        tokenizer: Tokenizer | None,
        center_crop: bool = False,
        where: str = "preprocessor_config.json",
    ) -> None:
        """preprocessor: the parsed file `where`; tokenizer None: prompts must be given as ids.

        Raises ConfigError that names the field: a resize strategy (only `resize-naive`: upstream's other two are
        stated nowhere we could check them against) or interpolation that is not supported, numbers that are none.
        """
        self.spec, self.tokenizer, self.center_crop = spec, tokenizer, center_crop
        strategy = preprocessor.get("image_resize_strategy", spec.config.get("image_resize_strategy", STRATEGY))
        if strategy != STRATEGY:
            raise ConfigError(f"{where}: image_resize_strategy {strategy!r} is not supported ({STRATEGY} is)")
        try:
            kinds = set(preprocessor["interpolations"])
            means, stds = (torch.tensor(preprocessor[name], dtype=torch.float32) for name in ("means", "stds"))
        except KeyError as error:
            raise ConfigError(f"{where}: missing field {error}") from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: interpolations, means or stds: {error}") from None
        if len(kinds) != 1 or not kinds <= set(RESAMPLING):
            raise ConfigError(
                f"{where}: interpolations {sorted(map(str, kinds))} are not supported ({list(RESAMPLING)} are)"
            )
        if means.shape != (2, 3) or stds.shape != (2, 3):
            raise ConfigError(f"{where}: means and stds must be two triples")
        if not bool(torch.isfinite(means).all() and torch.isfinite(stds).all() and (stds > 0).all()):
            raise ConfigError(f"{where}: means must be finite, stds finite and above 0")
        sizes = [[3, spec.image_size, spec.image_size]] * 2
        if preprocessor.get("input_sizes", sizes) != sizes:
            raise ConfigError(f"{where}: input_sizes {preprocessor['input_sizes']} are not the towers' {sizes}")
        self.resampling = RESAMPLING[kinds.pop()]
        self.mean, self.std = means.view(1, 6, 1, 1), stds.view(1, 6, 1, 1)
        # Named by the checkpoint, else by its tokenizer, else Llama 2's.
        own = tokenizer.token_to_id("▁") if tokenizer is not None and "empty_token_id" not in spec.config else None
        self.empty_token_id = spec.empty_token_id if own is None else own

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
        ids = self.tokenizer.encode(self.spec.prompt.replace("{instruction}", instruction.strip().lower())).ids
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
