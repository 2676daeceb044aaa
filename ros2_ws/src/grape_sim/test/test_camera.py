"""Projected points fall where the renderer draws them; depth leads back to them."""

from __future__ import annotations

import numpy as np
import pytest

from grape_sim.objects import object_model
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import World


def back_projected(world: World, depth: np.ndarray) -> np.ndarray:
    """Points (H, W, 3) in the base frame of a depth image."""
    height, width = depth.shape
    rows, columns = np.mgrid[0:height, 0:width]
    rays = (
        np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(world.camera.intrinsics(width, height)).T
    )
    pose = world.camera.pose()
    return (rays * depth[..., None]).reshape(-1, 3) @ pose.rotation.as_matrix().T + pose.position


@pytest.mark.parametrize("task", SIM_TASKS)
def test_keypoints_project_onto_what_is_drawn(world: World, task: str) -> None:
    size = 224
    for state in (3, 8):
        observation = world.reset(task, "clean", state)
        pixels = world.camera.project(observation.keypoints, size, size)
        assert (pixels > 0).all() and (pixels < size - 1).all(), "both are in view"
        _, depth = world.camera.render(size, size, depth=True)
        assert depth is not None
        points = back_projected(world, depth).reshape(size, size, 3)
        for keypoint, (u, v) in zip(observation.keypoints, pixels, strict=True):
            seen = points[round(v), round(u)]
            # The camera sees the thing's skin, a few centimetres before its middle.
            assert np.linalg.norm(seen - keypoint) < 0.05
            assert np.linalg.norm(np.cross(seen - keypoint, _ray(world, keypoint))) < 0.004


def _ray(world: World, point: np.ndarray) -> np.ndarray:
    ray = point - world.camera.pose().position
    return ray / np.linalg.norm(ray)


def test_depth_of_the_table_is_a_plane_at_height_zero(world: World) -> None:
    world.reset("carrot_on_plate", "clean", 1)
    _, depth = world.camera.render(112, 112, depth=True)
    assert depth is not None and depth.dtype == np.float32
    bottom = back_projected(world, depth).reshape(112, 112, 3)[105:, :30]
    np.testing.assert_allclose(bottom[..., 2], 0.0, atol=0.003)


def test_an_object_is_drawn_in_its_colour_where_it_projects(world: World) -> None:
    observation = world.reset("green_cube_on_yellow_cube", "clean", 4)
    image = world.render(224, 224)
    top = object_model("yellow_cube").surface
    points = [observation.keypoints[0] + [0, 0, object_model("green_cube").surface], observation.keypoints[1]]
    assert top > 0
    (u0, v0), (u1, v1) = np.round(world.camera.project(np.array(points), 224, 224)).astype(int)
    red, green, blue = image[v0, u0].astype(int)
    assert green > 1.5 * red and green > 1.5 * blue
    red, green, blue = image[v1, u1].astype(int)
    assert red > 2 * blue and green > 2 * blue


def test_nothing_seen_has_no_depth(world: World) -> None:
    world.reset("carrot_on_plate", "clean", 1)
    image, depth = world.camera.render(112, 112, depth=True)
    assert depth is not None
    assert (depth[image.min(axis=2) < 200] > 0).all()
    assert (depth == 0).any(), "the wall behind the table is not modelled"


def test_a_view_is_the_same_picture_and_its_masks_lie_on_the_things(world: World) -> None:
    observation = world.reset("green_cube_on_yellow_cube", "distractors", 4)
    width, height = 320, 240
    view = world.view(width, height)
    color, depth = world.camera.render(width, height, depth=True)
    np.testing.assert_array_equal(view.color, color)
    np.testing.assert_array_equal(view.depth, depth)
    assert set(np.unique(view.labels)) == {-1, *range(len(observation.keypoint_names))}
    points = back_projected(world, view.depth).reshape(height, width, 3)
    for index, (name, keypoint) in enumerate(zip(observation.keypoint_names, observation.keypoints, strict=True)):
        seen = points[view.labels == index]
        reach = object_model(name).radius + 0.01
        assert len(seen) > 50 and (np.linalg.norm(seen[:, :2] - keypoint[:2], axis=1) < reach).all(), name


def test_a_view_needs_no_square(world: World) -> None:
    """What the camera matrix says holds for the lab's aspect ratio too: the cube's mask lies around its keypoint."""
    observation = world.reset("green_cube_on_yellow_cube", "clean", 4)
    view = world.view()
    assert view.color.shape == (480, 640, 3) and view.depth.shape == view.labels.shape == (480, 640)
    u, v = world.camera.project(observation.keypoints[:1], 640, 480)[0]
    rows, columns = np.nonzero(view.labels == 0)
    # The faces that are seen lie before the middle, so up to half a side off it.
    assert abs(columns.mean() - u) < 8 and abs(rows.mean() - v) < 8
