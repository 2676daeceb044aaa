"""How a thing of the world is described, and the files that the physics engine loads it from."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grape_episode.geometry import Array
from grape_sim.errors import SimError
from grape_sim.meshes import Mesh, Texture, write_obj, write_png

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """A collision primitive: ``box`` of size (x, y, z) or ``cylinder`` of (radius, height) about z; metres."""

    kind: str
    size: tuple[float, ...]
    position: Triple = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ObjectModel:
    """All heights in metres.

    ``rest_height``: of the origin above what it lies on. ``surface``: of what others lie on, above the origin.
    ``inside``: how far a thing's middle may be from this one's and still be on or in it, along each side or, unless
    ``square``, in any direction. ``radius``: of the circle it covers seen from above. ``grasp_height``: of the TCP
    above the origin in a grasp from above; ``grasp_width``: of what is then between the fingers. ``elongated``: the
    fingers must close across x.
    """

    name: str
    mesh: Mesh
    texture: Texture
    shapes: tuple[Shape, ...]
    mass: float
    rest_height: float
    radius: float
    surface: float = 0.0
    inside: float = 0.0
    square: bool = True
    grasp_height: float = 0.0
    grasp_width: float = 0.04
    elongated: bool = False
    friction: float = 0.9


def write_object(model: ObjectModel, folder: Path) -> tuple[Path, Path]:
    """Write mesh, texture and description into ``folder``; returns the paths of URDF and PNG."""
    mesh, texture = folder / f"{model.name}.obj", folder / f"{model.name}.png"
    write_obj(model.mesh, mesh)
    write_png(model.texture, texture)
    robot = ET.Element("robot", name=model.name)
    link = ET.SubElement(robot, "link", name="body")
    contact = ET.SubElement(link, "contact")
    ET.SubElement(contact, "lateral_friction", value=str(model.friction))
    ET.SubElement(contact, "rolling_friction", value="0.001")
    ET.SubElement(contact, "spinning_friction", value="0.002")
    inertial = ET.SubElement(link, "inertial")
    ET.SubElement(inertial, "mass", value=str(model.mass))
    diagonal = _inertia(model)
    moments = {key: f"{value:.9f}" for key, value in zip(("ixx", "iyy", "izz"), diagonal, strict=True)}
    ET.SubElement(inertial, "inertia", {**moments, "ixy": "0", "ixz": "0", "iyz": "0"})
    visual = ET.SubElement(ET.SubElement(link, "visual"), "geometry")
    ET.SubElement(visual, "mesh", filename=str(mesh))
    for shape in model.shapes:
        part = ET.SubElement(link, "collision")
        ET.SubElement(part, "origin", xyz=" ".join(map(str, shape.position)), rpy="0 0 0")
        geometry = ET.SubElement(part, "geometry")
        if shape.kind == "box":
            ET.SubElement(geometry, "box", size=" ".join(map(str, shape.size)))
        elif shape.kind == "cylinder":
            ET.SubElement(geometry, "cylinder", radius=str(shape.size[0]), length=str(shape.size[1]))
        else:
            raise SimError(f"object {model.name!r} has a collision shape of unknown kind {shape.kind!r}")
    path = folder / f"{model.name}.urdf"
    ET.ElementTree(robot).write(path)
    return path, texture


def _inertia(model: ObjectModel) -> Array:
    """Moments of inertia (3,) kg m2 of a solid box around the mesh, with a floor that keeps thin things stable."""
    size = np.ptp(model.mesh.vertices, axis=0)
    squares = size**2
    moments = model.mass / 12.0 * np.array([squares[1] + squares[2], squares[0] + squares[2], squares[0] + squares[1]])
    return np.asarray(np.maximum(moments, 2e-5))
