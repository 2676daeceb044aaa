"""A tiny random checkpoint in OpenVLA's format, for tests of everything that needs a policy but no skill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from grape_policy.checkpoint import save_checkpoint
from grape_policy.config import parse_config
from grape_policy.mini import ACTION_BINS, MiniSize, initialise, mini_config, mini_preprocessor, mini_tokenizer
from grape_policy.model import OpenVla

INSTRUCTIONS = (
    "put the carrot on the plate",
    "put the eggplant in the basket",
    "stack the green cube on the yellow cube",
    "put the spoon on the towel",
)
TINY = MiniSize(
    image_size=56, width=32, heads=2, depth=2, llama_width=32, llama_depth=2, llama_heads=2, llama_mlp=64, registers=2
)


def write_random_checkpoint(
    folder: Path,
    seed: int = 0,
    image_size: int = 56,
    size: MiniSize = TINY,
    instructions: Sequence[str] = INSTRUCTIONS,
    spread: float = 3.0,
    max_translation: float = 0.03,
    max_rotation: float = 0.1,
) -> Path:
    """Write the checkpoint into `folder` and return it.

    image_size: pixels, a multiple of 14; spread: deviation of the logits of action tokens (those of the others are 0);
    max_translation (metres) and max_rotation (radians) bound the actions. The dataset key is `random`.
    """
    size = MiniSize(**{**vars(size), "image_size": image_size})
    mask = [True] * 6 + [False]
    high = [max_translation] * 3 + [max_rotation] * 3 + [1.0]
    action = {"mask": mask, "q01": [*(-value for value in high[:6]), 0.0], "q99": high}
    statistics = {"random": {"action": action, "num_trajectories": 0, "num_transitions": 0}}
    config = mini_config(size, "random", statistics)
    model = OpenVla(parse_config(config))
    initialise(model, seed)
    with torch.no_grad():
        head = model.language_model.lm_head.weight
        head.mul_(spread)
        head[: size.vocab_size - ACTION_BINS] = 0.0
        head[size.vocab_size :] = 0.0
        # Without this the text, ids and image hardly differ from one another after so few layers.
        model.embeddings.weight.mul_(10.0)
    tokenizer = mini_tokenizer(instructions, size.vocab_size)
    save_checkpoint(Path(folder), model, config, mini_preprocessor(image_size), statistics, tokenizer)
    return Path(folder)
