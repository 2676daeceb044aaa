import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_reward.camera import Calibration
from grape_reward.keypoints.surface import areas, normals, solid
from grape_reward.keypoints.testing import ball_scene


def tilted_plane(tilt: float, width: int = 80, height: int = 60) -> tuple[Calibration, np.ndarray, np.ndarray]:
    """Calibration, points (H, W, 3) and unit normal of a plane 0.6 m before the camera, tilted about its x axis."""
    pose = Pose(np.array([0.1, -0.2, 0.7]), np.array([0.0, 0.6, 0.0, 0.8]))
    calibration = Calibration(width, height, 90.0, 85.0, 39.5, 29.5, pose)
    normal = np.array([0.0, np.sin(tilt), -np.cos(tilt)])
    v, u = np.indices((height, width))
    rays = np.stack([(u - 39.5) / 90.0, (v - 29.5) / 85.0, np.ones((height, width))], axis=-1)
    depth = normal[2] * 0.6 / (rays @ normal)
    return calibration, calibration.deproject(np.stack([u, v], axis=-1), depth), calibration.rotation @ normal


@settings(max_examples=25)
@given(st.floats(-0.9, 0.9))
def test_a_planes_normals_and_area(tilt: float) -> None:
    calibration, cloud, normal = tilted_plane(tilt)
    inner = (slice(10, 50), slice(10, 70))
    np.testing.assert_allclose(normals(cloud)[inner].reshape(-1, 3), np.tile(normal, (2400, 1)), atol=1e-9)
    # The second way: the corners of the patch are those of a plane quadrilateral.
    depth_edge = [cloud[r, c] for r, c in ((10, 10), (10, 70), (50, 70), (50, 10))]
    a, b, c, d = (np.asarray(point) for point in depth_edge)
    quadrilateral = 0.5 * np.linalg.norm(np.cross(c - a, d - b))
    assert areas(cloud, calibration)[10:50, 10:70].sum() == pytest.approx(quadrilateral, rel=0.03)


def test_a_balls_visible_surface_has_the_area_and_centroid_of_its_cap() -> None:
    scene = ball_scene(np.array([[0.0, 0.0]]), radius=0.1, width=480, height=360)
    cloud = scene.calibration.cloud(scene.frame.depth)
    weights = areas(cloud, scene.calibration)[scene.labels == 1]
    # From 0.8 - 0.1 above its middle the camera sees the cap above the tangents: h = r (1 - r / distance).
    height = 0.1 * (1 - 0.1 / 0.7)
    # The rim, seen edge on, counts less than it should: that is what the least cosine is for.
    assert 0.85 < weights.sum() / (2 * np.pi * 0.1 * height) < 1.0
    points = cloud[scene.labels == 1]
    # A cap's area is spread evenly over its height (Archimedes).
    truth = np.array([0, 0, 0.2 - height / 2])
    off = np.linalg.norm(np.average(points, axis=0, weights=weights) - truth)
    assert off < 0.005 and off < 0.5 * np.linalg.norm(points.mean(axis=0) - truth)


def test_flying_pixels_and_missing_depth_are_not_solid() -> None:
    _, cloud, _ = tilted_plane(0.2)
    region = np.zeros((60, 80), dtype=bool)
    region[20:40, 20:60] = True
    cloud[25, 30] += 0.2
    cloud[30, 40] = np.nan
    believed = solid(region, cloud, 0.02)
    assert not believed[25, 30] and not believed[30, 40] and not believed[~region].any()
    assert believed.sum() == region.sum() - 2
    alone = np.zeros_like(region)
    alone[30, 40:43] = True
    assert solid(alone, cloud, 0.02).sum() == 2


def test_where_nothing_can_be_believed_what_is_known_stays() -> None:
    region = np.ones((10, 10), dtype=bool)
    cloud = np.random.default_rng(0).normal(size=(10, 10, 3))
    assert solid(region, cloud, 1e-9).sum() == 100


def test_an_empty_mask_and_one_at_the_images_edge() -> None:
    _, cloud, _ = tilted_plane(0.2)
    region = np.zeros((60, 80), dtype=bool)
    assert not solid(region, cloud, 0.02).any()
    region[0, :], region[59, 79] = True, True
    assert (solid(region, cloud, 0.02) == region).all()
    assert not solid(region, np.full_like(cloud, np.nan), 0.02).any()
