from pathlib import Path

import pytest

from grape_reward.keypoints.errors import KeypointsError, WeightsError
from grape_reward.keypoints.sources import feature_source, mask_source
from grape_reward.keypoints.weights import DINOV2, GROUNDING_DINO, SAM, Weights

ALL = [SAM, DINOV2, GROUNDING_DINO]
IDS = [one.title for one in ALL]


def filled(weights: Weights, folder: Path) -> Path:
    folder.mkdir()
    for name in weights.files:
        (folder / name).write_text("")
    return folder


def line(error: pytest.ExceptionInfo[WeightsError], *words: str) -> None:
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), error.value


@pytest.mark.parametrize("weights", ALL, ids=IDS)
def test_without_a_name_the_line_says_what_to_put_where(weights: Weights) -> None:
    with pytest.raises(WeightsError) as error:
        weights.folder(None, {})
    line(error, "model.safetensors", weights.source, weights.option, weights.variable)


@pytest.mark.parametrize("weights", ALL, ids=IDS)
def test_a_missing_file_is_named_with_its_place(weights: Weights, tmp_path: Path) -> None:
    folder = filled(weights, tmp_path / "weights")
    for name in weights.files:
        (folder / name).rename(tmp_path / "away")
        with pytest.raises(WeightsError) as error:
            weights.folder(folder, {})
        line(error, str(folder / name), weights.source, f"hf download {weights.source}")
        (tmp_path / "away").rename(folder / name)
    with pytest.raises(WeightsError) as error:
        weights.folder(tmp_path / "nowhere", {})
    line(error, str(tmp_path / "nowhere" / "model.safetensors"))


def test_a_folder_is_named_by_option_then_environment(tmp_path: Path) -> None:
    one, two = filled(SAM, tmp_path / "one"), filled(SAM, tmp_path / "two")
    assert SAM.folder(one, {"GRAPE_SAM": str(two)}) == one
    assert SAM.folder(None, {"GRAPE_SAM": str(two)}) == two
    assert SAM.folder(one / "model.safetensors", {}) == one
    with pytest.raises(WeightsError, match="no weights named"):
        SAM.folder(None, {"GRAPE_SAM": " "})


@pytest.mark.parametrize("name", ["sam_vit_b_01ec64.pth", "pytorch_model.bin", "sam.pt"])
def test_a_pickle_is_refused_with_the_reason_and_the_way_round(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    for named in (tmp_path / name, tmp_path):
        with pytest.raises(WeightsError) as error:
            SAM.folder(named, {})
        line(error, str(tmp_path / name), "pickle can run code", "facebook/sam-vit-base", "safetensors")


def test_absent_weights_are_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for weights in ALL:
        monkeypatch.delenv(weights.variable, raising=False)
    with pytest.raises(WeightsError, match="GRAPE_SAM"):
        mask_source("sam")
    with pytest.raises(WeightsError, match=r"GRAPE_DINOV2.*--features geometry"):
        feature_source("dinov2")
    with pytest.raises(WeightsError, match="GRAPE_GROUNDING_DINO"):
        mask_source("sam", text=["carrot"], sam=filled(SAM, tmp_path / "sam"))


def test_sources_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeypointsError, match="--text"):
        mask_source("labels.png", text=["carrot"])
    with pytest.raises(KeypointsError, match="--names"):
        mask_source("sam", names=["carrot"])
    with pytest.raises(KeypointsError, match="'dino'"):
        feature_source("dino")
    assert feature_source("geometry").described == "geometry"
