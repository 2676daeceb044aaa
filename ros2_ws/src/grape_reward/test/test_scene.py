"""Stages and keypoints that a model names are checked before anything uses them."""

import json
from typing import Any

import pytest

from grape_reward.scene import Scene, SceneError, read_scene

POINTS = [{"name": "carrot", "number": 4}, {"name": "plate", "number": 0}, {"name": "cup", "number": 2}]
STAGES = [{"name": "grasp the carrot", "ends_at": "carrot"}, {"name": "drop it", "ends_at": "plate"}]


def answer(points: Any = None, stages: Any = None, **more: Any) -> str:
    body = {"keypoints": POINTS if points is None else points, "stages": STAGES if stages is None else stages, **more}
    return f"Sure:\n```json\n{json.dumps(body)}\n```\n"


def test_numbers_become_indices_in_the_order_of_the_answer() -> None:
    scene = read_scene(answer(), (), (), 5)
    assert scene == Scene(("grasp the carrot", "drop it"), ("carrot", "plate", "cup"), (4, 0, 2), (0, 1))


def test_given_names_stay_and_obstacles_may_follow() -> None:
    stages = ("grasp the carrot", "drop it")
    assert read_scene(answer(), stages, ("carrot", "plate"), 5).keypoints == ("carrot", "plate", "cup")
    plain = [{"name": "carrot"}, {"name": "plate"}]
    assert read_scene(answer(plain), (), ("carrot", "plate"), None).picked == ()


@pytest.mark.parametrize(
    ("points", "stages", "words"),
    [
        ([{"name": "carrot", "number": 5}], None, "carrot: number 5 is not in the image, 0 to 4 are"),
        ([{"name": "carrot", "number": -1}], None, "number -1 is not in the image"),
        ([{"name": "carrot", "number": "4"}], None, "keypoints.0.number"),
        ([{"name": "carrot", "number": 1.5}], None, "keypoints.0.number"),
        ([{"name": "carrot", "number": True}], None, "keypoints.0.number"),
        ([{"name": "carrot"}], None, "carrot has no number"),
        ([*POINTS, {"name": "vase", "number": 4}], None, "number 4 is given to 2 keypoints"),
        ([*POINTS, {"name": "cup", "number": 3}], None, "cup is named 2 times"),
        ([{"name": "the carrot", "number": 4}], None, "keypoints.0.name"),
        ([], None, "keypoints"),
        (None, [], "stages"),
        (None, [{"name": "grasp", "ends_at": "moon"}], "stage 1 ends at 'moon'"),
        (None, [{"name": "grasp", "ends_at": "cup", "code": "import os"}], "stages.0.code"),
        (None, [{"name": "", "ends_at": "cup"}], "stages.0.name"),
        (None, [{"name": "wait", "ends_at": "cup"}] * 13, "stages"),
    ],
)
def test_what_cannot_be_used_is_named(points: Any, stages: Any, words: str) -> None:
    with pytest.raises(SceneError) as caught:
        read_scene(answer(points, stages), (), (), 5)
    assert any(words in finding for finding in caught.value.findings), caught.value.findings
    assert not any("\n" in finding for finding in caught.value.findings)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    points = [{"name": "carrot", "number": 9}, {"name": "plate"}]
    with pytest.raises(SceneError) as caught:
        read_scene(answer(points, [{"name": "grasp", "ends_at": "cup"}]), (), (), 5)
    assert len(caught.value.findings) == 3


def test_other_names_than_those_given_are_refused() -> None:
    with pytest.raises(SceneError, match="must begin with plate, carrot"):
        read_scene(answer(), (), ("plate", "carrot"), 5)
    with pytest.raises(SceneError, match="stages must be grasp"):
        read_scene(answer(), ("grasp", "drop"), (), 5)


def test_a_number_without_an_overlay_is_refused() -> None:
    with pytest.raises(SceneError, match="shows no numbers"):
        read_scene(answer(), (), (), None)


def test_prose_is_no_scene() -> None:
    with pytest.raises(SceneError, match="no JSON object"):
        read_scene("I would say three stages.", (), (), 5)
