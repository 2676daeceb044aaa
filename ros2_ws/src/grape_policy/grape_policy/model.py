"""OpenVLA as a module: two vision towers, a projector and a Llama, with transformers' building blocks.

The sequence of the language model is `[BOS, patch embeddings, rest of the prompt, action tokens, padding]`. With the
padding on the right, causal attention alone keeps every token from seeing it: batches of different prompt lengths
need no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.llama.modeling_llama import (
    LlamaModel,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from grape_policy.config import TowerSpec, VlaSpec

ATTENTION = "sdpa"


class KeyValueStore(Protocol):
    """What an attention layer asks of a cache: put new keys and values (B, heads, N, d) in, get all so far."""

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]: ...


def _dinov2(tower: TowerSpec) -> Dinov2WithRegistersModel:
    # SwiGLU off, erf GELU: what timm's vit_*_reg4_dinov2 computes.
    config = Dinov2WithRegistersConfig(
        hidden_size=tower.width,
        num_hidden_layers=tower.depth,
        num_attention_heads=tower.heads,
        mlp_ratio=max(1, tower.mlp_width // tower.width),
        hidden_act="gelu",
        layer_norm_eps=tower.layer_norm_eps,
        image_size=tower.image_size,
        patch_size=tower.patch,
        num_register_tokens=tower.registers,
    )
    config._attn_implementation = ATTENTION
    model = Dinov2WithRegistersModel(config)
    if tower.mlp_width % tower.width:
        # transformers knows whole ratios only
        for layer in model.encoder.layer:
            mlp = layer.get_submodule("mlp")
            mlp.fc1 = nn.Linear(tower.width, tower.mlp_width)
            mlp.fc2 = nn.Linear(tower.mlp_width, tower.width)
    return model


def _siglip(tower: TowerSpec) -> SiglipVisionModel:
    # timm 0.9 computes the exact GELU here although SigLIP's own configuration says tanh.
    config = SiglipVisionConfig(
        hidden_size=tower.width,
        intermediate_size=tower.mlp_width,
        num_hidden_layers=tower.depth,
        num_attention_heads=tower.heads,
        hidden_act="gelu",
        layer_norm_eps=tower.layer_norm_eps,
        image_size=tower.image_size,
        patch_size=tower.patch,
        vision_use_head=False,
    )
    config._attn_implementation = ATTENTION
    return SiglipVisionModel(config)


class VisionBackbone(nn.Module):
    """DINOv2 (`featurizer`) beside SigLIP (`fused_featurizer`); features of the second-to-last block, no final norm."""

    def __init__(self, spec: VlaSpec) -> None:
        super().__init__()
        self.featurizer = _dinov2(spec.towers[0])
        self.fused_featurizer = _siglip(spec.towers[1])
        self.prefix = 1 + spec.towers[0].registers

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 6, S, S) normalised images -> (B, patches, width of both towers)."""
        dino = self.featurizer.embeddings(pixels[:, :3])
        for layer in self.featurizer.encoder.layer[:-1]:
            dino = layer(dino)
        siglip = self.fused_featurizer.embeddings(pixels[:, 3:])
        for layer in self.fused_featurizer.encoder.layers[:-1]:
            siglip = layer(siglip, None)
        return torch.cat([dino[:, self.prefix :], siglip], dim=-1)

    def unused_parameters(self) -> list[nn.Parameter]:
        """Parameters that no output depends on: the last blocks and final norms."""
        modules = [self.featurizer.encoder.layer[-1], self.featurizer.layernorm]
        modules += [self.fused_featurizer.encoder.layers[-1], self.fused_featurizer.post_layernorm]
        return [*(p for m in modules for p in m.parameters()), self.featurizer.embeddings.mask_token]


class Projector(nn.Module):
    """Patch features to the language model's width, two GELUs between three layers."""

    def __init__(self, vision_width: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, hidden_size)
        self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        return self.fc3(gelu(self.fc2(gelu(self.fc1(features)))))


def run_llama(llama: LlamaModel, embeddings: Tensor, start: int = 0, store: KeyValueStore | None = None) -> Tensor:
    """Hidden states after the final norm.

    embeddings: (B, N, width) at the positions start .. start + N - 1. With `store`, N is the whole prefix or one
    token. Returns (B, N, width).
    """
    rotary = _rotary(llama, embeddings, start)
    hidden = embeddings
    for layer in llama.layers:
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, past_key_values=store)
    return llama.norm(hidden)


def run_llama_at(llama: LlamaModel, embeddings: Tensor, at: Tensor) -> Tensor:
    """As `run_llama` on (B, N, width), but only at the positions `at` (B, K): returns (B, K, width).

    The last layer computes keys and values everywhere and all the rest at `at` alone.
    """
    rotary = _rotary(llama, embeddings, 0)
    hidden = embeddings
    for layer in llama.layers[:-1]:
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
    return llama.norm(_layer_at(llama.layers[-1], hidden, rotary, at))


def _rotary(llama: LlamaModel, embeddings: Tensor, start: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(start, start + embeddings.shape[1], device=embeddings.device).unsqueeze(0)
    return llama.rotary_emb(embeddings, position_ids=positions)


def _layer_at(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], at: Tensor) -> Tensor:
    """A LlamaDecoderLayer, its queries at `at` only."""
    attention, (batch, count) = layer.self_attn, at.shape
    normed = layer.input_layernorm(hidden)
    rows = torch.arange(batch, device=at.device)[:, None]

    def heads(projected: Tensor) -> Tensor:
        return projected.view(batch, projected.shape[1], -1, attention.head_dim).transpose(1, 2)

    cos, sin = rotary
    query, key = heads(attention.q_proj(normed[rows, at])), heads(attention.k_proj(normed))
    query, _ = apply_rotary_pos_emb(query, query, cos[0][at], sin[0][at])
    key, _ = apply_rotary_pos_emb(key, key, cos, sin)
    value = heads(attention.v_proj(normed))
    visible = torch.arange(hidden.shape[1], device=at.device) <= at[:, :, None]
    mixed = nn.functional.scaled_dot_product_attention(
        query,
        key.to(query.dtype),
        value.to(query.dtype),
        attn_mask=visible[:, None],
        scale=attention.scaling,
        enable_gqa=attention.num_key_value_groups > 1,
    )
    hidden = hidden[rows, at] + attention.o_proj(mixed.transpose(1, 2).reshape(batch, count, -1))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


class OpenVla(nn.Module):
    """The whole model. Submodules carry OpenVLA's names; `keys.py` translates the names inside the towers."""

    def __init__(self, spec: VlaSpec) -> None:
        super().__init__()
        self.spec = spec
        self.vision_backbone = VisionBackbone(spec)
        self.projector = Projector(spec.vision_width, spec.hidden_size)
        config = LlamaConfig(**spec.text)
        config._attn_implementation = ATTENTION
        self.language_model = LlamaForCausalLM(config)

    def reset_rotary(self, device: torch.device | str) -> None:
        """Make the rotary frequencies afresh in fp32: casts of the module round them, which shifts logits by 5e-3."""
        llama = self.language_model.model
        llama.rotary_emb = LlamaRotaryEmbedding(llama.config).to(device)

    def make_buffers(self, device: torch.device | str) -> None:
        """Make what no checkpoint holds: for a module that was built on the meta device and then filled."""
        self.reset_rotary(device)
        siglip = self.vision_backbone.fused_featurizer.embeddings
        positions = torch.arange(siglip.num_positions, device=device).expand((1, -1))
        siglip.register_buffer("position_ids", positions, persistent=False)

    @property
    def embeddings(self) -> nn.Embedding:
        return self.language_model.model.embed_tokens

    def patch_embeddings(self, pixels: Tensor) -> Tensor:
        """(B, 6, S, S) -> (B, patches, width of the language model)."""
        return self.projector(self.vision_backbone(pixels))

    def insert_patches(self, patches: Tensor, text: Tensor) -> Tensor:
        """Input embeddings `[BOS, patches, rest]` of (B, P, width) patches and (B, L) ids that begin with BOS."""
        tokens = self.embeddings(text)
        return torch.cat([tokens[:, :1], patches.to(tokens.dtype), tokens[:, 1:]], dim=1)

    def action_logits(self, pixels: Tensor, prompts: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """Teacher-forced logits at the action positions only.

        pixels (B, 6, S, S); prompts: B id vectors of any lengths; tokens (B, K) action ids. Returns (B, K, vocabulary).
        """
        return self.language_model.lm_head(self.action_hidden(pixels, prompts, tokens))

    def action_hidden(self, pixels: Tensor, prompts: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """Hidden states (B, K, width) from which the K action tokens are predicted; arguments as `action_logits`."""
        patches = self.patch_embeddings(pixels)
        return self.hidden_after(patches, prompts, tokens)

    def hidden_after(self, patches: Tensor, prompts: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """As `action_hidden`, from the patch embeddings (B, P, width) on."""
        device, count = patches.device, tokens.shape[1]
        lengths = [len(prompt) for prompt in prompts]
        text = torch.full((len(prompts), max(lengths) + count - 1), self.spec.pad_token_id, device=device)
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            text[row, :length] = prompt
            text[row, length : length + count - 1] = tokens[row, : count - 1]
        first = torch.tensor(lengths, device=device) + patches.shape[1] - 1
        at = first[:, None] + torch.arange(count, device=device)
        return run_llama_at(self.language_model.model, self.insert_patches(patches, text), at)

    def forward(self, pixels: Tensor, prompts: Sequence[Tensor], actions: Tensor | None = None) -> Tensor:
        """Logits (B, 7, vocabulary) of the given action tokens, or (B, 1, vocabulary) of the first one without them."""
        if actions is None:
            actions = torch.full((len(prompts), 1), self.spec.pad_token_id, device=pixels.device)
        return self.action_logits(pixels, prompts, actions)
