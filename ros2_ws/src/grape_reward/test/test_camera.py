"""Pixels, depth and points lead into each other, as OpenCV has it; a calibration file says what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_reward.camera import Calibration, CalibrationError, calibration_hash, load_calibration

seeds = st.integers(0, 2**32 - 1)


def some_camera(rng: np.random.Generator) -> Calibration:
    pose = Pose(rng.uniform(-2, 2, 3), Rotation.random(random_state=int(rng.integers(2**31))).as_quat())
    fx, fy = rng.uniform(200, 900, 2)
    return Calibration(640, 480, float(fx), float(fy), *map(float, rng.uniform(100, 400, 2)), pose=pose)


@given(seeds)
@settings(deadline=None)
def test_a_deprojected_pixel_projects_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    camera = some_camera(rng)
    pixels, depth = rng.uniform([-100, -100], [740, 580], (20, 2)), rng.uniform(0.1, 3.0, 20)
    again, depth_again = camera.project(camera.deproject(pixels, depth))
    np.testing.assert_allclose(again, pixels, atol=1e-6)
    np.testing.assert_allclose(depth_again, depth, atol=1e-9)


@given(seeds)
@settings(deadline=None)
def test_points_project_where_opencv_projects_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    camera = some_camera(rng)
    points = camera.deproject(rng.uniform([0, 0], [640, 480], (10, 2)), rng.uniform(0.2, 2.0, 10))
    to_camera = camera.pose.rotation.inv()
    shift = -to_camera.apply(camera.pose.position)
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    theirs, _ = cv2.projectPoints(points, to_camera.as_rotvec(), shift, matrix, None)
    np.testing.assert_allclose(camera.project(points)[0], theirs.reshape(-1, 2), atol=1e-6)


def test_what_is_behind_the_camera_has_no_pixel() -> None:
    camera = some_camera(np.random.default_rng(1))
    behind = camera.deproject(np.array([[320.0, 240.0]]), np.array([-1.0]))
    pixels, depth = camera.project(behind)
    assert np.isnan(pixels).all() and depth[0] == pytest.approx(-1.0)


def test_a_cloud_is_every_pixel_deprojected_and_nan_without_depth() -> None:
    camera = Calibration(4, 3, 5.0, 5.0, 1.5, 1.0, Pose(np.array([0.1, 0.2, 0.3])))
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    cloud = camera.cloud(depth)
    assert np.isnan(cloud[0, 0]).all()
    np.testing.assert_allclose(cloud[2, 1], camera.deproject(np.array([1.0, 2.0]), np.array(9.0)))


def test_a_file_gives_the_calibration_back_and_its_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    camera = some_camera(np.random.default_rng(3))
    path = tmp_path / "camera.yaml"
    digest = camera.save(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == calibration_hash(path)
    again = load_calibration(path)
    assert again.described() == camera.described()
    path.write_text(path.read_text() + "# another camera\n")
    assert calibration_hash(path) != digest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "other"}, "format"),
        ({"width": "wide"}, "width"),
        ({"width": 0}, "width"),
        ({"intrinsics": {"fx": 1.0, "fy": 1.0, "cx": 1.0}}, "intrinsics.cy"),
        ({"intrinsics": {"fx": True, "fy": 1.0, "cx": 1.0, "cy": 1.0}}, "intrinsics.fx"),
        ({"pose_in_base": {"position": [0, 0, 0]}}, "pose_in_base.quaternion_xyzw"),
        ({"pose_in_base": {"position": [0, 0], "quaternion_xyzw": [0, 0, 0, 1]}}, "pose_in_base.position"),
        ({"pose_in_base": {"position": [0, 0, 0], "quaternion_xyzw": [0, 0, 0, 2]}}, "quaternion"),
        ({"pose_in_base": {"position": [0, 0, float("nan")], "quaternion_xyzw": [0, 0, 0, 1]}}, "pose"),
        ({"distortion": [0.1, 0, 0, 0, 0]}, "distortion"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_field(tmp_path: Path, change: dict, named: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(some_camera(np.random.default_rng(3)).described() | change))
    with pytest.raises(CalibrationError) as caught:
        load_calibration(path)
    text = str(caught.value)
    assert str(path) in text and named in text and "\n" not in text


def test_no_distortion_may_be_said(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(some_camera(np.random.default_rng(3)).described() | {"distortion": [0, 0, 0, 0, 0]}))
    assert load_calibration(path).width == 640


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [1", b"- 1", b""])
def test_a_file_that_is_no_calibration_ends_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "camera.yaml"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"camera\.yaml") as caught:
        load_calibration(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (load_calibration, calibration_hash):
        with pytest.raises(CalibrationError, match=r"gone\.yaml"):
            read(tmp_path / "gone.yaml")
