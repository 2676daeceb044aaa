"""Things that no demonstration has shown: cans, other sizes of what is grasped, a button, a bottle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from grape_sim import textures as tx
from grape_sim.meshes import Mesh, box, join, lathe
from grape_sim.models import ObjectModel, Shape, Triple

SIZES: dict[str, Triple] = {
    "small": (0.5, 0.5, 0.5),
    "large": (1.1, 1.1, 1.1),
    "wider": (1.0, 1.3, 1.0),
    "longer": (1.3, 1.0, 1.0),
}
"""Factors of an object's size along its own x (its length), y and z."""
CANS = ("red_can", "blue_can", "green_can")
BUTTON_TRAVEL = 0.010
"""How far a button's cap goes down, metres."""


def resized(model: ObjectModel, kind: str) -> ObjectModel:
    """The model in one of :data:`SIZES`, named after both; of the same material, so its mass goes with its volume."""
    factors = np.array(SIZES[kind])
    x, y, z = SIZES[kind]
    normals = model.mesh.normals / factors
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return replace(
        model,
        name=f"{model.name}_{kind}",
        mesh=Mesh(model.mesh.vertices * factors, normals, model.mesh.uvs, model.mesh.faces),
        shapes=tuple(_resized_shape(shape, SIZES[kind]) for shape in model.shapes),
        mass=model.mass * x * y * z,
        rest_height=model.rest_height * z,
        surface=model.surface * z,
        radius=model.radius * max(x, y),
        grasp_height=model.grasp_height * z,
        grasp_width=model.grasp_width * y,
        elongated=model.elongated or x != y,
    )


def _resized_shape(shape: Shape, factors: Triple) -> Shape:
    x, y, z = factors
    place = (shape.position[0] * x, shape.position[1] * y, shape.position[2] * z)
    if shape.kind == "box":
        return Shape("box", (shape.size[0] * x, shape.size[1] * y, shape.size[2] * z), place)
    # a cylinder stays round: it takes the larger of the two
    return Shape(shape.kind, (shape.size[0] * max(x, y), shape.size[1] * z), place)


def _can(name: str, colour: Triple, label: Triple) -> ObjectModel:
    """A small drink can, standing: a band of ``label`` round its middle, metal at both ends."""
    radius, half = 0.026, 0.040
    side = lathe([(radius, 0.005 - half), (radius, half - 0.005)], 20, tx.band(0, 2))
    under = lathe([(0.0, -half), (radius - 0.004, -half), (radius, 0.005 - half)], 20, tx.band(1, 2))
    top = lathe([(radius, half - 0.005), (radius - 0.004, half), (radius - 0.005, half - 0.002), (0.0, half - 0.002)],
                20, tx.band(1, 2))  # fmt: skip
    texture = tx.atlas(tx.stripes((colour, label, colour), (5, 3, 4), 96, 32), tx.plain((196, 200, 206)), size=96)
    shapes = (Shape("cylinder", (radius, 2 * half)),)
    return ObjectModel(name, join(under, side, top), texture, shapes, 0.07, half, radius, grasp_width=2 * radius)


def _console() -> ObjectModel:
    """What a button sits on: heavy enough to stay where it is when it is pushed."""
    side, height = 0.11, 0.030
    texture = tx.atlas(tx.framed((70, 74, 84), (232, 190, 40), 0.07), size=64)
    body = box((side, side, height)).moved((0, 0, height / 2))
    shapes = (Shape("box", (side, side, height), (0, 0, height / 2)),)
    return ObjectModel("console", body, texture, shapes, 4.0, 0.0, side * 0.71, surface=height, inside=0.03)


def _button() -> ObjectModel:
    """A button's cap, the part that goes down."""
    radius, half = 0.024, 0.012
    cap = lathe([(0.0, -half), (radius, -half), (radius, half - 0.003), (radius - 0.003, half), (0.0, half)], 20)
    texture = tx.atlas(tx.speckled((222, 30, 36), 0.02, 21), size=32)
    shapes = (Shape("cylinder", (radius, 2 * half)),)
    return ObjectModel("button", cap, texture, shapes, 0.05, half, radius, grasp_width=2 * radius)


def _coaster() -> ObjectModel:
    """A cork disc that a bottle stands on."""
    radius, height = 0.042, 0.006
    disc = lathe([(0.0, 0.0), (radius, 0.0), (radius, height), (0.0, height)], 24)
    texture = tx.atlas(tx.speckled((186, 140, 92), 0.12, 22, 64, 64), size=64)
    shapes = (Shape("cylinder", (radius, height), (0, 0, height / 2)),)
    return ObjectModel("coaster", disc, texture, shapes, 0.6, 0.0, radius, surface=height, inside=radius, square=False)


def _bottle() -> ObjectModel:
    """A bottle with a label, a neck and a cap; origin at half its height."""
    half, belly, neck = 0.09, 0.027, 0.012
    body = lathe([(0.0, -half), (belly, -half), (belly, -0.05)], 20, tx.band(0, 3))
    label = lathe([(belly, -0.05), (belly, 0.005)], 20, tx.band(1, 3))
    upper = lathe([(belly, 0.005), (belly, 0.020), (neck, 0.050), (neck, half - 0.015)], 20, tx.band(0, 3))
    cap = lathe([(neck, half - 0.015), (neck + 0.002, half - 0.015), (neck + 0.002, half), (0.0, half)], 16,
                tx.band(2, 3))  # fmt: skip
    texture = tx.atlas(
        tx.speckled((30, 112, 70), 0.03, 23), tx.stripes(((244, 240, 228), (40, 60, 150)), (2, 1), 32, 32),
        tx.plain((228, 188, 60)), size=96,
    )  # fmt: skip
    shapes = (
        Shape("cylinder", (belly, 0.11), (0, 0, -0.035)),
        Shape("cylinder", (neck + 0.002, 0.07), (0, 0, 0.055)),
    )
    return ObjectModel(
        "bottle", join(body, label, upper, cap), texture, shapes, 0.15, half, belly, grasp_width=2 * belly
    )


UNSEEN_OBJECTS: Mapping[str, Callable[[], ObjectModel]] = {
    "red_can": lambda: _can("red_can", (206, 26, 32), (248, 246, 240)),
    "blue_can": lambda: _can("blue_can", (28, 66, 176), (232, 60, 56)),
    "green_can": lambda: _can("green_can", (36, 140, 60), (246, 226, 70)),
    "console": _console,
    "button": _button,
    "coaster": _coaster,
    "bottle": _bottle,
}
"""Builders by name."""
