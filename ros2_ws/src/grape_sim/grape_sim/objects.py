"""What lies on the table: how it looks (mesh and texture), what it collides with (boxes, cylinders), how heavy it is.

Every object's frame: x along its length, z up, origin at the height of its middle for things to be grasped and on the
table for things to be put on. Metres, kilograms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from grape_sim import textures as tx
from grape_sim.errors import SimError
from grape_sim.meshes import Mesh, box, grid, join, lathe, rotation, tube, two_sided
from grape_sim.models import ObjectModel, Shape, Triple
from grape_sim.practice_objects import PRACTICE_OBJECTS
from grape_sim.unseen_objects import SIZES, UNSEEN_OBJECTS, resized


def _along_x(mesh: Mesh) -> Mesh:
    """A lathe stands on z; lay it along x."""
    return mesh.moved((0, 0, 0), rotation("y", np.pi / 2))


def _carrot(name: str = "carrot", skin: Triple = (243, 120, 24), ring: Triple = (198, 84, 10)) -> ObjectModel:
    radius, length = 0.019, 0.13
    share = np.array([0.0, 0.04, 0.15, 0.4, 0.65, 0.85, 0.96, 1.0])
    taper = np.array([0.0, 0.30, 0.42, 0.62, 0.80, 0.95, 0.86, 0.0]) * radius
    body = _along_x(lathe(list(zip(taper, share * length - 0.075, strict=True)), 14, tx.band(0, 2)))
    leaves = []
    for angle, lift, reach in (
        (-0.55, 0.004, 0.042),
        (-0.2, 0.018, 0.055),
        (0.15, 0.008, 0.058),
        (0.5, 0.014, 0.046),
        (0.0, 0.028, 0.042),
    ):
        line = np.linspace(0, 1, 4)[:, None]
        path = np.array([0.052, 0, 0]) + line * np.array([np.cos(angle) * reach, np.sin(angle) * reach, 0.0])
        path[:, 2] += lift * line[:, 0] ** 1.5
        leaves.append(tube(path, (0.003, 0.007, 0.008, 0.001), 6, tx.band(1, 2)))
    texture = tx.atlas(tx.rings(skin, ring, 9, 0.03, 3), tx.speckled((52, 150, 44), 0.14, 4))
    shapes = (
        Shape("box", (0.075, 0.032, 2 * radius), (0.012, 0, 0)),
        Shape("box", (0.05, 0.020, 0.024), (-0.045, 0, -0.005)),
        Shape("box", (0.035, 0.028, 0.008), (0.066, 0, 0.008)),
    )
    return ObjectModel(
        name, join(body, *leaves), texture, shapes, 0.06, radius, 0.085, grasp_width=0.032, elongated=True
    )


def _eggplant(name: str = "eggplant", skin: Triple = (92, 32, 118)) -> ObjectModel:
    profile = [
        (0.0, -0.062),
        (0.016, -0.058),
        (0.025, -0.044),
        (0.0285, -0.024),
        (0.0265, 0.0),
        (0.021, 0.022),
        (0.0165, 0.042),
        (0.012, 0.054),
        (0.0, 0.058),
    ]
    body = _along_x(lathe(profile, 16, tx.band(0, 2)))
    cap = _along_x(
        lathe(
            [(0.021, 0.034), (0.0185, 0.046), (0.012, 0.058), (0.005, 0.062), (0.0045, 0.080), (0.0, 0.081)],
            12,
            tx.band(1, 2),
        )
    )
    texture = tx.atlas(tx.speckled(skin, 0.05, 5), tx.speckled((70, 150, 60), 0.10, 6))
    shapes = (
        Shape("box", (0.066, 0.044, 0.053), (-0.022, 0, -0.0005)),
        Shape("box", (0.05, 0.034, 0.034), (0.034, 0, 0)),
        Shape("box", (0.02, 0.008, 0.008), (0.069, 0, 0)),
    )
    return ObjectModel(name, join(body, cap), texture, shapes, 0.08, 0.027, 0.08, grasp_width=0.044, elongated=True)


def _cube(name: str, side: float, colour: Triple, edge: Triple) -> ObjectModel:
    texture = tx.atlas(tx.framed(colour, edge, 0.09), size=32)
    return ObjectModel(
        name,
        box((side, side, side)),
        texture,
        (Shape("box", (side, side, side)),),
        0.09,
        side / 2,
        side * 0.71,
        surface=side / 2,
        inside=side * 0.5,
        grasp_width=side,
    )


def _spoon(name: str = "spoon", handle_colour: Triple = (38, 84, 190)) -> ObjectModel:
    """A ladle-like spoon: a thick handle, which two fingers can take, and a bowl at its -x end."""
    steps = np.linspace(0, 1, 7)
    path = np.stack([-0.055 + 0.145 * steps, np.zeros(7), -0.001 + 0.003 * np.sin(np.pi * steps)], axis=1)
    handle = tube(path, (0.0055, 0.006, 0.0065, 0.0075, 0.0085, 0.0085, 0.003), 8, tx.band(0, 2))
    rings_ = np.linspace(0.0, 0.5 * np.pi, 6)
    outer = lathe([(0.027 * np.sin(a), -0.016 * np.cos(a)) for a in rings_], 16, tx.band(1, 2), stretch=0.78)
    inner = lathe([(0.024 * np.sin(a), 0.001 - 0.012 * np.cos(a)) for a in rings_], 16, tx.band(1, 2), stretch=0.76)
    inner = Mesh(inner.vertices, -inner.normals, inner.uvs, inner.faces[:, ::-1])
    bowl = join(outer, inner).moved((-0.078, 0, 0.007))
    texture = tx.atlas(tx.speckled(handle_colour, 0.04, 7), tx.speckled((176, 182, 190), 0.03, 8))
    shapes = (
        Shape("box", (0.14, 0.015, 0.017), (0.018, 0, 0)),
        Shape("box", (0.048, 0.038, 0.015), (-0.078, 0, -0.001)),
    )
    return ObjectModel(
        name,
        join(handle, bowl),
        texture,
        shapes,
        0.06,
        0.0088,
        0.105,
        grasp_height=0.013,
        grasp_width=0.015,
        elongated=True,
    )


def _plate() -> ObjectModel:
    # The pattern is drawn by rings, each its own colour: glaze, blue line, glaze, blue rim, underside.
    profile = [(0.0, 0.0082), (0.048, 0.0082), (0.058, 0.0095), (0.062, 0.0105), (0.084, 0.0180), (0.093, 0.0205)]
    face = [lathe([profile[i], profile[i + 1]], 28, tx.band(b, 3)) for i, b in ((0, 0), (1, 0), (2, 1), (3, 0), (4, 1))]
    face = [Mesh(m.vertices, -m.normals, m.uvs, m.faces[:, ::-1]) for m in face]
    under = lathe([(0.055, 0.0), (0.06, 0.001), (0.094, 0.0185), (0.093, 0.0205)], 28, tx.band(2, 3))
    texture = tx.atlas(tx.plain((250, 250, 252)), tx.plain((60, 110, 200)), tx.plain((226, 228, 234)), size=96)
    shapes = (Shape("cylinder", (0.088, 0.0085), (0, 0, 0.00425)),)
    return ObjectModel(
        "plate", join(*face, under), texture, shapes, 0.5, 0.0, 0.094, surface=0.0085, inside=0.075, square=False
    )


def _basket() -> ObjectModel:
    side, height, wall = 0.18, 0.055, 0.008
    half = side / 2
    rim = (0.02, 0.02, 0.98, 0.14)
    floor = (0.02, 0.18, 0.98, 0.32)
    parts = [box((side, side, 0.006), floor).moved((0, 0, 0.003))]
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        size = (wall, side, height) if axis == 0 else (side, wall, height)
        centre = np.array([0.0, 0.0, height / 2])
        centre[axis] = sign * (half - wall / 2)
        # Only the texture's lower half of the height: withes stay square on a wall that is longer than high.
        parts.append(box(size, (0.0, 0.34, 1.0, 0.64)).moved(centre))
        edge = (wall * 1.9, side + wall * 0.9, 0.008) if axis == 0 else (side + wall * 0.9, wall * 1.9, 0.008)
        parts.append(box(edge, rim).moved(centre + np.array([0, 0, height / 2])))
    image = np.concatenate(
        [
            tx.woven((214, 160, 88), (112, 70, 30), 12, 192)[:126],
            tx.plain((150, 104, 56), 34, 192),
            tx.speckled((122, 78, 36), 0.08, 9, 32, 192),
        ]
    )
    texture = np.clip(np.round(image), 0, 255).astype(np.uint8)
    shapes = [Shape("box", (side, side, 0.006), (0, 0, 0.003))]
    for sign in (1, -1):
        # Walls that end above the table: the floor alone carries the basket.
        shapes.append(Shape("box", (wall, side, height - 0.004), (sign * (half - wall / 2), 0, height / 2 + 0.002)))
        shapes.append(Shape("box", (side, wall, height - 0.004), (0, sign * (half - wall / 2), height / 2 + 0.002)))
    return ObjectModel(
        "basket", join(*parts), texture, tuple(shapes), 0.6, 0.0, half * 1.42, surface=0.006, inside=half - wall
    )


def _towel() -> ObjectModel:
    length, width, height = 0.19, 0.15, 0.005
    x = np.linspace(-length / 2, length / 2, 13)
    y = np.linspace(-width / 2, width / 2, 10)
    points = np.empty((len(x), len(y), 3))
    points[..., 0], points[..., 1] = x[:, None], y[None, :]
    points[..., 2] = height + 0.0012 * np.sin(60 * x[:, None]) * np.cos(45 * y[None, :])
    sheet = two_sided(grid(points, (0.02, 0.02, 0.98, 0.98), flip=True))
    border = box((length, width, height), (0.02, 0.02, 0.1, 0.06)).moved((0, 0, height / 2 - 0.002))
    white, teal, red = (240, 238, 230), (34, 140, 140), (206, 66, 78)
    image = tx.stripes(
        (white, teal, white, red, white, teal, white, red, white, teal, white), (2, 4, 3, 2, 3, 6, 3, 2, 3, 4, 2)
    )
    texture = np.clip(np.round(image), 0, 255).astype(np.uint8)
    shapes = (Shape("box", (length, width, height), (0, 0, height / 2)),)
    return ObjectModel("towel", join(sheet, border), texture, shapes, 0.4, 0.0, 0.122, surface=height, inside=0.075)


def _mug() -> ObjectModel:
    outer = lathe([(0.030, 0.0), (0.034, 0.004), (0.035, 0.078), (0.032, 0.080)], 18, tx.band(0, 2))
    inner = lathe([(0.0, 0.006), (0.029, 0.008), (0.032, 0.080)], 18, tx.band(1, 2))
    inner = Mesh(inner.vertices, -inner.normals, inner.uvs, inner.faces[:, ::-1])
    angles = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 8)
    path = np.stack([0.033 + 0.024 * np.cos(angles), np.zeros(8), 0.042 + 0.024 * np.sin(angles)], axis=1)
    handle = tube(path, (0.005,) * 8, 6, tx.band(0, 2))
    band = tx.stripes(((225, 70, 60), (245, 240, 228), (225, 70, 60)), (3, 2, 3), 64, 64)
    texture = tx.atlas(band, tx.plain((120, 34, 30)), size=64)
    shapes = (Shape("cylinder", (0.035, 0.08), (0, 0, 0.04)), Shape("box", (0.025, 0.01, 0.05), (0.046, 0, 0.042)))
    return ObjectModel("mug", join(outer, inner, handle), texture, shapes, 0.25, 0.0, 0.06)


def _ball() -> ObjectModel:
    radius = 0.03
    angles = np.linspace(0, np.pi, 13)
    mesh = lathe([(radius * np.sin(a), radius - radius * np.cos(a)) for a in angles], 18, (0.02, 0.02, 0.98, 0.98))
    rows, columns = np.mgrid[0:64, 0:64]
    seam = np.abs(rows - 32 - 14 * np.sin(columns / 64 * 4 * np.pi)) < 2.2
    image = np.where(seam[..., None], (250, 250, 240), np.array((196, 222, 48)))
    shapes = (
        Shape("cylinder", (0.022, 2 * radius), (0, 0, radius)),
        Shape("box", (0.042, 0.042, 0.044), (0, 0, radius)),
    )
    return ObjectModel("ball", mesh, image.astype(np.uint8), shapes, 0.08, 0.0, 0.032)


def _block() -> ObjectModel:
    """A toy brick with two studs."""
    body = box((0.07, 0.036, 0.034), (0.1, 0.1, 0.9, 0.9)).moved((0, 0, 0.017))
    studs = [
        lathe([(0.011, 0.0), (0.011, 0.009), (0.0, 0.009)], 12, (0.1, 0.1, 0.9, 0.9)).moved((x, 0, 0.034))
        for x in (-0.018, 0.018)
    ]
    texture = tx.atlas(tx.speckled((236, 96, 160), 0.02, 12, 16, 16), size=16)
    return ObjectModel(
        "brick", join(body, *studs), texture, (Shape("box", (0.07, 0.036, 0.042), (0, 0, 0.021)),), 0.06, 0.0, 0.042
    )


def _post() -> ObjectModel:
    """The obstacle: a red and white post on a foot."""
    foot = lathe([(0.032, 0.0), (0.032, 0.010), (0.018, 0.014)], 18, tx.band(1, 2))
    shaft = lathe([(0.018, 0.012), (0.018, 0.150), (0.0, 0.150)], 16, tx.band(0, 2))
    red, white = (214, 30, 34), (246, 244, 240)
    texture = tx.atlas(
        tx.stripes((red, white, red, white, red, red), (2, 2, 2, 2, 2, 4), 120, 32), tx.plain((168, 20, 24)), size=128
    )
    shapes = (Shape("cylinder", (0.032, 0.012), (0, 0, 0.006)), Shape("cylinder", (0.018, 0.138), (0, 0, 0.081)))
    return ObjectModel("post", join(foot, shaft), texture, shapes, 3.0, 0.0, 0.034)


_BUILDERS: dict[str, Callable[[], ObjectModel]] = {
    "carrot": _carrot,
    "plate": _plate,
    "eggplant": _eggplant,
    "basket": _basket,
    "green_cube": lambda: _cube("green_cube", 0.046, (40, 168, 62), (120, 222, 130)),
    "yellow_cube": lambda: _cube("yellow_cube", 0.060, (240, 200, 30), (255, 236, 140)),
    "spoon": _spoon,
    "towel": _towel,
    "mug": _mug,
    "ball": _ball,
    "brick": _block,
    "post": _post,
    "purple_carrot": lambda: _carrot("purple_carrot", (126, 44, 140), (92, 24, 108)),
    "white_eggplant": lambda: _eggplant("white_eggplant", (236, 232, 220)),
    "red_cube": lambda: _cube("red_cube", 0.046, (200, 36, 40), (244, 136, 128)),
    "red_spoon": lambda: _spoon("red_spoon", (204, 36, 40)),
    **UNSEEN_OBJECTS,
    **PRACTICE_OBJECTS,
}


def _resized(name: str, kind: str) -> Callable[[], ObjectModel]:
    return lambda: resized(object_model(name), kind)


_GRASPED = ("carrot", "eggplant", "green_cube", "spoon")
_BUILDERS |= {f"{name}_{kind}": _resized(name, kind) for name in _GRASPED for kind in SIZES}
OBJECTS = tuple(_BUILDERS)


@functools.cache
def object_model(name: str) -> ObjectModel:
    """The model of an object by name. Raises SimError for a name that is not in ``OBJECTS``."""
    if name not in _BUILDERS:
        raise SimError(f"no object named {name!r}; there are {', '.join(OBJECTS)}")
    return _BUILDERS[name]()
