"""Triangle meshes and textures made from formulas: lathes, boxes, tubes, sheets; written as OBJ and PNG.

Metres; z up. Texture coordinates address an atlas: u to the right, v upwards, both in [0, 1].
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grape_episode.geometry import Array

Region = tuple[float, float, float, float]
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
Texture = NDArray[np.uint8]


@dataclass(frozen=True)
class Mesh:
    """``vertices``, ``normals`` (N, 3), ``uvs`` (N, 2), ``faces`` (M, 3) vertex indices, counter-clockwise outside."""

    vertices: Array
    normals: Array
    uvs: Array
    faces: NDArray[np.int64]

    def moved(self, offset: Sequence[float] | Array, rotation: Array | None = None) -> Mesh:
        """The mesh rotated by a matrix (3, 3), then shifted by ``offset`` (3,) metres."""
        matrix = np.eye(3) if rotation is None else rotation
        return Mesh(self.vertices @ matrix.T + np.asarray(offset), self.normals @ matrix.T, self.uvs, self.faces)


def join(*meshes: Mesh) -> Mesh:
    """One mesh of several."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uvs for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
    )


def grid(points: Array, region: Region = WHOLE, flip: bool = False) -> Mesh:
    """A surface through ``points`` (R, C, 3), smooth normals; rows run along v, columns along u of ``region``."""
    rows, columns, _ = points.shape
    along_u = np.gradient(points, axis=1)
    along_v = np.gradient(points, axis=0)
    closed = np.allclose(points[:, 0], points[:, -1])
    if closed and columns > 2:
        seam = 0.5 * (points[:, 1] - points[:, -2])
        along_u[:, 0] = along_u[:, -1] = seam
    normals = np.cross(along_u, along_v)
    lengths = np.linalg.norm(normals, axis=2, keepdims=True)
    # A pole of a lathe has no tangent of its own: it takes its ring's mean normal.
    for row, inner in ((0, 1), (rows - 1, rows - 2)):
        if lengths[row].max() < 1e-12:
            normals[row] = normals[inner].mean(axis=0)
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-12)
    u0, v0, u1, v1 = region
    uvs = np.empty((rows, columns, 2))
    uvs[..., 0] = np.linspace(u0, u1, columns)[None, :]
    uvs[..., 1] = np.linspace(v0, v1, rows)[:, None]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    if flip:
        normals, faces = -normals, faces[:, ::-1]
    return Mesh(points.reshape(-1, 3), normals.reshape(-1, 3), uvs.reshape(-1, 2), faces)


def lathe(
    profile: Sequence[tuple[float, float]], segments: int = 16, region: Region = WHOLE, stretch: float = 1.0
) -> Mesh:
    """Surface of revolution about z of ``profile`` [(radius, height), ...] upwards; ``stretch`` scales y."""
    radii, heights = np.array(profile, dtype=np.float64).T
    angles = np.linspace(0.0, 2.0 * np.pi, segments + 1)
    points = np.empty((len(radii), segments + 1, 3))
    points[..., 0] = radii[:, None] * np.cos(angles)
    points[..., 1] = radii[:, None] * np.sin(angles) * stretch
    points[..., 2] = heights[:, None]
    points[:, -1] = points[:, 0]
    return grid(points, region)


def box(size: Sequence[float], region: Region = WHOLE) -> Mesh:
    """A box centred at the origin, the region on each of its faces."""
    half = 0.5 * np.asarray(size, dtype=np.float64)
    u0, v0, u1, v1 = region
    uvs = np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]], dtype=np.float64)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    parts = []
    for axis in range(3):
        for sign in (1, -1):
            normal = np.zeros(3)
            normal[axis] = sign
            across = np.zeros(3)
            across[(axis + 1) % 3] = 1.0
            upward = np.cross(normal, across)
            corners = [normal + u * across + v * upward for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            parts.append(Mesh(np.array(corners) * half, np.tile(normal, (4, 1)), uvs, faces))
    return join(*parts)


def tube(path: Array, radii: Sequence[float], segments: int = 6, region: Region = WHOLE) -> Mesh:
    """A tube along ``path`` (N, 3) with a radius at each point."""
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    helper = np.array([0.0, 0.0, 1.0]) if np.abs(tangents[:, 2]).max() < 0.9 else np.array([0.0, 1.0, 0.0])
    side = np.cross(tangents, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(tangents, side)
    angles = np.linspace(0.0, 2.0 * np.pi, segments + 1)
    ring = np.cos(angles)[None, :, None] * side[:, None] + np.sin(angles)[None, :, None] * other[:, None]
    points = path[:, None] + np.asarray(radii)[:, None, None] * ring
    points[:, -1] = points[:, 0]
    return grid(points, region)


def two_sided(mesh: Mesh) -> Mesh:
    """The mesh and its back: a sheet seen from both sides."""
    return join(mesh, Mesh(mesh.vertices, -mesh.normals, mesh.uvs, mesh.faces[:, ::-1]))


def rotation(axis: str, angle: float) -> Array:
    """Rotation matrix (3, 3) about ``x``, ``y`` or ``z`` by radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cos
    matrix[second, first], matrix[first, second] = sin, -sin
    return matrix


def write_obj(mesh: Mesh, path: Path) -> None:
    """Write the mesh as Wavefront OBJ."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in mesh.uvs]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in mesh.normals]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}/{i + 1}" for i in face) for face in mesh.faces]
    path.write_text("\n".join(lines) + "\n")


def write_png(image: Texture, path: Path) -> None:
    """Write an RGB image (H, W, 3) uint8 as PNG."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
