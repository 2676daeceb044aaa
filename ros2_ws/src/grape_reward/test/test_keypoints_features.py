import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_reward.keypoints.features import FeatureMap, GeometryFeatures
from grape_reward.keypoints.testing import ball_scene


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(9, 40), st.integers(9, 40), st.integers(0, 1000))
def test_sampling_is_upsampling_the_whole_grid(rows: int, columns: int, height: int, width: int, seed: int) -> None:
    grid = np.random.default_rng(seed).normal(size=(rows, columns, 3)).astype(np.float32)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(grid).permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    v, u = np.indices((height, width)).reshape(2, -1)
    found = FeatureMap(grid, height, width).at(np.stack([u, v], axis=1))
    np.testing.assert_allclose(found, whole.numpy().reshape(-1, 3), atol=2e-5)


def test_geometry_tells_colours_and_directions_apart() -> None:
    scene = ball_scene(np.array([[-0.1, 0.0], [0.1, 0.05]]))
    cloud = scene.calibration.cloud(scene.frame.depth)
    found = GeometryFeatures()(scene.frame.color, cloud)
    assert found.grid.shape == (120, 160, 6) and np.isfinite(found.grid).all()
    v, u = np.argwhere(scene.labels == 0)[0]
    table = found.at(np.array([[u, v]]))[0]
    np.testing.assert_allclose(table[3:], [0, 0, 0], atol=1.0)
    middle = [np.argwhere(scene.labels == ball + 1).mean(axis=0).round().astype(int) for ball in (0, 1)]
    colours = [found.at(np.array([[m[1], m[0]]]))[0, :3] for m in middle]
    assert np.linalg.norm(colours[0] - colours[1]) > 0.2


def test_geometry_survives_missing_depth() -> None:
    scene = ball_scene(np.array([[0.0, 0.0]]))
    cloud = np.full((120, 160, 3), np.nan)
    assert np.isfinite(GeometryFeatures()(scene.frame.color, cloud).grid).all()
