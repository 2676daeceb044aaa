import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.config import ConfigError
from grape_policy.mini import mini_preprocessor, mini_tokenizer
from grape_policy.processing import PROMPT, ProcessingError, Processor, center_crop
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint

TOKENIZER = mini_tokenizer(INSTRUCTIONS)


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Vla:
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@settings(max_examples=60)
@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_any_instruction_has_ids_and_none_of_them_is_an_action(text: str) -> None:
    prompt = PROMPT.format(instruction=text.strip().lower())
    ids = TOKENIZER.encode(prompt).ids
    assert max(ids) < 768 - 256
    if not any(name in text for name in ("<unk>", "<s>", "</s>", "<PAD>", "▁", "<0x")):
        assert TOKENIZER.decode(ids) == " " + prompt


def test_the_prompt_begins_with_bos_and_ends_with_one_empty_token(vla: Vla) -> None:
    ids = vla.processor.prompt("Put the CARROT on the plate ").tolist()
    assert ids == vla.processor.prompt("put the carrot on the plate").tolist()
    tokens = [vla.processor.tokenizer.id_to_token(i) for i in ids]
    assert tokens[0] == "<s>" and tokens[-1] == "▁" and tokens.count("▁") == 1
    closed = vla.processor.close_prompt(torch.tensor(ids))
    assert closed.tolist() == ids


def test_an_image_of_the_models_size_is_left_alone(vla: Vla) -> None:
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    assert np.array_equal(vla.processor.model_input(image), image)
    assert vla.processor.model_input(np.zeros((480, 640, 3), np.uint8)).shape == (56, 56, 3)


def test_pixels_are_normalised_once_for_each_tower(vla: Vla) -> None:
    image = np.zeros((1, 56, 56, 3), np.uint8)
    image[..., 0] = 255
    pixels = vla.processor.pixels(image)[0, :, 0, 0]
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225, 1.0, -1.0, -1.0]
    assert pixels.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(vla: Vla, image: np.ndarray) -> None:
    with pytest.raises(ProcessingError, match="image must be"):
        vla.processor.model_input(image)


def test_an_empty_instruction_is_refused(vla: Vla) -> None:
    with pytest.raises(ProcessingError, match="empty"):
        vla.processor.prompt("  ")


def test_the_centre_crop_enlarges_the_middle() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, 0).repeat(3, 2)
    cropped = center_crop(ramp)
    side = np.sqrt(0.9)
    expected = np.linspace((1 - side) / 2, (1 + side) / 2, 200) * 199
    assert cropped.shape == ramp.shape
    assert np.abs(cropped[100, :, 0] - expected).max() <= 1.0
    assert np.array_equal(center_crop(ramp, area=1.0), ramp)


def test_the_centre_crop_option_is_used(vla: Vla) -> None:
    processor = Processor(vla.spec, {"interpolations": ["bicubic"] * 2, "means": [[0] * 3] * 2, "stds": [[1] * 3] * 2},
                          None, center_crop=True)  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    assert np.array_equal(processor.model_input(image), center_crop(image))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]))
def test_the_interpolation_is_the_checkpoints(vla: Vla, height: int, width: int, name: str) -> None:
    processor = Processor(vla.spec, {**mini_preprocessor(56), "interpolations": [name, name]}, None)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plain = Image.fromarray(image).resize((56, 56), getattr(Image.Resampling, name.upper()))
    assert np.array_equal(processor.model_input(image), np.asarray(plain))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.1, 0.9), min_size=6, max_size=6),
    st.lists(st.floats(0.05, 2.0), min_size=6, max_size=6),
    st.lists(st.integers(0, 255), min_size=3, max_size=3),
)
def test_each_tower_is_normalised_by_its_own_numbers(
    vla: Vla, means: list[float], stds: list[float], rgb: list[int]
) -> None:
    numbers = {"means": [means[:3], means[3:]], "stds": [stds[:3], stds[3:]]}
    processor = Processor(vla.spec, {**mini_preprocessor(56), **numbers}, None)
    pixels = processor.pixels(np.full((1, 56, 56, 3), rgb, np.uint8))
    assert pixels.shape == (1, 6, 56, 56) and pixels.dtype == torch.float32
    expected = (np.array(rgb * 2) / 255.0 - means) / stds
    assert np.allclose(pixels[0, :, 7, 9].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_resize_strategy": "letterbox"}, "image_resize_strategy 'letterbox' is not supported"),
        ({"image_resize_strategy": "resize-crop"}, "image_resize_strategy 'resize-crop' is not supported"),
        ({"interpolations": ["bicubic", "lanczos"]}, r"interpolations \['bicubic', 'lanczos'\] are not supported"),
        ({"interpolations": ["area"] * 2}, r"interpolations \['area'\] are not supported \(.*'bicubic'"),
        ({"interpolations": 3}, "interpolations, means or stds"),
        ({"means": None}, "interpolations, means or stds"),
        ({"means": [[0.5] * 3]}, "means and stds must be two triples"),
        ({"means": [["x"] * 3] * 2}, "interpolations, means or stds"),
        ({"stds": [[0.5, 0.0, 0.5]] * 2}, "means must be finite, stds finite and above 0"),
        ({"means": [[float("nan")] * 3] * 2}, "means must be finite, stds finite and above 0"),
        ({"input_sizes": [[3, 224, 224]] * 2}, r"input_sizes .* are not the towers' \[\[3, 56, 56\]"),
    ],
)
def test_a_preprocessor_that_is_not_served_is_refused_by_its_field(
    vla: Vla, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^preprocessor_config\.json: {reason}"):
        Processor(vla.spec, {**mini_preprocessor(56), **change}, None)


def test_missing_fields_and_a_strategy_that_only_the_model_names_are_refused(vla: Vla) -> None:
    for name in ("interpolations", "means", "stds"):
        with pytest.raises(ConfigError, match=f"missing field '{name}'"):
            Processor(vla.spec, {key: value for key, value in mini_preprocessor(56).items() if key != name}, None)
    held = {key: value for key, value in mini_preprocessor(56).items() if key != "image_resize_strategy"}
    Processor(vla.spec, held, None)
    boxed = dataclasses.replace(vla.spec, config={**vla.spec.config, "image_resize_strategy": "letterbox"})
    with pytest.raises(ConfigError, match="letterbox"):
        Processor(boxed, held, None)


def test_the_prompt_is_a_setting_of_the_checkpoint(vla: Vla) -> None:
    spec = dataclasses.replace(vla.spec, prompt="{instruction}, {please}")
    ids = Processor(spec, mini_preprocessor(56), TOKENIZER).prompt("Take the Carrot").tolist()
    assert TOKENIZER.decode(ids).split() == ["take", "the", "carrot,", "{please}"]


def test_the_empty_token_is_named_by_the_checkpoint_else_by_its_tokenizer_else_llamas(vla: Vla) -> None:
    own = TOKENIZER.token_to_id("▁")

    def closed_by(tokenizer: Any, token: int | None, config: dict[str, Any]) -> list[int]:
        spec = dataclasses.replace(vla.spec, empty_token_id=token, config=config)
        return Processor(spec, mini_preprocessor(56), tokenizer).close_prompt(torch.tensor([5])).tolist()

    assert closed_by(TOKENIZER, 7, {"empty_token_id": 7}) == [5, 7]
    assert closed_by(TOKENIZER, 29871, {}) == [5, own]
    assert closed_by(None, 29871, {}) == [5, 29871]
    assert closed_by(TOKENIZER, None, {"empty_token_id": None}) == [5]
