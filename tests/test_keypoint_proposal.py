"""Keypoints proposed from the simulated camera's frame lie where the simulator says that things are."""

import numpy as np
import pytest

from grape_reward.camera import Calibration
from grape_reward.keypoints.features import GeometryFeatures
from grape_reward.keypoints.frame import RgbdFrame
from grape_reward.keypoints.masks import GivenMasks
from grape_reward.keypoints.pipeline import Proposed, propose_keypoints
from grape_sim.camera import View
from grape_sim.objects import object_model
from grape_sim.world import World

SIZE = (640, 480)


@pytest.fixture(scope="module")
def scene() -> tuple[list[tuple[str, np.ndarray]], View, Proposed]:
    """What is on the table with its mesh's corners in the base frame, the view, and the proposal."""
    with World() as world:
        world.reset("carrot_on_plate", "distractors", 3)
        view = world.view(*SIZE)
        matrix = world.camera.intrinsics(*SIZE)
        lens = {name: float(matrix[at]) for name, at in zip(("fx", "fy"), ((0, 0), (1, 1)), strict=True)}
        middle = {"cx": float(matrix[0, 2]), "cy": float(matrix[1, 2])}
        calibration = Calibration(*SIZE, **lens, **middle, pose=world.camera.pose(), camera="simulated camera")
        masks = GivenMasks(view.labels, world.keypoint_names, 0, "simulator")
        frame = RgbdFrame(view.color, view.depth)
        proposed = propose_keypoints(frame, calibration, "0" * 64, masks, GeometryFeatures())
        things = [
            (name, world.body_pose(i).rotation.apply(object_model(name).mesh.vertices) + world.body_pose(i).position)
            for i, name in enumerate(world.keypoint_names)
        ]
    return things, view, proposed


def test_each_thing_has_its_keypoints_inside_itself(
    scene: tuple[list[tuple[str, np.ndarray]], View, Proposed],
) -> None:
    """The points, which went through depth and calibration, against the meshes, which did not."""
    things, view, proposed = scene
    keypoints = proposed.proposal.keypoints
    assert {one.name for one in keypoints} == {name for name, _ in things}
    for one in keypoints:
        name, corners = things[one.mask]
        assert one.name == name and view.labels[one.pixel[1], one.pixel[0]] == one.mask
        point = np.array(one.point)
        assert (point > corners.min(axis=0) - 0.003).all() and (point < corners.max(axis=0) + 0.003).all()
        if one.kind == "centre":
            centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
            assert np.linalg.norm((point - centre)[:2]) < 0.04


def test_where_the_simulator_has_no_depth_error_neither_has_a_keypoint_on_the_surface(
    scene: tuple[list[tuple[str, np.ndarray]], View, Proposed],
) -> None:
    """The plate lies flat: its rim and floor are at heights that the mesh knows to a millimetre or two."""
    things, _, proposed = scene
    surface = [one for one in proposed.proposal.keypoints if one.kind == "surface" and one.name == "plate"]
    assert surface
    for one in surface:
        corners = things[one.mask][1]
        assert np.linalg.norm(corners - np.array(one.point), axis=1).min() < 0.02
        assert corners[:, 2].min() - 0.002 < one.point[2] < corners[:, 2].max() + 0.002
