"""State-dict names: OpenVLA's (timm inside the towers) to this package's modules (transformers) and back.

timm keeps query, key and value in one matrix and gives the class token no position; transformers keeps three matrices
and a position for the class token. Everything else is a change of name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from grape_policy.config import TowerSpec, VlaSpec

DINO = "vision_backbone.featurizer."
SIGLIP = "vision_backbone.fused_featurizer."
UNUSED_PREFIX = SIGLIP + "attn_pool."
SCALE = re.compile(rf"^((?:{re.escape(DINO)}|{re.escape(SIGLIP)})blocks\.\d+\.ls[12])\.gamma$")
MASK_TOKEN = DINO + "embeddings.mask_token"


@dataclass(frozen=True)
class Rule:
    """One tensor of the file and the module tensors it makes. kind: plain, split (rows into three), position, table."""

    source: str
    targets: tuple[str, ...]
    kind: str = "plain"


def _block_rules(source: str, target: str, names: dict[str, str], attention: str) -> list[Rule]:
    rules = []
    for suffix in ("weight", "bias"):
        rules += [Rule(f"{source}{a}.{suffix}", (f"{target}{b}.{suffix}",)) for a, b in names.items()]
        parts = tuple(f"{target}{attention}.{letter}_proj.{suffix}" for letter in "qkv")
        rules.append(Rule(f"{source}attn.qkv.{suffix}", parts, "split"))
    return rules


def _dino_rules(tower: TowerSpec) -> list[Rule]:
    rules = [
        Rule(DINO + "cls_token", (DINO + "embeddings.cls_token",)),
        Rule(DINO + "reg_token", (DINO + "embeddings.register_tokens",)),
        Rule(DINO + "pos_embed", (DINO + "embeddings.position_embeddings",), "position"),
    ]
    for suffix in ("weight", "bias"):
        patch = f"{DINO}embeddings.patch_embeddings.projection.{suffix}"
        rules.append(Rule(f"{DINO}patch_embed.proj.{suffix}", (patch,)))
        rules.append(Rule(f"{DINO}norm.{suffix}", (f"{DINO}layernorm.{suffix}",)))
    names = {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")} | {"attn.proj": "attention.o_proj"}
    for i in range(tower.depth):
        source, target = f"{DINO}blocks.{i}.", f"{DINO}encoder.layer.{i}."
        rules += _block_rules(source, target, names, "attention")
        rules += [Rule(f"{source}ls{n}.scale_factor", (f"{target}layer_scale{n}.lambda1",)) for n in (1, 2)]
    return rules


def _siglip_rules(tower: TowerSpec) -> list[Rule]:
    rules = [Rule(SIGLIP + "pos_embed", (SIGLIP + "embeddings.position_embedding.weight",), "table")]
    for suffix in ("weight", "bias"):
        rules.append(Rule(f"{SIGLIP}patch_embed.proj.{suffix}", (f"{SIGLIP}embeddings.patch_embedding.{suffix}",)))
        rules.append(Rule(f"{SIGLIP}norm.{suffix}", (f"{SIGLIP}post_layernorm.{suffix}",)))
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    names["attn.proj"] = "self_attn.out_proj"
    for i in range(tower.depth):
        rules += _block_rules(f"{SIGLIP}blocks.{i}.", f"{SIGLIP}encoder.layers.{i}.", names, "self_attn")
    return rules


def tower_rules(spec: VlaSpec) -> dict[str, Rule]:
    """The rules of both towers by the file's name; names without a rule are the same on both sides."""
    return {rule.source: rule for rule in _dino_rules(spec.towers[0]) + _siglip_rules(spec.towers[1])}


def file_name(name: str) -> str:
    """The name of a tensor as OpenVLA's files have it; timm itself calls the factor of a LayerScale `gamma`."""
    return SCALE.sub(r"\1.scale_factor", name)


def to_module(rule: Rule | None, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The module tensors made of one tensor of the file. Raises ValueError when its shape cannot be taken apart."""
    if rule is None:
        return {name: tensor}
    if rule.kind == "split":
        if tensor.shape[0] % 3:
            raise ValueError(f"{name}: {tensor.shape[0]} rows are not three equal parts")
        return dict(zip(rule.targets, tensor.chunk(3), strict=True))
    if rule.kind == "position":
        return {rule.targets[0]: torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)}
    if rule.kind == "table":
        return {rule.targets[0]: tensor[0]}
    return {rule.targets[0]: tensor}


def to_openvla(spec: VlaSpec, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under OpenVLA's names; `state` is the module's state dict.

    The pooling head of the SigLIP tower, which OpenVLA's files carry and no output depends on, is written as zeros.
    """
    rest = dict(state)
    result: dict[str, Tensor] = {}
    rest.pop(MASK_TOKEN, None)
    for rule in tower_rules(spec).values():
        parts = [rest.pop(target) for target in rule.targets]
        if rule.kind == "position":
            # timm adds no position to the class token: what a trained row holds moves into the token itself.
            result[DINO + "cls_token"] = result[DINO + "cls_token"] + parts[0][:, :1]
            result[rule.source] = parts[0][:, 1:]
        elif rule.kind == "table":
            result[rule.source] = parts[0][None]
        else:
            result[rule.source] = torch.cat(parts) if len(parts) > 1 else parts[0]
    dtype = result[SIGLIP + "pos_embed"].dtype
    for name, shape in unused_shapes(spec.towers[1]).items():
        result[name] = torch.zeros(shape, dtype=dtype)
    return {name: tensor.contiguous() for name, tensor in (result | rest).items()}


def unused_shapes(tower: TowerSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of SigLIP's pooling head."""
    width, mlp = tower.width, tower.mlp_width
    layers = {"q": (width, width), "kv": (2 * width, width), "proj": (width, width)}
    layers |= {"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp)}
    shapes: dict[str, tuple[int, ...]] = {UNUSED_PREFIX + "latent": (1, 1, width)}
    for name, shape in layers.items():
        shapes[f"{UNUSED_PREFIX}{name}.weight"] = shape
        shapes[f"{UNUSED_PREFIX}{name}.bias"] = shape[:1]
    shapes |= {f"{UNUSED_PREFIX}norm.{suffix}": (width,) for suffix in ("weight", "bias")}
    return shapes


LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "patch_embed.proj")
LLAMA_LINEAR = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


def adaptable_modules(spec: VlaSpec) -> dict[str, tuple[str, ...]]:
    """Every module that a LoRA pair may be on: its name in OpenVLA's own code -> its names here.

    The patch embeddings are convolutions, all others are linear; a fused `qkv` is three modules here.
    """
    suffix = ".weight"
    modules = {
        rule.source.removesuffix(suffix): tuple(target.removesuffix(suffix) for target in rule.targets)
        for rule in tower_rules(spec).values()
        if rule.source.removesuffix(suffix).endswith(LINEAR)
    }
    layers = (f"language_model.model.layers.{i}" for i in range(int(spec.text["num_hidden_layers"])))
    same = [f"projector.fc{i}" for i in (1, 2, 3)] + [f"{layer}.{leaf}" for layer in layers for leaf in LLAMA_LINEAR]
    return modules | {name: (name,) for name in [*same, "language_model.lm_head"]}
