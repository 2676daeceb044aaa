"""The automatic search, held to segment-anything's own generator."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.sam_masks import SamMasks, SamSettings, bounding_box, sam_masks, stability
from grape_reward.keypoints.sam_model import load_sam
from grape_reward.keypoints.testing import tiny_sam, with_blobs

REFERENCE = Path(__file__).parent / "sam_generator_reference.py"
SETTINGS = {"points_per_side": 6, "points_per_batch": 8, "predicted_iou": 0.4, "stability": 0.5}


@pytest.mark.parametrize("min_area", [0, 12])
def test_it_finds_what_the_generator_finds(tmp_path: Path, min_area: int) -> None:
    tiny_sam(tmp_path / "sam")
    weights = tmp_path / "sam" / "model.safetensors"
    ramp = np.linspace(0, 255, 50 * 70).reshape(50, 70, 1)
    color = np.clip(ramp * [1.0, 0.5, 0.2] + np.random.default_rng(3).normal(0, 40, (50, 70, 3)), 0, 255)
    np.save(tmp_path / "image.npy", color.astype(np.uint8))
    command = [sys.executable, str(REFERENCE), str(weights), str(tmp_path / "image.npy"), str(tmp_path / "out.npz")]
    subprocess.run([*command, str(min_area)], check=True, timeout=120)
    with np.load(tmp_path / "out.npz") as theirs:
        regions, scores = theirs["regions"], theirs["scores"]
    settings = SamSettings(**SETTINGS, stability_offset=1.0, overlap=0.6, min_area=min_area)
    ours = SamMasks(with_blobs(load_sam(weights)), settings)(color.astype(np.uint8))
    assert 10 <= len(ours) == len(regions) < 70
    assert (np.stack([mask.region for mask in ours]) == regions).all()
    np.testing.assert_allclose([mask.score for mask in ours], scores, atol=1e-6)


def test_where_nothing_is_sure_there_is_no_mask(tmp_path: Path) -> None:
    tiny_sam(tmp_path)
    told: list[tuple[int, int, str]] = []
    settings = SamSettings(points_per_side=2, points_per_batch=3, predicted_iou=100.0)
    source = sam_masks(tmp_path / "model.safetensors", settings, report=lambda *said: told.append(said))
    assert source(np.zeros((48, 64, 3), dtype=np.uint8)) == []
    assert told == [(0, 4, "image"), (0, 4, "points"), (3, 4, "points"), (4, 4, "points")]


def test_stability_is_the_share_that_survives_a_higher_cut() -> None:
    logits = torch.tensor([[[3.0, 0.5], [-0.5, -3.0]], [[-9.0, -9.0], [-9.0, -9.0]], [[9.0, 9.0], [9.0, 9.0]]])
    assert stability(logits, 0.0, 1.0).tolist() == [pytest.approx(1 / 3), 0.0, 1.0]


def test_a_box_holds_the_first_and_the_last_pixels() -> None:
    region = np.zeros((10, 20), dtype=bool)
    assert bounding_box(region).tolist() == [0, 0, 0, 0]
    region[3, 4], region[7, 15] = True, True
    assert bounding_box(region).tolist() == [4, 3, 15, 7]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(KeypointsError, match="points_per_side"):
        SamSettings(points_per_side=0)
