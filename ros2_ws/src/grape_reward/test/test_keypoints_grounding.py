"""Text-grounded masks on a tiny random GroundingDINO, held to transformers' own preparation and reading of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.grounding_dino.processing_grounding_dino import GroundingDinoProcessor

from grape_reward.keypoints.errors import KeypointsError, WeightsError
from grape_reward.keypoints.grounding import (
    Detection,
    Detector,
    GroundedMasks,
    GroundingSettings,
    load_detector,
    prompt,
)
from grape_reward.keypoints.sam_masks import Segmenter
from grape_reward.keypoints.sam_model import load_sam
from grape_reward.keypoints.testing import tiny_dinov2, tiny_grounding_dino, tiny_sam

COLOR = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
SMALL = {"short": 64, "long": 96}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grounding")
    tiny_grounding_dino(place)
    return place


class Recorder:
    """The model, and what it last answered."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config, self.device = model.config, model.device

    def __call__(self, **given: torch.Tensor) -> Any:
        self.given, self.answer = given, self._model(**given)
        return self.answer


def test_boxes_and_scores_are_transformers_own(folder: Path) -> None:
    detector = load_detector(folder, GroundingSettings(**SMALL))
    detector._model = model = Recorder(detector._model)
    boxes, scores = detector.scores(COLOR, ["carrot", "plate"])
    told = GroundingDinoProcessor.post_process_grounded_object_detection(
        type("Reader", (), {"tokenizer": detector._tokenizer, "batch_decode": lambda self, x: [""] * len(x)})(),
        model.answer,
        input_ids=model.given["input_ids"],
        threshold=0.0,
        text_threshold=0.0,
        target_sizes=[(48, 64)],
    )[0]
    np.testing.assert_allclose(boxes, np.clip(told["boxes"].numpy(), 0, [63, 47, 63, 47]), atol=1e-3)
    # Tokens: [CLS] carrot . plate . [SEP]
    np.testing.assert_allclose(scores, model.answer.logits[0].sigmoid()[:, [1, 3]].numpy(), atol=1e-6)
    prepared = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})(
        COLOR, return_tensors="pt"
    )
    torch.testing.assert_close(model.given["pixel_values"], prepared["pixel_values"])
    assert (model.given["pixel_mask"] == prepared["pixel_mask"]).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400))
def test_images_are_prepared_as_for_the_models_training(height: int, width: int) -> None:
    color = np.zeros((height, width, 3), dtype=np.uint8)
    size = {"shortest_edge": 80, "longest_edge": 133}
    theirs = GroundingDinoImageProcessorPil(size=size)(color, return_tensors="pt")["pixel_values"]
    model = type("Model", (), {"device": "cpu"})()
    assert Detector(model, None, GroundingSettings(short=80, long=133))._pixels(color).shape == theirs.shape


def test_a_name_of_two_words_has_all_its_tokens() -> None:
    text, spans = prompt(["Green Cube", " plate"])
    assert text == "green cube. plate."
    assert [text[begin:end] for begin, end in spans] == ["green cube", "plate"]


@pytest.mark.parametrize("names", [[], [""], ["carrot", " "], ["a.b"], ["what?"]])
def test_names_that_would_confuse_the_model_are_refused(names: list[str]) -> None:
    with pytest.raises(KeypointsError, match="names"):
        prompt(names)


def test_a_text_too_long_for_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(KeypointsError, match="names: 34 tokens, the model reads 16"):
        load_detector(folder).scores(COLOR, ["carrot"] * 16)


class Told(Detector):
    """Four boxes, their scores as told."""

    def __init__(self, scores: list[list[float]], least: float) -> None:
        self.settings = GroundingSettings(score=least)
        self._scores = np.array(scores)

    def scores(self, color: np.ndarray, names: Any) -> tuple[np.ndarray, np.ndarray]:
        boxes = [[0, 0, 20, 20], [1, 1, 20, 20], [30, 30, 40, 40], [50, 10, 60, 20]]
        return np.array(boxes, dtype=float), self._scores


def test_boxes_go_to_their_likeliest_name_and_the_best_of_a_heap_stays() -> None:
    scores = [[0.8, 0.1], [0.9, 0.1], [0.5, 0.1], [0.2, 0.6]]
    found = Told(scores, 0.3)(COLOR, ["carrot", "plate"])
    assert [(one.name, one.score, one.box[0]) for one in found] == [
        ("carrot", 0.9, 1),
        ("carrot", 0.5, 30),
        ("plate", 0.6, 50),
    ]


def test_what_is_not_found_is_named_with_its_best_score() -> None:
    with pytest.raises(KeypointsError, match=r"^plate: not found in the image \(best score 0\.20, needed 0\.30\)"):
        Told([[0.8, 0.1], [0.9, 0.1], [0.5, 0.1], [0.1, 0.2]], 0.3)(COLOR, ["carrot", "plate"])


def test_boxes_become_masks_with_names(folder: Path, tmp_path: Path) -> None:
    tiny_sam(tmp_path)
    detector = load_detector(folder, GroundingSettings(score=0.0, overlap=0.99, **SMALL))
    boxes, scores = detector.scores(COLOR, ["carrot", "plate"])
    name = ("carrot", "plate")[int(scores.sum(axis=0).argmax())]
    source = GroundedMasks(detector, Segmenter(load_sam(tmp_path / "model.safetensors")), [name])
    masks = source(COLOR)
    assert source.described == f"GroundingDINO ({name}) and segment-anything"
    assert masks and all(mask.region.shape == (48, 64) and mask.name == name for mask in masks)
    assert [mask.score for mask in masks] == sorted((mask.score for mask in masks), reverse=True)
    assert Detection("x", boxes[0], 1.0).box.shape == (4,)


def test_another_model_is_named(tmp_path: Path) -> None:
    tiny_dinov2(tmp_path / "other")
    with pytest.raises(WeightsError, match="dinov2") as error:
        load_detector(tmp_path / "other")
    assert str(tmp_path / "other") in str(error.value)
