"""What helps a small model learn faster and is thrown away afterwards: auxiliary regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from grape_policy.config import ACTION_SIZE
from grape_policy.model import OpenVla

PLAIN_ATTENTION = "grape_plain"


class AuxiliaryHead(nn.Module):
    """Regresses keypoints from the patches and keypoints and action from the first action position.

    The patches are pooled by one learned query per task and keypoint, so that each query learns to look for
    one kind of object; the hidden state has to have read the instruction to name the same points.
    """

    def __init__(self, width: int, tasks: int, keypoints: int) -> None:
        super().__init__()
        self.keypoints = keypoints
        self.query = nn.Parameter(torch.randn(tasks, keypoints, width) * width**-0.5)
        self.key = nn.Linear(width, width)
        self.place = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))
        outputs = 3 * keypoints + ACTION_SIZE
        self.read = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))

    def forward(self, patches: Tensor, hidden: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """patches (B, P, width), hidden (B, width), task (B,) -> keypoints (B, K, 3) twice, action (B, 7)."""
        scores = self.query[task] @ self.key(patches).transpose(1, 2)
        pooled = scores.softmax(dim=-1) @ patches
        values = self.read(hidden)
        points = values[:, : 3 * self.keypoints].unflatten(-1, (self.keypoints, 3))
        return self.place(pooled), points, values[:, 3 * self.keypoints :]


def use_plain_attention(model: OpenVla) -> None:
    """Attention by two matrix products: for heads this small faster backwards than the CPU's fused kernel."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float = 1.0,
        **_: object,
    ) -> tuple[Tensor, None]:
        count = query.shape[2]
        scores = (query * scaling) @ key.transpose(2, 3)
        if module.is_causal:
            later = torch.full((count, count), -torch.inf, dtype=scores.dtype).triu(1)
            scores = scores + later
        return (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2), None

    AttentionInterface.register(PLAIN_ATTENTION, attention)
    vision = model.vision_backbone
    for part in (vision.featurizer, vision.fused_featurizer, model.language_model):
        part.config._attn_implementation = PLAIN_ATTENTION
