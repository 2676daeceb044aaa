"""OpenVLA's forward pass for acting: the weights of `model.OpenVla`, fewer and larger operations, no gradients.

`model.py` says what is computed (and what training differentiates); here the same is arranged for speed: joint
matrices, one patch projection without a convolution, no host synchronisation, shapes that do not depend on values.
So the whole action, six decodes included, can be captured as one CUDA graph.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from grape_policy.config import ConfigError
from grape_policy.groups import LinearGroup
from grape_policy.model import OpenVla

PACKED_BYTES = 1 << 28
"""Up to this size a model's matrices are held a second time as a CPU's library wants them."""


class _Block:
    """A pre-norm transformer block of a vision tower; `scales` are DINOv2's LayerScale vectors."""

    def __init__(self, heads: int, norms: list[nn.LayerNorm], groups: list[LinearGroup], scales: list[Tensor]) -> None:
        self.heads, self.norms, self.scales = heads, norms, scales
        self.qkv, self.out, self.fc1, self.fc2 = groups

    def __call__(self, x: Tensor, slot: int | None) -> Tensor:
        batch, count, width = x.shape
        qkv = self.qkv(self.norms[0](x), slot).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = self._add(x, self.out, mixed.transpose(1, 2).reshape(batch, count, width), slot, 0)
        return self._add(x, self.fc2, functional.gelu(self.fc1(self.norms[1](x), slot)), slot, 1)

    def _add(self, x: Tensor, group: LinearGroup, change: Tensor, slot: int | None, which: int) -> Tensor:
        if self.scales:
            return torch.addcmul(x, group(change, slot), self.scales[which])
        return group.add(x, change, slot)


class _Tower:
    """A vision tower up to its second-to-last block; (B, 3, S, S) -> (B, patches, width)."""

    def __init__(
        self, patch: LinearGroup, size: int, prefix: Tensor | None, positions: Tensor, blocks: list[_Block]
    ) -> None:
        self.patch, self.size, self.prefix, self.positions, self.blocks = patch, size, prefix, positions, blocks

    def __call__(self, pixels: Tensor, slot: int | None) -> Tensor:
        size = self.size
        batch, grid = pixels.shape[0], pixels.shape[-1] // size
        cut = pixels[..., : grid * size, : grid * size].reshape(batch, 3, grid, size, grid, size)
        flat = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, 3 * size * size)
        x = self.patch(flat, slot) + self.positions
        skip = 0
        if self.prefix is not None:
            skip = self.prefix.shape[1]
            x = torch.cat([self.prefix.expand(batch, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, slot)
        return x[:, skip:]


class _Norm:
    """Llama's root-mean-square norm: x w / sqrt(mean(x^2) + eps)."""

    def __init__(self, norm: Any) -> None:
        self.weight, self.eps = norm.weight, float(norm.variance_epsilon)
        width = self.weight.shape[0]
        # On a CPU a single row's norm is three times as fast as the sum of its small steps: mean(x^2) + eps is
        # (|x|^2 + width eps) / width. In half precision |x| itself would be rounded.
        self.by_length = self.weight.device.type == "cpu" and self.weight.dtype in (torch.float32, torch.float64)
        self.scaled = self.weight * math.sqrt(width)
        self.least = self.weight.new_tensor(math.sqrt(width * self.eps))

    def __call__(self, x: Tensor) -> Tensor:
        if not self.by_length:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * self.scaled).div_(torch.hypot(length, self.least))


class _Layer:
    """A Llama decoder layer."""

    def __init__(self, layer: Any, groups: list[LinearGroup]) -> None:
        attention = layer.self_attn
        self.norms = [_Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)]
        self.size = int(attention.head_dim)
        self.scale = float(attention.scaling)
        self.qkv, self.out, self.gate_up, self.down = groups
        self.heads = self.qkv.rows[0].stop // self.size
        self.kv_heads = (self.qkv.rows[1].stop - self.qkv.rows[1].start) // self.size

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor], slot: int | None) -> tuple[Tensor, Tensor]:
        """(B, N, width) -> rotated queries (B, heads, N, d), and rotated keys above values (B, 2 kv heads, N, d)."""
        batch, count, _ = x.shape
        joint = self.qkv(self.norms[0](x), slot).view(batch, count, -1, self.size).transpose(1, 2)
        turned = joint[:, : self.heads + self.kv_heads]
        cos, sin = rotary
        first, second = turned.chunk(2, dim=-1)
        swapped = torch.cat([second, first], dim=-1)
        turned.mul_(cos).addcmul_(swapped, sin)
        return joint[:, : self.heads], joint[:, self.heads :]

    def finish(self, x: Tensor, mixed: Tensor, slot: int | None) -> Tensor:
        """Residual stream (B, N, width) after the attention's result (B, N, heads * d) and the MLP."""
        x = self.out.add(x, mixed, slot)
        gate, up = self.gate_up(self.norms[1](x), slot).chunk(2, dim=-1)
        return self.down.add(x, functional.silu(gate).mul_(up), slot)


class Network:
    """The parts of one action: `embed` once, `prefill` once, `decode` six times."""

    @torch.no_grad()
    def __init__(self, model: OpenVla, mean: Tensor, std: Tensor) -> None:
        """mean, std: (1, 6, 1, 1), of both towers' normalisation. The model's weights are rearranged, not copied.

        Raises ConfigError for a language model with another activation than Llama's.
        """
        config = model.language_model.config
        if config.hidden_act != "silu":
            raise ConfigError(f"config.json: text_config.hidden_act {config.hidden_act!r} is not supported (silu is)")
        self.model, self.spec = model, model.spec
        weight = model.embeddings.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.mean, self.std = mean.to(self.device), std.to(self.device)
        self._names = {module: name for name, module in model.named_modules()}
        self.groups: dict[tuple[str, ...], LinearGroup] = {}
        towers = model.vision_backbone
        self._towers = [self._dino(towers.featurizer), self._siglip(towers.fused_featurizer)]
        projector = model.projector
        self._projector = [self._group(layer) for layer in (projector.fc1, projector.fc2, projector.fc3)]
        self.llama = model.language_model.model
        self.layers = [self._layer(layer) for layer in self.llama.layers]
        self._norm = _Norm(self.llama.norm)
        self._head = self._group(model.language_model.lm_head)
        self.positions = int(config.max_position_embeddings)
        self._rotary = self._tables(self.positions)
        if sum(group.weight.nbytes for group in self.groups.values()) <= PACKED_BYTES:
            for group in self.groups.values():
                group.pack()

    def _group(self, *layers: nn.Module) -> LinearGroup:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
        group = LinearGroup(linear)
        self.groups[tuple(self._names[layer] for layer in linear)] = group
        return group

    def _dino(self, tower: Any) -> _Tower:
        parts = tower.embeddings
        first = parts.cls_token + parts.position_embeddings[:, :1]
        blocks = []
        for layer in tower.encoder.layer[:-1]:
            a, mlp = layer.attention, layer.mlp
            groups = [self._group(a.q_proj, a.k_proj, a.v_proj), *map(self._group, (a.o_proj, mlp.fc1, mlp.fc2))]
            scales = [layer.layer_scale1.lambda1, layer.layer_scale2.lambda1]
            blocks.append(_Block(a.num_attention_heads, [layer.norm1, layer.norm2], groups, scales))
        prefix = torch.cat([first, parts.register_tokens], dim=1)
        patch, size = self._patch(parts.patch_embeddings.projection)
        return _Tower(patch, size, prefix, parts.position_embeddings[:, 1:], blocks)

    def _siglip(self, tower: Any) -> _Tower:
        parts = tower.embeddings
        blocks = []
        for layer in tower.encoder.layers[:-1]:
            a, mlp = layer.self_attn, layer.mlp
            groups = [self._group(a.q_proj, a.k_proj, a.v_proj), *map(self._group, (a.out_proj, mlp.fc1, mlp.fc2))]
            blocks.append(_Block(a.num_heads, [layer.layer_norm1, layer.layer_norm2], groups, []))
        patch, size = self._patch(parts.patch_embedding)
        return _Tower(patch, size, None, parts.position_embedding.weight[None], blocks)

    def _patch(self, layer: nn.Conv2d) -> tuple[LinearGroup, int]:
        """The patch projection as a layer over flattened windows, and the side of a window."""
        return self._group(layer), layer.kernel_size[0]

    def _layer(self, layer: Any) -> _Layer:
        a, mlp = layer.self_attn, layer.mlp
        groups = [self._group(a.q_proj, a.k_proj, a.v_proj), self._group(a.o_proj)]
        return _Layer(layer, [*groups, self._group(mlp.gate_proj, mlp.up_proj), self._group(mlp.down_proj)])

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (length, d): x * cos + swapped halves of x * sin is the rotation."""
        positions = torch.arange(length, device=self.device)[None]
        cos, sin = self.llama.rotary_emb(torch.empty(0, device=self.device, dtype=self.dtype), position_ids=positions)
        half = sin.shape[-1] // 2
        return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables at (B, N) positions: (B, 1, N, d) each."""
        cos, sin = self._rotary
        return cos[positions][:, None], sin[positions][:, None]

    def pixels(self, images: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 6, S, S) in the model's type, as `processing.Processor.pixels` computes them."""
        batch = images.permute(0, 3, 1, 2).float().div_(255.0)
        return torch.cat([batch, batch], dim=1).sub_(self.mean).div_(self.std).to(self.dtype)

    def embed(self, images: Tensor, text: Tensor, slot: int | None) -> Tensor:
        """Input embeddings [BOS, patches, rest of the prompt] of (B, S, S, 3) images and (B, L) ids, BOS first."""
        pixels = self.pixels(images)
        x = torch.cat([tower(part, slot) for tower, part in zip(self._towers, pixels.chunk(2, 1), strict=True)], dim=-1)
        for number, layer in enumerate(self._projector):
            x = layer(functional.gelu(x) if number else x, slot)
        tokens = self.llama.embed_tokens(text)
        return torch.cat([tokens[:, :1], x, tokens[:, 1:]], dim=1)

    def prefill(self, x: Tensor, last: Tensor, cache: Tensor, slot: int | None, padded: bool) -> Tensor:
        """Fill the cache's first N positions from embeddings (B, N, width); hidden state (B, 1, width) at `last` (B,).

        cache: (layers, B, 2 kv heads, at least N, d), keys above values. What stands behind `last` in a row is
        padding: causal attention keeps it out of everything before. padded: whether there is any.
        """
        batch, count, _ = x.shape
        cos, sin = self._rotary
        rotary = cos[None, None, :count], sin[None, None, :count]
        for number, layer in enumerate(self.layers):
            query, fresh = layer.project(x, rotary, slot)
            cache[number, :, :, :count] = fresh
            key, value = fresh[:, : layer.kv_heads], fresh[:, layer.kv_heads :]
            if number + 1 < len(self.layers):
                mixed = functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True, scale=layer.scale, enable_gqa=layer.heads != layer.kv_heads
                )
                x = layer.finish(x, mixed.transpose(1, 2).reshape(batch, count, -1), slot)
                continue
            # of the last layer only the last position is used
            mask = None
            if padded:
                ahead = torch.arange(count, device=self.device) > last[:, None]
                mask = attention_mask(ahead, self.dtype, layer.kv_heads)
                rows = torch.arange(batch, device=self.device)
                query, x = query[rows, :, last][:, :, None], x[rows, last][:, None]
            else:
                query, x = query[:, :, -1:], x[:, -1:]
            x = layer.finish(x, _attend(query, key, value, layer.scale, mask), slot)
        return x

    def decode(
        self,
        tokens: Tensor,
        rotary: tuple[Tensor, Tensor],
        at: int,
        cache: Tensor,
        mask: Tensor | None,
        slot: int | None,
    ) -> Tensor:
        """Hidden state (B, 1, width) of one more token (B,) a row, written at column `at` of the cache.

        rotary: tables (B, 1, 1, d) at the rows' own positions. mask: (B * kv heads, 1, at + 1) to add to the scores.
        """
        x = self.llama.embed_tokens(tokens[:, None])
        for number, layer in enumerate(self.layers):
            query, fresh = layer.project(x, rotary, slot)
            cache[number, :, :, at : at + 1] = fresh
            keys, values = cache[number, :, :, : at + 1].split(layer.kv_heads, dim=1)
            x = layer.finish(x, _attend(query, keys, values, layer.scale, mask), slot)
        return x

    def logits(self, hidden: Tensor, slot: int | None) -> Tensor:
        """(B, 1, width) -> (B, vocabulary), fp32."""
        return self._head(self._norm(hidden)[:, 0], slot).float()


def attention_mask(hidden: Tensor, dtype: torch.dtype, kv_heads: int) -> Tensor:
    """(B, N) true where nothing may look -> (B * kv heads, 1, N) to add to scores."""
    mask = torch.zeros(hidden.shape, device=hidden.device, dtype=dtype)
    return mask.masked_fill(hidden, float("-inf")).repeat_interleave(kv_heads, dim=0)[:, None]


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Attention of one query a row: (B, heads, 1, d) over (B, kv heads, N, d) -> (B, 1, heads * d).

    By three operations: matmul's search for the right one costs as much as the product itself on a small model.
    """
    batch, heads, _, size = query.shape
    rows, count = batch * keys.shape[1], keys.shape[2]
    added, weight = (query.new_empty(1), 0.0) if mask is None else (mask, 1.0)
    turned = keys.reshape(rows, count, size).transpose(1, 2)
    scores = torch.baddbmm(added, query.reshape(rows, -1, size), turned, beta=weight, alpha=scale)
    return torch.bmm(scores.softmax(dim=-1), values.reshape(rows, count, size)).view(batch, 1, heads * size)
