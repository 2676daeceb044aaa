"""What an object's model says of poses: the right one best, a covered one nothing, a wrong one the contrary."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_reward.appearance import Frame, ObjectModel, chroma, color_agreement, surface_normals
from grape_reward.raycast import Box, lab_camera, raycast
from grape_reward.rigid import Rigid

CAMERA = lab_camera()
TURN = Rotation.from_euler("z", 0.4)
BOX = Box((0.08, 0.07, 0.06), Pose(np.array([0.45, 0.0, 0.03]), TURN.as_quat()), (60, 150, 60), seed=4)


def frame_of(*boxes: Box) -> tuple[Frame, Array]:
    color, depth, labels = raycast(CAMERA, boxes)
    return Frame(CAMERA, color, depth), labels


@pytest.fixture(scope="module")
def model() -> ObjectModel:
    frame, labels = frame_of(BOX)
    found = ObjectModel.learn(frame, labels == 0)
    assert found is not None
    return found


def shifted(x: float, y: float, z: float) -> Rigid:
    return Rigid(translation=np.array([x, y, z]))


def test_points_lie_on_the_box_and_normals_stand_on_its_faces(model: ObjectModel) -> None:
    local = TURN.inv().apply(model.points - BOX.pose.position) / (0.5 * np.array(BOX.size))
    np.testing.assert_allclose(np.abs(local).max(axis=1), 1.0, atol=2e-3)
    # Where a pixel is near an edge the normal may be that of both faces.
    inner = np.sort(np.abs(local), axis=1)[:, 1] < 0.75
    expected = np.where(np.abs(local) == np.abs(local).max(axis=1, keepdims=True), np.sign(local), 0.0)
    agreement = (TURN.inv().apply(model.normals) * expected).sum(axis=1)[inner]
    assert inner.sum() > 60 and np.quantile(agreement, 0.05) > 0.97
    assert ((model.points - CAMERA.eye) * model.normals).sum(axis=1).max() < 0, "towards the camera"


def test_the_true_pose_scores_best(model: ObjectModel) -> None:
    moved = BOX.moved(Pose(BOX.pose.position + np.array([0.03, 0.05, 0.0]), BOX.pose.quaternion))
    frame, _ = frame_of(moved)
    poses = [shifted(0.03, 0.05, 0.0)]
    poses += [shifted(0.03 + dx, 0.05 + dy, dz) for dx, dy, dz in np.eye(3) * 0.01]
    poses += [shifted(0.03 - dx, 0.05 - dy, -dz) for dx, dy, dz in np.eye(3) * 0.01]
    poses += [Rigid()]
    evidence = model.judge(frame, poses)
    assert evidence.agreement[0] > 0.85 and evidence.seen[0] > 0.99
    assert (evidence.score[1:] < evidence.score[0] - 0.1).all()
    assert evidence.score[-1] < 0 and evidence.agreement[-1] < 0.3, "where it was there is only table"


def test_several_poses_are_judged_as_each_alone(model: ObjectModel) -> None:
    frame, _ = frame_of(BOX)
    poses = [Rigid(), shifted(0.01, 0, 0), shifted(0, 0, 0.2)]
    together = model.judge(frame, poses)
    for index, pose in enumerate(poses):
        alone = model.judge(frame, [pose])
        assert alone.score[0] == together.score[index] and (alone.agree[0] == together.agree[index]).all()


def test_what_is_covered_speaks_neither_for_nor_much_against(model: ObjectModel) -> None:
    wall = Box((0.3, 0.3, 0.02), Pose(0.5 * (CAMERA.eye + BOX.pose.position)), (90, 90, 90), 0.0)
    frame, _ = frame_of(BOX, wall)
    evidence = model.judge(frame, [Rigid()])
    assert evidence.seen[0] == 0.0 and evidence.agreement[0] == 0.0 and not evidence.agree.any()
    nothing, _ = frame_of()
    assert -0.4 < evidence.score[0] < 0 and model.judge(nothing, [Rigid()]).score[0] < evidence.score[0]


def test_a_pose_that_turns_the_known_sides_away_does_not_win(model: ObjectModel) -> None:
    frame, _ = frame_of(BOX)
    for degrees, most in ((90, 0.3), (180, 0.0)):
        turn = Rotation.from_rotvec(np.radians(degrees) * CAMERA.rotation[:, 0]).as_matrix()
        about = Rigid(turn, model.center - turn @ model.center)
        assert model.judge(frame, [about]).score[0] < most


def test_unknown_depth_says_nothing(model: ObjectModel) -> None:
    color, depth, _ = raycast(CAMERA, [BOX])
    for hole in (0.0, np.nan):
        blind = Frame(CAMERA, color, np.full_like(depth, hole))
        assert model.judge(blind, [Rigid()]).seen[0] == 0.0
    assert model.judge(Frame(CAMERA, color, depth), [shifted(5.0, 0, 0)]).seen[0] == 0.0, "out of the image"


def test_too_little_to_learn_from_is_none() -> None:
    frame, labels = frame_of(BOX)
    assert ObjectModel.learn(frame, np.zeros_like(labels, dtype=bool)) is None
    assert ObjectModel.learn(Frame(CAMERA, frame.color, np.zeros_like(frame.depth)), labels == 0) is None


def test_a_thinned_model_says_nearly_the_same(model: ObjectModel) -> None:
    frame, _ = frame_of(BOX)
    sketch = model.thinned(60)
    assert 50 <= len(sketch.points) <= 80
    assert abs(sketch.judge(frame, [Rigid()]).score[0] - model.judge(frame, [Rigid()]).score[0]) < 0.1


def test_brightness_may_vary_more_than_hue() -> None:
    green = np.array([60.0, 150.0, 60.0])
    assert color_agreement(chroma(green), chroma(green)) == 1.0
    assert color_agreement(chroma(green), chroma(0.8 * green)) > 0.7
    assert color_agreement(chroma(green), chroma(np.array([150.0, 150.0, 60.0]))) < 0.05
    assert color_agreement(chroma(green), chroma(np.array([20.0, 20.0, 20.0]))) < 0.05


def test_normals_of_the_table_point_up() -> None:
    frame, labels = frame_of()
    pixels = np.array([[160.0, 200.0], [40.0, 150.0], [300.0, 120.0]])
    normals = surface_normals(frame, labels == -1, pixels)
    np.testing.assert_allclose(normals, np.tile([0.0, 0.0, 1.0], (3, 1)), atol=0.02)
