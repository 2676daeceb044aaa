"""Palette, search and growth: what is the object's, where it is now, and what it looks like from the other side."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_reward.appearance import Frame, ObjectModel
from grape_reward.growth import grown, is_new, view_of
from grape_reward.palette import Palette
from grape_reward.raycast import Box, lab_camera, raycast
from grape_reward.redetect import polish, search
from grape_reward.rigid import Rigid

CAMERA = lab_camera()
FAR = Pose(np.array([0.0, 0.0, 1.0]), np.array([1.0, 0, 0, 0]))
GREEN = Box((0.08, 0.06, 0.05), Pose(np.array([0.45, 0.0, 0.025])), (60, 150, 60), seed=4)
RED = Box((0.06, 0.06, 0.06), Pose(np.array([0.38, 0.15, 0.03])), (190, 60, 60), seed=5)


def seen(*boxes: Box) -> tuple[Frame, Array]:
    color, depth, labels = raycast(CAMERA, boxes)
    return Frame(CAMERA, color, depth), labels


@pytest.fixture(scope="module")
def known() -> tuple[ObjectModel, Palette]:
    frame, labels = seen(GREEN, RED)
    model = ObjectModel.learn(frame, labels == 0)
    assert model is not None
    return model, Palette(frame, labels == 0)


def placed(box: Box, x: float, y: float, yaw: float) -> Box:
    return box.moved(Pose(np.array([x, y, box.pose.position[2]]), Rotation.from_euler("z", yaw).as_quat()))


def gap(pose: Rigid, box: Box) -> float:
    """Distance of the box's middle from where ``pose`` puts it, metres."""
    return float(np.linalg.norm(pose.apply(GREEN.pose.position) - box.pose.position))


def test_the_palette_tells_the_object_from_table_and_neighbour(known: tuple[ObjectModel, Palette]) -> None:
    frame, labels = seen(GREEN, RED)
    values = known[1](frame.smooth)
    assert np.quantile(values[labels == 0], 0.2) > 0.5
    assert np.quantile(values[labels == -1], 0.98) < 0.1
    assert np.quantile(values[labels == 1], 0.9) < 0.1


@pytest.mark.parametrize(("x", "y", "yaw"), [(0.45, 0.12, 0.0), (0.38, -0.1, 0.6), (0.52, 0.1, 1.4)])
def test_it_is_found_elsewhere_and_turned(known: tuple[ObjectModel, Palette], x: float, y: float, yaw: float) -> None:
    model, palette = known
    now = placed(GREEN, x, y, yaw)
    frame, _ = seen(now, RED)
    pose = search(model, palette, frame, Rigid(), 0.3, 0.3)
    assert pose is not None and gap(pose, now) < 0.01


def test_it_is_not_found_beyond_reach_nor_where_it_is_not(known: tuple[ObjectModel, Palette]) -> None:
    model, palette = known
    frame, _ = seen(placed(GREEN, 0.45, 0.25, 0.0), RED)
    assert search(model, palette, frame, Rigid(), 0.03, 0.3) is None
    frame, _ = seen(RED)
    assert search(model, palette, frame, Rigid(), 0.4, 0.3) is None


def test_polish_takes_out_a_small_error(known: tuple[ObjectModel, Palette]) -> None:
    model, _ = known
    frame, _ = seen(GREEN, RED)
    turn = Rotation.from_euler("xyz", [0.03, -0.02, 0.06]).as_matrix()
    off = Rigid(turn, model.center - turn @ model.center + [0.006, -0.004, 0.005])
    before = float(model.judge(frame, [off]).score[0])
    pose, score = polish(model, frame, off, 0.006)
    assert score == model.judge(frame, [pose]).score[0] > before
    assert gap(pose, GREEN) < 0.5 * gap(off, GREEN) and gap(pose, GREEN) < 0.003


def test_polish_never_makes_it_worse(known: tuple[ObjectModel, Palette]) -> None:
    model, _ = known
    frame, _ = seen(GREEN, RED)
    assert polish(model, frame, Rigid())[1] >= model.judge(frame, [Rigid()]).score[0]


def test_a_side_that_comes_into_view_is_learnt(known: tuple[ObjectModel, Palette]) -> None:
    """The box turns by half a circle in steps; what is learnt of its back lies on it, and tells it from there."""
    model, palette = known
    views = [view_of(model, seen(GREEN)[0], Rigid())]
    learnt = model
    for yaw in np.linspace(0.0, np.pi, 16):
        box = placed(GREEN, 0.45, 0.0, float(yaw))
        pose = Rigid.between(GREEN.pose, box.pose)
        frame, _ = seen(box, RED)
        view = view_of(learnt, frame, pose)
        if is_new(view, views):
            views.append(view)
            learnt = grown(learnt, palette, frame, pose, learnt.judge(frame, [pose]).agree[0], FAR)
    fresh = learnt.points[len(model.points) :]
    assert len(views) >= 8 and len(fresh) > 100
    np.testing.assert_array_equal(learnt.points[: len(model.points)], model.points)
    local = np.abs(fresh - GREEN.pose.position) / (0.5 * np.array(GREEN.size))
    assert np.quantile(local.max(axis=1), [0.02, 0.98]) == pytest.approx(1.0, abs=0.08)
    back = Rigid.between(GREEN.pose, placed(GREEN, 0.45, 0.0, np.pi).pose)
    frame, _ = seen(placed(GREEN, 0.45, 0.0, np.pi), RED)
    agreeing = [int((one.judge(frame, [back]).agree[0] > 0.5).sum()) for one in (model, learnt)]
    assert agreeing[1] > 1.5 * agreeing[0]


def test_nothing_is_learnt_from_the_hand_that_holds_it(known: tuple[ObjectModel, Palette]) -> None:
    """A hand of the object's own colour: it moves along, so only its place tells it apart."""
    model, palette = known
    hand = Box((0.05, 0.05, 0.08), Pose(np.array([0.45, 0.0, 0.095])), (60, 150, 60), seed=9)
    frame, _ = seen(GREEN, hand)
    agree = model.judge(frame, [Rigid()]).agree[0]
    tcp = Pose(np.array([0.45, 0.0, 0.045]), np.array([1.0, 0, 0, 0]))
    above = [
        (one.points[len(model.points) :, 2] > 0.055).sum()
        for one in (
            grown(model, palette, frame, Rigid(), agree, FAR),
            grown(model, palette, frame, Rigid(), agree, tcp),
        )
    ]
    assert above[0] > 5 and above[1] == 0


def test_views_are_new_by_their_angle() -> None:
    ahead = np.array([1.0, 0.0, 0.0])
    for degrees, new in ((5, False), (13, False), (16, True), (170, True)):
        view = Rotation.from_euler("z", degrees, degrees=True).apply(ahead)
        assert is_new(view, [ahead]) is new
