from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from grape_reward.keypoints.dinov2 import load_dinov2
from grape_reward.keypoints.errors import WeightsError
from grape_reward.keypoints.testing import tiny_dinov2, tiny_grounding_dino

COLOR = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
CLOUD = np.zeros((60, 90, 3))


@pytest.mark.parametrize("registers", [False, True])
def test_features_are_the_last_layers_patches(tmp_path: Path, registers: bool) -> None:
    theirs = tiny_dinov2(tmp_path / "dinov2-tiny", registers)
    features = load_dinov2(tmp_path / "dinov2-tiny")
    assert features.described == "dinov2 dinov2-tiny"
    found = features(COLOR, CLOUD)
    # By hand: 60 x 90 pixels hold 4 x 6 patches of 14; then the class token and the registers are cut off.
    small = np.asarray(Image.fromarray(COLOR).resize((84, 56), Image.Resampling.BILINEAR)) / 255.0
    scaled = ((small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    with torch.inference_mode():
        tokens = theirs(torch.tensor(scaled[None], dtype=torch.float32)).last_hidden_state
    assert tokens.shape == (1, 24 + 1 + 3 * registers, 16)
    np.testing.assert_allclose(found.grid.reshape(24, 16), tokens[0, 1 + 3 * registers :].numpy(), atol=1e-4)
    assert (found.height, found.width) == (60, 90)
    assert found.grid.std() > 0.1


def test_an_image_below_a_patch_is_one_patch(tmp_path: Path) -> None:
    tiny_dinov2(tmp_path)
    assert load_dinov2(tmp_path)(COLOR[:10, :10], CLOUD).grid.shape == (1, 1, 16)


def test_another_model_or_a_damaged_one_is_named(tmp_path: Path) -> None:
    tiny_grounding_dino(tmp_path / "other")
    tiny_dinov2(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text("hello")
    tiny_dinov2(tmp_path / "swapped")
    save_file(
        {"embeddings.cls_token": torch.zeros(1, 1, 16)}, tmp_path / "swapped" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(WeightsError, match=r"swapped: \d+ tensors are missing"):
        load_dinov2(tmp_path / "swapped")
    for name, word in (("other", "grounding-dino"), ("cut", "cannot be loaded"), ("text", "cannot be loaded")):
        with pytest.raises(WeightsError, match=word) as error:
            load_dinov2(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
