"""Random checkpoints and adapters, good and bad, for tests of everything that needs a policy but no skill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from grape_policy.adapters import AdapterManifest, adapter_hash, lora_targets
from grape_policy.bad_adapters import write_bad_adapters
from grape_policy.checkpoint import Vla, save_checkpoint
from grape_policy.config import KNOWN_TOWERS, parse_config
from grape_policy.mini import ACTION_BINS, MiniSize, initialise, mini_config, mini_preprocessor, mini_tokenizer
from grape_policy.model import OpenVla

__all__ = ("INSTRUCTIONS", "PUBLISHED", "TINY", "write_bad_adapters", "write_random_adapter", "write_random_checkpoint")

INSTRUCTIONS = (
    "put the carrot on the plate",
    "put the eggplant in the basket",
    "stack the green cube on the yellow cube",
    "put the spoon on the towel",
)
TINY = MiniSize(
    image_size=56, width=32, heads=2, depth=2, llama_width=32, llama_depth=2, llama_heads=2, llama_mlp=64, registers=2
)

# The fields of a published checkpoint; of the language model it names only what differs from transformers' defaults.
PUBLISHED: dict[str, Any] = {
    "architectures": ["OpenVLAForActionPrediction"],
    "arch_specifier": "no-align+fused-gelu-mlp",
    "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
    "hf_llm_id": "meta-llama/Llama-2-7b-hf",
    "image_resize_strategy": "resize-naive",
    "image_sizes": [224, 224],
    "llm_backbone_id": "llama2-7b-pure",
    "llm_max_length": 2048,
    "model_type": "openvla",
    "n_action_bins": 256,
    "norm_stats": {"bridge_orig": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7}}},
    "output_projector_states": False,
    "pad_to_multiple_of": 64,
    "pad_token_id": 32000,
    "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064},
    "timm_model_ids": list(KNOWN_TOWERS),
    "timm_override_act_layers": [None, None],
    "torch_dtype": "bfloat16",
    "use_fused_vision_backbone": True,
    "vision_backbone_id": "dinosiglip-vit-so-224px",
}


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


def write_random_adapter(
    folder: Path,
    vla: Vla,
    rank: int,
    seed: int,
    rslora: bool = False,
    targets: Sequence[str] | str | None = None,
    scale: float = 0.5,
    **settings: Any,
) -> Path:
    """Write an adapter of random weights for `vla`, as peft saves it, with a manifest; returns `folder`.

    targets: peft's `target_modules`, default `lora_targets` of the model; scale: deviation of what the adapter adds to
    a weight, in units of 1 / sqrt(inputs); settings: further fields of peft's LoraConfig. The weights of `vla` are
    neither read nor changed.
    """
    import peft  # slow to import, and only needed here

    with torch.device("meta"):
        base = OpenVla(vla.spec)
        chosen = lora_targets(base) if targets is None else targets
        values = {"r": rank, "lora_alpha": rank, "use_rslora": rslora, "init_lora_weights": False, **settings}
        config = peft.LoraConfig(target_modules=chosen if isinstance(chosen, str) else list(chosen), **values)
        model = peft.PeftModel(base, config)
    random = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            a: Any = layer.lora_A["default"]
            b: Any = layer.lora_B["default"]
            spread = scale / (layer.scaling["default"] * a.out_features**0.5)
            for part, deviation in ((a, a.in_features**-0.5), (b, spread)):
                weight = deviation * torch.randn((part.out_features, part.in_features), generator=random)
                part.weight = torch.nn.Parameter(weight, requires_grad=False)
    model.save_pretrained(str(folder))
    AdapterManifest(adapter_hash(Path(folder)), vla.base_hash).write(Path(folder))
    return Path(folder)
