"""`grape keypoints propose`: files in, keypoints out; wrong use ends in one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from grape.cli import app
from grape.console import guarded
from grape_reward.camera import calibration_hash
from grape_reward.keypoints.result import load_proposal
from grape_reward.keypoints.testing import ball_scene, tiny_dinov2, tiny_sam

SCENE = ball_scene(np.array([[-0.15, 0.0], [0.12, 0.1]]), radius=0.04)
WEIGHTS = ("GRAPE_SAM", "GRAPE_DINOV2", "GRAPE_GROUNDING_DINO")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    Image.fromarray(SCENE.frame.color).save(tmp_path / "color.png")
    Image.fromarray(np.round(SCENE.frame.depth * 1000).astype(np.uint16)).save(tmp_path / "depth.png")
    Image.fromarray(SCENE.labels.astype(np.uint8)).save(tmp_path / "labels.png")
    SCENE.calibration.save(tmp_path / "camera.yaml")
    return tmp_path


Propose = Callable[..., tuple[int, str, str]]


@pytest.fixture
def propose(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Propose:
    """The command in this process, as ``main`` runs it: exit status, stdout, stderr."""
    for name in WEIGHTS:
        monkeypatch.delenv(name, raising=False)

    def run(*more: str, masks: str = "labels.png", **changed: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = guarded(lambda: app(arguments(files, *more, masks=masks, **changed), standalone_mode=False))
        return code, *capsys.readouterr()

    return run


def arguments(files: Path, *more: str, masks: str, **changed: str) -> list[str]:
    names = {"color": "color.png", "depth": "depth.png", "calibration": "camera.yaml", **changed}
    given = [word for option, name in names.items() for word in (f"--{option}", str(files / name))]
    source = masks if masks == "sam" else str(files / masks)
    return ["keypoints", "propose", *given, "--masks", source, "--out", str(files / "out"), *more]


def refused(done: tuple[int, str, str], *words: str) -> None:
    code, _, told = done
    lines = [line for line in told.splitlines() if line.strip()]
    assert code == 1 and len(lines) == 1 and lines[0].startswith("grape: "), done
    for word in words:
        assert word in lines[0], lines[0]


def test_keypoints_come_with_names_points_overlay_and_the_calibrations_hash(files: Path) -> None:
    given = arguments(files, "--features", "geometry", "--names", "red, green", masks="labels.png")
    command = [sys.executable, "-m", "grape.cli", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = load_proposal(files / "out" / "keypoints.json")
    assert told.calibration == calibration_hash(files / "camera.yaml")
    assert {one.name for one in told.keypoints} == {"red", "green"} and told.features == "geometry"
    for one in told.keypoints:
        assert np.linalg.norm(np.array(one.point) - SCENE.middles[one.mask]) <= SCENE.radius + 2e-3
    assert (files / "out" / "overlay.png").is_file() and (files / "out" / "masks.png").is_file()
    assert "geometry" in done.stdout and f"--keypoints {len(told.keypoints)}" in done.stdout


def test_pretrained_models_are_taken_from_their_folders(files: Path, propose: Propose) -> None:
    """The whole way with weights: random ones, so that only that they are used can be seen, not what they see."""
    tiny_sam(files / "sam")
    tiny_dinov2(files / "dinov2")
    named = ["--sam", str(files / "sam"), "--dinov2", str(files / "dinov2")]
    code, _, told = propose(*named)
    assert code == 0, told
    assert json.loads((files / "out" / "keypoints.json").read_text())["features"] == "dinov2 dinov2"
    save_file({"layernorm.bias": torch.zeros(16)}, files / "dinov2" / "model.safetensors", {"format": "pt"})
    refused(propose(*named), str(files / "dinov2"), "tensors are missing")
    named = ["--sam", str(files / "sam"), "--features", "geometry"]
    # A random SAM is sure of nothing.
    refused(propose(*named, "--points", "4", masks="sam"), "segment-anything: no mask in the image")


def test_absent_weights_end_in_one_line_that_says_what_goes_where(files: Path, propose: Propose) -> None:
    refused(propose(), "DINOv2", "model.safetensors", "facebook/dinov2-small", "GRAPE_DINOV2", "geometry")
    geometry = ("--features", "geometry")
    refused(propose(*geometry, masks="sam"), "segment-anything", "facebook/sam-vit-base", "GRAPE_SAM")
    (files / "sam.pth").write_bytes(b"")
    refused(propose(*geometry, "--sam", str(files / "sam.pth"), masks="sam"), "sam.pth", "pickle")


def test_wrong_files_and_arguments_are_named(files: Path, propose: Propose) -> None:
    (files / "text.png").write_text("hello")
    small = ball_scene(np.array([[0.0, 0.0]]), width=80, height=60)
    small.calibration.save(files / "small.yaml")
    geometry = ("--features", "geometry")
    refused(propose(*geometry, color="text.png"), "text.png")
    refused(propose(*geometry, depth="color.png"), "color.png", "16 bits")
    refused(propose(*geometry, calibration="none.yaml"), "none.yaml")
    refused(propose(*geometry, calibration="small.yaml"), "color.png", "160x120", "80x60")
    refused(propose(*geometry, masks="none.png"), "none.png")
    refused(propose(*geometry, "--workspace", "0 1 2"), "--workspace", "six numbers")
    refused(propose(*geometry, "--workspace", "1 0 0 0 1 1"), "workspace")
    refused(propose(*geometry, "--text", "carrot"), "--text")
    refused(propose(*geometry, "--names", "a,,b"), "a,,b")
    assert not (files / "out").exists()
