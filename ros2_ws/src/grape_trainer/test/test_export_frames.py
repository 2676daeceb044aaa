"""Frames of an episode as LeRobot features: the values that were recorded, pictures without loss, what is refused."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from grape_episode.synthetic import make_episode
from grape_trainer.export import frames
from grape_trainer.export.frames import ExportError, Layout, columns, pictures, png, rotation_of


def layout(**other) -> Layout:
    values = {"control_period": 0.2, "height": 32, "width": 32, "rotation": "euler_xyz", "rewarded": True}
    return Layout(**{**values, **other})


def with_step(episode, index, **changes):
    steps = list(episode.steps)
    steps[index] = dataclasses.replace(steps[index], **changes)
    return dataclasses.replace(episode, steps=tuple(steps))


def test_columns_are_what_was_recorded():
    episode = make_episode(3, steps=5)
    found = columns(episode, layout(), 1)
    for n, step in enumerate(episode.steps):
        assert found[frames.STATE][n, :3] == pytest.approx(step.tcp.position, abs=1e-7)
        assert found[frames.STATE][n, 3:7].tolist() == [1.0, 0.0, 0.0, 0.0]
        assert found[frames.STATE][n, 7] == np.float32(step.gripper_width)
        assert found[frames.ACTION][n].tolist() == step.action.astype(np.float32).tolist()
        assert found[frames.TOKEN_IDS][n].tolist() == step.tokens.tolist()
        assert found[frames.LOG_PROBS][n].tolist() == step.logprobs.tolist()
        assert found[frames.STAMP][n] == step.stamp
        assert found["timestamp"][n] == pytest.approx((step.stamp - episode.steps[0].stamp) * 1e-9, abs=1e-6)
    assert found[frames.DONE].tolist() == [False] * 4 + [True]
    assert found[frames.REWARD].tolist() == [0, 0, 0, 0, 1] and found[frames.SUCCESS].tolist() == [False] * 4 + [True]
    assert columns(episode, layout(), 0)[frames.REWARD].tolist() == [0] * 5


def test_every_column_is_a_feature_and_has_its_shape():
    features = layout().features()
    found = columns(make_episode(1, steps=4), layout(), 1)
    by_others = {frames.IMAGE, "episode_index", "index", "task_index"}
    assert set(features) == set(found) | by_others
    for name, values in found.items():
        assert list(values.shape[1:] or (1,)) == features[name]["shape"], name
        assert str(values.dtype) == features[name]["dtype"], name
        names = features[name]["names"]
        assert names is None or len(names) == values.shape[1]


def test_only_the_action_is_an_action_and_only_observations_are_observations():
    # LeRobot gives every feature that begins so to its policies
    features = layout().features()
    assert [name for name in features if name.startswith("action")] == ["action"]
    assert [name for name in features if name.startswith("observation")] == [frames.IMAGE, frames.STATE]


def test_unknown_success_is_no_feature():
    bare = layout(rewarded=False)
    assert {frames.REWARD, frames.SUCCESS}.isdisjoint(bare.features())
    assert {frames.REWARD, frames.SUCCESS}.isdisjoint(columns(make_episode(1, steps=4), bare, None))


@pytest.mark.parametrize(("period", "fps"), [(0.2, 5), (1 / 15, 15), (0.0666667, 15), (0.15, 1 / 0.15)])
def test_steps_a_second(period, fps):
    found = layout(control_period=period).fps
    assert found == fps and isinstance(found, int) == (fps == round(fps))


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"action": np.array([0, 0, np.nan, 0, 0, 0, 1.0])}, "action"),
        ({"gripper_width": np.inf}, "observation.state"),
        ({"logprobs": np.full(7, -np.inf, np.float32)}, "grape.log_probs"),
        ({"action": np.array([1e39, 0, 0, 0, 0, 0, 1.0])}, "action"),  # finite, but not as float32
    ],
)
def test_a_number_that_is_not_finite_is_named(change, feature):
    with pytest.raises(ExportError, match=f"carrot_on_plate-100000-1: step 2: {feature} is not finite"):
        columns(with_step(make_episode(1, steps=4), 2, **change), layout(), 1)


@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (1, 3), (48, 64)])
def test_png_loses_nothing(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(png(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decoded, image)
    assert png(image) == png(image.copy())


def test_pictures_of_another_size_or_none_are_named():
    episode = make_episode(1, steps=4)
    assert np.array_equal(pictures(episode, layout()), episode.images)
    with pytest.raises(ExportError, match="step 0: its image is 32x32, the dataset's are 48x64"):
        pictures(episode, layout(height=64, width=48))
    with pytest.raises(ExportError, match="step 3: its image is 0x0"):
        pictures(with_step(episode, 3, image=None), layout())


def test_an_episode_has_one_convention_of_rotation():
    episode = make_episode(1, steps=4)
    assert rotation_of(episode) == "euler_xyz"
    with pytest.raises(ExportError, match="told as axis_angle and as euler_xyz"):
        rotation_of(with_step(episode, 1, rotation="axis_angle"))
    names = layout(rotation="axis_angle").features()["action"]["names"]
    assert names[3:6] == ["rotation_x", "rotation_y", "rotation_z"]
