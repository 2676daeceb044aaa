"""`python -m grape_policy.golden DIR`: how far this code is from what OpenVLA's own code computed.

DIR holds a checkpoint, `frame{i}.png` and `expected.npz`. Prints one JSON object; exits 1 past the tolerances.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from grape_policy.checkpoint import CheckpointError, Vla, load_checkpoint
from grape_policy.config import ACTION_SIZE, ConfigError
from grape_policy.engine import Engine
from grape_policy.logprobs import gather_logprobs

KEY = "bench"
"""Of the action statistics that the expected actions were made with, where a checkpoint has several."""
# Agreement asked for in fp32 on a CPU; tokens must be equal.
TOLERANCES = {
    "pixel_values": 1e-5,
    "patches": 1e-4,
    "logits": 1e-4,
    "forced_logprobs": 1e-4,
    "actions": 1e-6,
    "margins": 1e-4,
    "tokens": 0.0,
}


def generate(vla: Vla, pixels: torch.Tensor, prompt: torch.Tensor, count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Greedy tokens and their margins, each (count,), by a whole forward pass per token: slow, and without a cache."""
    tokens = torch.zeros((1, 0), dtype=torch.long)
    margins = []
    for _ in range(count):
        fed = torch.cat([tokens, torch.zeros((1, 1), dtype=torch.long)], dim=1)
        logits = vla.model.action_logits(pixels, [prompt], fed)[0, -1]
        best = logits.topk(2)
        tokens = torch.cat([tokens, best.indices[:1][None]], dim=1)
        margins.append(float(best.values[0] - best.values[1]))
    return tokens[0].numpy(), np.array(margins)


@torch.inference_mode()
def compare(folder: Path, unnorm_key: str | None = None) -> dict[str, float]:
    """Maximal absolute errors over all cases, and `tokens`, the number of differing ones.

    Both ways are held to the same numbers: the model that training differentiates, token by token without a cache, and
    the engine that acts.
    """
    vla = load_checkpoint(folder)
    if unnorm_key is None and len(vla.stats.keys()) > 1:
        unnorm_key = KEY
    acting = Engine(vla, unnorm_key=unnorm_key).generator
    errors = dict.fromkeys(TOLERANCES, 0.0)

    def note(name: str, got: np.ndarray, wanted: np.ndarray) -> None:
        error = float(np.max(np.abs(np.asarray(got, float).reshape(wanted.shape) - wanted)))
        errors[name] = max(errors[name], error if np.isfinite(error) else np.inf)

    with np.load(folder / "expected.npz", allow_pickle=False) as expected:
        cases = sorted(int(name[3:]) for name in expected.files if name.startswith("ids"))
        for i in cases:
            image = np.asarray(Image.open(folder / f"frame{i}.png").convert("RGB"))
            pixels = vla.processor.pixels(vla.processor.model_input(image)[None])
            prompt = vla.processor.close_prompt(torch.from_numpy(expected[f"ids{i}"]))
            if f"pixel_values{i}" in expected:
                note("pixel_values", pixels.numpy(), expected[f"pixel_values{i}"])
                note("patches", vla.model.vision_backbone(pixels).numpy(), expected[f"patches{i}"])
            forced = torch.from_numpy(expected[f"forced{i}"])[None]
            logits = vla.model.action_logits(pixels, [prompt], forced)
            note("logits", logits[0, 0].numpy(), expected[f"logits{i}"])
            note("forced_logprobs", gather_logprobs(logits, forced).numpy(), expected[f"forced_logprob{i}"])
            frames = vla.processor.model_input(image)[None]
            again = acting.forced(frames, [prompt], expected[f"forced{i}"][None], None)
            note("forced_logprobs", again, expected[f"forced_logprob{i}"])
            acted = acting(frames, [prompt], np.zeros((1, ACTION_SIZE)), [0.0], None)
            for tokens, margins in (generate(vla, pixels, prompt), (acted[0][0], acted[2][0])):
                errors["tokens"] += int(np.sum(tokens != expected[f"generated{i}"]))
                if f"margin{i}" in expected:
                    note("margins", margins, expected[f"margin{i}"])
                note("actions", vla.actions(tokens, unnorm_key), expected[f"actions{i}"])
    return errors


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with a checkpoint, frames and expected.npz")
    parser.add_argument(
        "--unnorm-key", help=f"dataset key of the action statistics; default: the only one there is, or {KEY}"
    )
    arguments = parser.parse_args(argv)
    try:
        errors = compare(arguments.folder, arguments.unnorm_key)
    except (CheckpointError, ConfigError, OSError, KeyError) as error:
        print(f"golden: {error}", file=sys.stderr)
        return 2
    passed = all(errors[name] <= bound for name, bound in TOLERANCES.items())
    print(json.dumps({**errors, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
