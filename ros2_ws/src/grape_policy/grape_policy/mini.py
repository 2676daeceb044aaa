"""The files around the weights of a small OpenVLA: configuration, preprocessor and a tokenizer of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from grape_policy.model import OpenVla
from grape_policy.processing import PROMPT

SPECIAL = ["<unk>", "<s>", "</s>"]
EMPTY = "▁"
ACTION_BINS = 256
PAD_MULTIPLE = 64
# ImageNet's constants for the DINOv2 tower and one half for SigLIP's.
MEANS = [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]]
STDS = [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]]


@dataclass(frozen=True)
class MiniSize:
    """Dimensions of a small model; `image_size` in pixels, patches of 14 pixels."""

    image_size: int = 112
    width: int = 128
    heads: int = 4
    depth: int = 3
    llama_width: int = 128
    llama_depth: int = 3
    llama_heads: int = 4
    llama_mlp: int = 352
    vocab_size: int = 768
    registers: int = 4


def mini_config(size: MiniSize, name: str, statistics: dict[str, Any]) -> dict[str, Any]:
    """Contents of `config.json`; statistics: as in `dataset_statistics.json`."""
    tower: dict[str, Any] = {"width": size.width, "depth": size.depth, "heads": size.heads, "patch": 14, "mlp_ratio": 4}
    tower |= {"image_size": size.image_size, "layer_norm_eps": 1e-6}
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "name": name,
        "vision_backbone_id": f"dinosiglip-mini-{size.image_size}px",
        "llm_backbone_id": "llama-mini-pure",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "use_fused_vision_backbone": True,
        "image_resize_strategy": "resize-naive",
        "image_sizes": [size.image_size, size.image_size],
        "timm_override_act_layers": [None, None],
        "llm_max_length": 512,
        "pad_token_id": size.vocab_size,
        "pad_to_multiple_of": PAD_MULTIPLE,
        "n_action_bins": ACTION_BINS,
        "norm_stats": statistics,
        "action_convention": {"rotation": "euler_xyz", "gripper": "open_is_one"},
        "text_config": {
            "model_type": "llama",
            "vocab_size": size.vocab_size + PAD_MULTIPLE,
            "hidden_size": size.llama_width,
            "intermediate_size": size.llama_mlp,
            "num_hidden_layers": size.llama_depth,
            "num_attention_heads": size.llama_heads,
            "num_key_value_heads": size.llama_heads,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "pad_token_id": size.vocab_size,
            "bos_token_id": SPECIAL.index("<s>"),
            "eos_token_id": SPECIAL.index("</s>"),
            "tie_word_embeddings": False,
        },
        "torch_dtype": "bfloat16",
        "vision_towers": [
            {"kind": "dinov2_reg", **tower, "registers": size.registers},
            {"kind": "siglip", **tower},
        ],
    }


def mini_preprocessor(image_size: int) -> dict[str, Any]:
    """Contents of `preprocessor_config.json`."""
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, image_size, image_size]] * 2,
        "interpolations": ["bicubic", "bicubic"],
        "means": MEANS,
        "stds": STDS,
        "use_fused_vision_backbone": True,
    }


def mini_tokenizer(instructions: Sequence[str], vocab_size: int = 768) -> Tokenizer:
    """A Llama-like tokenizer trained on the prompts of `instructions`.

    Byte pairs with a fallback to bytes, so that any word has ids. Its last 256 ids are reserved for actions: no text
    becomes one of them. The padding token is the id after them.
    """
    prompts = [PROMPT.format(instruction=text.lower()) for text in instructions]
    alphabet = sorted({chr(c) for c in range(33, 127)} | {EMPTY, "\n"})
    room = vocab_size - ACTION_BINS - len(SPECIAL) - 256
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    normaliser = normalizers.Sequence([normalizers.Prepend(EMPTY), normalizers.Replace(" ", EMPTY)])
    trained.normalizer = normaliser
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(EMPTY, "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[\n?:.,]"), "isolated"),
        ]
    )
    trained.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=room, min_frequency=1, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    trained.train_from_iterator(prompts, trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    names = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    names += [f"<spare_{i}>" for i in range(vocab_size - ACTION_BINS - len(names))]
    names += [f"<action_{i}>" for i in range(ACTION_BINS)]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=False, byte_fallback=True))
    tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Sequence([decoders.Replace(EMPTY, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in [*SPECIAL, "<PAD>"]])
    return tokenizer


def initialise(model: OpenVla, seed: int) -> None:
    """Fresh weights in place: matrices of deviation fan-in^-1/2, biases 0, norms and layer scales 1.

    The towers' positions begin as two-dimensional sines, which a small model otherwise spends a while inventing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "mask_token")):
                parameter.zero_()
            elif "norm" in name or "layer_scale" in name:
                parameter.fill_(1.0)
            elif "token" in name:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
            else:
                deviation = parameter[0].numel() ** -0.5
                nn.init.trunc_normal_(parameter, std=deviation, a=-3.0, b=3.0, generator=generator)
        vision, (dino, siglip) = model.vision_backbone, model.spec.towers
        # timm gives the class token no position, and the file has no place for one.
        positions = vision.featurizer.embeddings.position_embeddings
        positions[0, 0] = 0.0
        positions[0, 1:] = _sines(round(dino.patches**0.5), dino.width)
        vision.fused_featurizer.embeddings.position_embedding.weight.copy_(
            _sines(round(siglip.patches**0.5), siglip.width)
        )


def _sines(side: int, width: int) -> torch.Tensor:
    """(side * side, width): sines and cosines of row and column at width / 4 frequencies."""
    frequencies = 0.5 * torch.pi * 2.0 ** -torch.linspace(0.0, 5.0, width // 4)
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return 0.5 * torch.cat([rows, columns], dim=-1).reshape(side * side, width)
