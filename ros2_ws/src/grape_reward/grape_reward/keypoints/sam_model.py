"""segment-anything's model, without torchvision and without pickle.

The package's ``__init__`` imports its mask generator, and that imports torchvision, which does not load beside a CPU
build of torch. Its model does not. So the package is opened under a name of our own whose ``__init__`` is not run;
nothing called torchvision appears in ``sys.modules``, where transformers and peft would take it for the real one.

Weights: safetensors, as published by ``facebook/sam-vit-base``, ``-large`` and ``-huge`` (transformers' names), or with
the names of the original checkpoint. The model's sizes are read from the tensors' shapes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from grape_reward.keypoints.errors import WeightsError

_ALIAS = "_grape_segment_anything"
# The number of heads of the mask decoder leaves no trace in any shape; every published model has eight.
_DECODER_HEADS = 8

Tensors = Mapping[str, torch.Tensor]


def part(name: str) -> ModuleType:
    """A module of segment-anything, e.g. ``modeling``. Raises WeightsError where the package is not installed."""
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise WeightsError("segment-anything is not installed: pip install segment-anything==1.0")
        package = ModuleType(_ALIAS)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.{name}")


def load_sam(file: Path, device: str = "cpu") -> Any:
    """segment-anything's ``Sam`` in evaluation mode. Raises WeightsError naming file and tensor."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file}: no safetensors: {error}") from None
    named = original_names(tensors)
    try:
        model = build_sam(named)
        model.load_state_dict(named)
    except KeyError as error:
        raise WeightsError(f"{file}: tensor {error.args[0]}: missing: these are no weights of SAM") from None
    except RuntimeError as error:
        raise WeightsError(f"{file}: does not fit SAM: {' '.join(str(error).split())}") from None
    return model.to(device).eval()


def build_sam(tensors: Tensors) -> Any:
    """A ``Sam`` of the sizes of these tensors (original names), not yet loaded. Raises KeyError naming a tensor."""
    modeling = part("modeling")
    width, _, patch, _ = tensors["image_encoder.patch_embed.proj.weight"].shape
    grid = tensors["image_encoder.pos_embed"].shape[1]
    prompt_width = tensors["image_encoder.neck.0.weight"].shape[0]
    depth = _count(tensors, r"image_encoder\.blocks\.(\d+)\.")
    reach = [tensors[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] for i in range(depth)]
    whole = [i for i in range(depth) if reach[i] == 2 * grid - 1]
    windows = {(length + 1) // 2 for i, length in enumerate(reach) if i not in whole}
    encoder = modeling.ImageEncoderViT(
        depth=depth,
        embed_dim=width,
        img_size=grid * patch,
        patch_size=patch,
        mlp_ratio=tensors["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=width // tensors["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=whole,
        window_size=max(windows, default=0),
        out_chans=prompt_width,
    )
    prompts = modeling.PromptEncoder(
        embed_dim=prompt_width,
        image_embedding_size=(grid, grid),
        input_image_size=(grid * patch, grid * patch),
        mask_in_chans=tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    transformer = modeling.TwoWayTransformer(
        depth=_count(tensors, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        embedding_dim=prompt_width,
        mlp_dim=tensors["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        num_heads=_DECODER_HEADS,
    )
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=tensors["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        transformer=transformer,
        transformer_dim=prompt_width,
        iou_head_depth=_count(tensors, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_head_hidden_dim=tensors["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )
    return modeling.Sam(encoder, prompts, decoder).eval()


# transformers' name -> the original one, in this order.
_RENAMED = (
    (r"^shared_image_embedding\.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
    (r"^image_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"\.neck\.conv1\.", ".neck.0."),
    (r"\.neck\.layer_norm1\.", ".neck.1."),
    (r"\.neck\.conv2\.", ".neck.2."),
    (r"\.neck\.layer_norm2\.", ".neck.3."),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm", r"\1.norm"),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
)
_HEAD = re.compile(
    r"^(.*(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.(proj_in|layers\.(\d+)|proj_out)\.(.*)$"
)
_TWICE = "prompt_encoder.shared_embedding.positional_embedding"


def original_names(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The tensors under the names of the original checkpoint; those that have them already stay as they are."""
    if not any(name.startswith("vision_encoder.") for name in tensors):
        return dict(tensors)
    depth = _count(tensors, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.") + 2
    named = {}
    for name, tensor in tensors.items():
        # transformers keeps the one positional matrix under two names.
        if name == _TWICE and "shared_image_embedding.positional_embedding" in tensors:
            continue
        name = name.replace(_TWICE, "shared_image_embedding.positional_embedding")
        head = _HEAD.match(name)
        if head:
            begin, which, inner, end = head.groups()
            layer = {"proj_in": 0, "proj_out": depth - 1}.get(which, int(inner or 0) + 1)
            if begin.startswith("mask_decoder.output_hypernetworks"):
                layer = 2 if which == "proj_out" else layer
            name = f"{begin}.layers.{layer}.{end}"
        for pattern, renamed in _RENAMED:
            name = re.sub(pattern, renamed, name)
        named[name] = tensor
    return named


def _count(tensors: Tensors, pattern: str) -> int:
    found = [int(match.group(1)) for name in tensors if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
