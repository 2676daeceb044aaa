"""For tests: a scene with known geometry, and tiny models with random weights in the files' real formats."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array, Pose
from grape_reward.camera import Calibration
from grape_reward.keypoints.frame import RgbdFrame


@dataclass(frozen=True, eq=False)
class BallScene:
    """Balls on a table (z = 0) under a camera that looks straight down; ``labels`` (H, W): 1 + the ball's index."""

    frame: RgbdFrame
    calibration: Calibration
    labels: NDArray[np.int32]
    middles: Array
    radius: float


def ball_scene(middles: Array, radius: float = 0.03, width: int = 160, height: int = 120) -> BallScene:
    """Rendered by rays. ``middles`` (N, 2): where the balls lie, metres, base frame; the camera is 0.8 m above the
    origin, the image's right is the base frame's x, its down is -y."""
    down = Pose(np.array([0.0, 0.0, 0.8]), np.array([1.0, 0.0, 0.0, 0.0]))
    lens = {"fx": float(width), "fy": float(width), "cx": (width - 1) / 2, "cy": (height - 1) / 2}
    calibration = Calibration(width, height, **lens, pose=down, camera="ball scene")
    v, u = np.indices((height, width))
    rays = calibration.deproject(np.stack([u, v], axis=-1), np.ones((height, width))) - calibration.eye
    depth = np.full((height, width), 0.8)
    labels = np.zeros((height, width), dtype=np.int32)
    color = np.full((height, width, 3), 120, dtype=np.uint8)
    centres = np.concatenate([middles, np.full((len(middles), 1), radius)], axis=1)
    for index, centre in enumerate(centres):
        away = calibration.eye - centre
        a, b, c = (rays**2).sum(-1), 2 * rays @ away, away @ away - radius**2
        square = b**2 - 4 * a * c
        hit = square > 0
        depth[hit] = ((-b[hit] - np.sqrt(square[hit])) / (2 * a[hit])).astype(float)
        labels[hit] = index + 1
        color[hit] = (40 + 60 * index % 200, 200 - 70 * index % 200, 90)
    return BallScene(RgbdFrame(color, depth.astype(np.float32)), calibration, labels, centres, radius)


def tiny_sam(folder: Path, seed: int = 0) -> Any:
    """transformers' SAM for 64 pixels, 2 layers, random; saved as ``model.safetensors``. Returns the model."""
    import torch
    from transformers import SamConfig, SamModel

    encoder = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    windows = {"window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 16, "mlp_dim": 64}
    config = SamConfig(
        vision_config={**encoder, **windows, "image_size": 64, "patch_size": 16},
        prompt_encoder_config=prompts,
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 48, "iou_head_hidden_dim": 24},
    )
    return _saved(SamModel(config), folder, torch.Generator().manual_seed(seed), 0.3)


def with_blobs(model: Any) -> Any:
    """A ``Sam`` whose prompts give masks of three sizes about each point, of various quality: a random decoder gives
    every point the same mask, and nothing to choose between. Everything else of the model stays."""
    import torch

    class Prompts(torch.nn.Module):
        def forward(self, points: Any, boxes: Any, masks: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return points[0][:, 0].float(), torch.zeros(())

        def get_dense_pe(self) -> torch.Tensor:
            return torch.zeros(())

    class Decoder(torch.nn.Module):
        def forward(self, sparse_prompt_embeddings: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
            size = model.image_encoder.img_size
            ticks = (torch.arange(size // 4) + 0.5) * 4
            v, u = torch.meshgrid(ticks, ticks, indexing="ij")
            at = sparse_prompt_embeddings[:, :, None, None, None]
            radius = size * torch.tensor([0.08, 0.16, 0.4])[:, None, None]
            gap = torch.sqrt((u - at[:, 0]) ** 2 + (v - at[:, 1]) ** 2)
            ripple = 3 * torch.sin(u * v / 40 + at[:, 0])
            quality = 0.6 + 0.4 * torch.sin(sparse_prompt_embeddings @ torch.tensor([[0.3], [0.7]]) + torch.arange(3))
            return radius - gap + ripple, quality

    model.prompt_encoder, model.mask_decoder = Prompts(), Decoder()
    return model


def tiny_dinov2(folder: Path, registers: bool = False) -> Any:
    """transformers' DINOv2 with patches of 14 pixels, random; saved as published. Returns the model."""
    import torch
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42}
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, patch_size=14, num_register_tokens=3))
        if registers
        else Dinov2Model(Dinov2Config(**sizes, patch_size=14))
    )
    return _saved(model, folder, torch.Generator().manual_seed(0), 0.2)


def tiny_grounding_dino(folder: Path, words: tuple[str, ...] = ("carrot", "plate")) -> Any:
    """transformers' GroundingDINO, random, with a tokenizer that knows ``words``. Returns the model."""
    import torch
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    folder.mkdir(parents=True, exist_ok=True)
    # The model looks for these numbers, BERT's, to tell one name from the next.
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    vocabulary = [special.get(number, f"[unused{number}]") for number in range(1030)] + list(words)
    _save_tokenizer(folder, vocabulary)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(vocabulary),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        max_text_len=16,
    )
    return _saved(GroundingDinoForObjectDetection(config), folder, torch.Generator().manual_seed(0), 0.1)


def _save_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    from tokenizers import BertWordPieceTokenizer

    numbers = {word: number for number, word in enumerate(vocabulary)}
    BertWordPieceTokenizer(vocab=numbers, lowercase=True).save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")


def _saved(model: Any, folder: Path, generator: Any, spread: float) -> Any:
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, spread, generator=generator)
    model.eval().save_pretrained(folder)
    return model
