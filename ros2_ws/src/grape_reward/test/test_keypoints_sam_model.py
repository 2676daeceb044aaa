"""segment-anything's model with transformers' weights, held to transformers' own SAM."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SamConfig, SamModel

from grape_reward.keypoints.errors import WeightsError
from grape_reward.keypoints.sam_masks import Segmenter
from grape_reward.keypoints.sam_model import build_sam, load_sam, original_names, part
from grape_reward.keypoints.testing import tiny_sam

COLOR = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
MEAN, STD = (torch.tensor(x).view(1, 3, 1, 1) for x in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sam")
    tiny_sam(place)
    return place


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_sam(tmp_path_factory.mktemp("same"))


def pixels() -> torch.Tensor:
    scaled = (torch.from_numpy(COLOR).permute(2, 0, 1)[None] - MEAN) / STD
    return torch.nn.functional.pad(scaled, (0, 0, 0, 16))


def upsampled(low: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(low, (64, 64), mode="bilinear")[..., :48, :64]


def test_masks_at_points_are_transformers_masks(folder: Path, theirs: Any) -> None:
    segmenter = Segmenter(load_sam(folder / "model.safetensors"))
    segmenter.look(COLOR)
    points = np.array([[10.0, 20.0], [40.0, 30.0], [0.0, 0.0]])
    logits, quality = segmenter.at_points(points)
    with torch.inference_mode():
        told = theirs(pixel_values=pixels(), input_points=torch.tensor(points, dtype=torch.float32)[None, :, None])
    assert logits.std() > 0.01
    torch.testing.assert_close(quality, told.iou_scores[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, upsampled(told.pred_masks[0]), atol=1e-4, rtol=1e-4)


def test_masks_in_boxes_are_transformers_masks(folder: Path, theirs: Any) -> None:
    segmenter = Segmenter(load_sam(folder / "model.safetensors"))
    segmenter.look(COLOR)
    boxes = np.array([[5.0, 6.0, 30.0, 40.0], [0.0, 0.0, 63.0, 47.0]])
    logits, _ = segmenter.in_boxes(boxes)
    with torch.inference_mode():
        told = theirs(
            pixel_values=pixels(),
            input_boxes=torch.tensor(boxes, dtype=torch.float32)[None],
            multimask_output=False,
        )
    torch.testing.assert_close(logits, upsampled(told.pred_masks[0]), atol=1e-4, rtol=1e-4)


def test_weights_under_their_original_names_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    named = original_names(load_file(folder / "model.safetensors"))
    assert original_names(named) == named
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, tmp_path / "sam.safetensors")
    one, other = load_sam(folder / "model.safetensors"), load_sam(tmp_path / "sam.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_weights_of_something_else_are_named(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    dropped, bent = dict(tensors), dict(tensors)
    del dropped["vision_encoder.pos_embed"]
    bent["mask_decoder.iou_token.weight"] = torch.zeros(2, 32)
    save_file(dropped, tmp_path / "dropped.safetensors")
    save_file(bent, tmp_path / "bent.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello there, hello there")
    wrong = {"dropped": "pos_embed", "bent": "iou_token", "other": "image_encoder", "text": "no safetensors"}
    for name, word in {**wrong, "none": "no safetensors"}.items():
        with pytest.raises(WeightsError, match=word) as error:
            load_sam(tmp_path / f"{name}.safetensors")
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_torchvision_is_neither_needed_nor_faked(folder: Path) -> None:
    """In a process of its own: torchvision cannot be imported, and nothing of that name is left where transformers and
    peft would look."""
    script = f"""
import sys
import importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "torchvision":
            raise ImportError("torchvision was asked for")
sys.meta_path.insert(0, Block())
import numpy as np
from pathlib import Path
from grape_reward.keypoints.sam_masks import SamSettings, sam_masks
color = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
settings = SamSettings(points_per_side=4, predicted_iou=-10.0, stability=0.0, overlap=0.99)
print(len(sam_masks(Path({str(folder / "model.safetensors")!r}), settings)(color)))
assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]
assert "segment_anything" not in sys.modules
sys.meta_path.pop(0)
import importlib.util
from transformers.utils import is_torchvision_available
assert is_torchvision_available() == (importlib.util.find_spec("torchvision") is not None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


@pytest.mark.parametrize(("size", "width", "depth", "heads"), [("b", 768, 12, 12), ("l", 1024, 24, 16)])
def test_the_published_sizes_are_the_packages_own(size: str, width: int, depth: int, heads: int) -> None:
    """Without a byte of weights: transformers' tensors, renamed, have the shapes of segment-anything's own models, and
    the model built from them looks around as these do."""
    whole = {"b": [2, 5, 8, 11], "l": [5, 11, 17, 23]}[size]
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "mlp_dim": 4 * width}
    with torch.device("meta"):
        tensors = original_names(
            SamModel(SamConfig(vision_config={**sizes, "global_attn_indexes": whole})).state_dict()
        )
        ours, package = build_sam(tensors), getattr(part("build_sam"), f"build_sam_vit_{size}")()
    shapes = {name: tuple(tensor.shape) for name, tensor in package.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == shapes
    for mine, its in zip(ours.image_encoder.blocks, package.image_encoder.blocks, strict=True):
        assert mine.window_size == its.window_size and mine.attn.num_heads == its.attn.num_heads
    assert ours.image_encoder.img_size == package.image_encoder.img_size == 1024
    assert ours.prompt_encoder.mask_input_size == package.prompt_encoder.mask_input_size
