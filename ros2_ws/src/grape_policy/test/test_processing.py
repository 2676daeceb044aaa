import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.mini import mini_tokenizer
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
