import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.result import Keypoint, KeypointProposal, load_proposal

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)


def made(points: list[tuple[float, float, float]]) -> KeypointProposal:
    keypoints = tuple(
        Keypoint(number=i, pixel=(i, 2 * i), point=point, mask=i, name="", kind="centre", confidence=0.5)
        for i, point in enumerate(points)
    )
    return KeypointProposal(
        camera="c", calibration="0" * 64, width=9, height=9, masks="m", features="f", seed=0, keypoints=keypoints
    )


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=4))
def test_numbers_come_back_bit_for_bit(points: list[tuple[float, float, float]]) -> None:
    again = KeypointProposal.model_validate_json(made(points).model_dump_json())
    assert again == made(points)
    assert again.points.tobytes() == np.array(points, dtype=np.float64).reshape(-1, 3).tobytes()
    assert again.pixels.shape == (len(points), 2) and again.mask_indices.tolist() == list(range(len(points)))


def changed(change: Any) -> str:
    data = json.loads(made([(0.0, 1.0, 2.0), (3.0, 4.0, 5.0)]).model_dump_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("hello", "JSON"),
        (changed(lambda d: d.pop("calibration")), "calibration"),
        (changed(lambda d: d.update(calibration="abc")), "calibration"),
        (changed(lambda d: d.update(format="other")), "format"),
        (changed(lambda d: d.update(extra=1)), "extra"),
        (changed(lambda d: d["keypoints"][1].update(number=0)), "numbers"),
        (changed(lambda d: d["keypoints"][1].update(point=[0, 1])), "keypoints.1.point"),
        (changed(lambda d: d["keypoints"][0].update(confidence=1.5)), "keypoints.0.confidence"),
        (changed(lambda d: d["keypoints"][0].update(kind="edge")), "keypoints.0.kind"),
        (changed(lambda d: d["keypoints"][0].update(point=[0, 1, 1e999])), "keypoints.0.point"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "keypoints.json"
    path.write_text(text)
    with pytest.raises(KeypointsError, match=word) as error:
        load_proposal(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeypointsError, match="No such file"):
        load_proposal(tmp_path / "none.json")
