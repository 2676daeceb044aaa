"""Meshes enclose the volume that their formula says, facing outwards; files say the same again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from grape_sim.meshes import Mesh, box, grid, join, lathe, rotation, tube, two_sided, write_obj, write_png


def volume(mesh: Mesh) -> float:
    """Signed volume by the divergence theorem: positive only when faces look outwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


def agreement(mesh: Mesh) -> float:
    """Least cosine between a face's own normal and its corners' normals."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    own = np.cross(b - a, c - a)
    areas = np.linalg.norm(own, axis=1)
    solid = areas > 1e-12
    own = own[solid] / areas[solid, None]
    return float(np.einsum("ij,ikj->ik", own, mesh.normals[mesh.faces[solid]]).min())


def test_box_has_its_volume_and_looks_outwards() -> None:
    mesh = box((0.1, 0.2, 0.3))
    assert volume(mesh) == pytest.approx(0.1 * 0.2 * 0.3)
    assert agreement(mesh) == pytest.approx(1.0)


def test_lathe_of_a_circle_is_a_sphere() -> None:
    angles = np.linspace(0, np.pi, 40)
    mesh = lathe([(0.5 * np.sin(a), -0.5 * np.cos(a)) for a in angles], 60)
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.01)
    assert agreement(mesh) > 0.9
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-9)


def test_tube_looks_outwards() -> None:
    path = np.stack([np.linspace(0, 1, 6), np.zeros(6), np.zeros(6)], axis=1)
    mesh = tube(path, (0.1,) * 6, 12)
    outwards = mesh.vertices - np.stack([mesh.vertices[:, 0], np.zeros(78), np.zeros(78)], axis=1)
    assert np.einsum("ij,ij->i", outwards, mesh.normals).min() > 0
    assert agreement(mesh) > 0.7


def test_joined_and_moved_meshes_keep_their_parts() -> None:
    one = box((1, 1, 1))
    both = join(one, one.moved((3, 0, 0), rotation("z", 0.3)))
    assert volume(both) == pytest.approx(2.0)
    assert both.vertices[:, 0].max() > 3.4


def test_sheet_has_two_sides() -> None:
    points = np.zeros((3, 4, 3))
    points[..., 0], points[..., 1] = np.arange(3)[:, None], np.arange(4)[None, :]
    sheet = two_sided(grid(points))
    assert (sheet.normals[:, 2] > 0).sum() == (sheet.normals[:, 2] < 0).sum() == 12


@pytest.mark.parametrize("axis, source, image", [("x", [0, 1, 0], [0, 0, 1]), ("y", [0, 0, 1], [1, 0, 0])])
def test_rotation_is_right_handed(axis: str, source: list[float], image: list[float]) -> None:
    np.testing.assert_allclose(rotation(axis, np.pi / 2) @ source, image, atol=1e-12)


def test_png_is_read_back_by_another_decoder(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (13, 7, 3), dtype=np.uint8)
    write_png(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)


def test_obj_counts_from_one(tmp_path: Path) -> None:
    mesh = box((1, 1, 1))
    write_obj(mesh, tmp_path / "a.obj")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    corners = [int(word.split("/")[0]) for line in lines if line.startswith("f ") for word in line.split()[1:]]
    assert min(corners) == 1 and max(corners) == len(mesh.vertices) == sum(line.startswith("v ") for line in lines)
