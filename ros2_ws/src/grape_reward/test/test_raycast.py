from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_reward.raycast import Box, lab_camera, raycast

TURN = Rotation.from_euler("zyx", [0.5, 0.2, -0.1])


def test_depth_leads_back_to_the_faces_of_the_box_and_to_the_table() -> None:
    camera = lab_camera()
    box = Box((0.08, 0.06, 0.05), Pose(np.array([0.45, 0.02, 0.1]), TURN.as_quat()), (60, 150, 60))
    _, depth, labels = raycast(camera, [box])
    points = camera.cloud(depth)
    local = np.abs(TURN.inv().apply(points[labels == 0] - box.pose.position)) / (0.5 * np.array(box.size))
    assert len(local) > 300
    np.testing.assert_allclose(local.max(axis=1), 1.0, atol=1e-4)
    np.testing.assert_allclose(points[labels == -1][:, 2], 0.0, atol=1e-5)


def test_the_nearer_box_hides_the_farther() -> None:
    camera = lab_camera()
    far = Box((0.06, 0.06, 0.06), Pose(np.array([0.45, 0.0, 0.03])), (200, 60, 60))
    near = Box((0.3, 0.3, 0.02), Pose(0.5 * (camera.eye + far.pose.position)), (90, 90, 90))
    assert (raycast(camera, [far])[2] == 0).sum() > 300
    _, _, labels = raycast(camera, [far, near])
    assert not (labels == 0).any() and (labels == 1).any()
