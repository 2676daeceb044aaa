from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.masks import GivenMasks, Mask, label_image, read_label_image

COLOR = np.zeros((6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_image_gives_a_mask_a_value_with_its_name(tmp_path: Path, dtype: type) -> None:
    labels = np.zeros((6, 8), dtype=dtype)
    labels[1:3, 1:4], labels[4, 5:] = 1, 200 if dtype is np.uint8 else 1000
    Image.fromarray(labels).save(tmp_path / "labels.png")
    source = read_label_image(tmp_path / "labels.png", ["carrot"])
    first, second = source(COLOR)
    assert (first.region == (labels == 1)).all() and first.name == "carrot" and first.score == 1.0
    assert second.area == 3 and second.name == ""
    assert source.described == str(tmp_path / "labels.png")


def test_what_is_written_is_read_back() -> None:
    big, small = np.zeros((2, 6, 8), dtype=bool)
    big[:5, :5], small[1:3, 1:3] = True, True
    labels = label_image([Mask(small), Mask(big)])
    assert (labels[small] == 1).all() and (labels[big & ~small] == 2).all() and (labels[~big] == 0).all()
    again = GivenMasks(labels.astype(np.int32))(COLOR)
    assert [mask.area for mask in again] == [4, 21]


def test_labels_from_zero_are_the_simulators() -> None:
    labels = np.full((6, 8), -1, dtype=np.int32)
    labels[0, 0], labels[5, 5] = 0, 1
    assert [mask.name for mask in GivenMasks(labels, ("carrot", "plate"), 0, "simulator")(COLOR)] == ["carrot", "plate"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((6, 8), np.uint8), ("labels.png", "no mask")),
        (np.ones((5, 8), np.uint8), ("labels.png", "8x5", "8x6")),
    ],
)
def test_unusable_labels_are_named(tmp_path: Path, labels: np.ndarray, words: tuple[str, ...]) -> None:
    Image.fromarray(labels).save(tmp_path / "labels.png")
    with pytest.raises(KeypointsError) as error:
        read_label_image(tmp_path / "labels.png")(COLOR)
    assert all(word in str(error.value) for word in words), error.value


def test_a_colour_image_or_no_image_is_no_label_image(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "color.png")
    (tmp_path / "text.png").write_text("hello")
    for name, word in (("color.png", "RGB"), ("text.png", "no label image"), ("none.png", "No such file")):
        with pytest.raises(KeypointsError, match=word) as error:
            read_label_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
