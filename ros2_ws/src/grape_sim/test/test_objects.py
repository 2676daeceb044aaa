"""What an object looks like and what it collides with are the same thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grape_sim.errors import SimError
from grape_sim.models import ObjectModel, write_object
from grape_sim.objects import OBJECTS, object_model
from grape_sim.robot import WIDTH_OPEN
from grape_sim.scene import GAP
from grape_sim.tasks import SIM_TASKS


def bounds(model: ObjectModel) -> tuple[np.ndarray, np.ndarray]:
    low, high = [], []
    for shape in model.shapes:
        radius_like = shape.kind == "cylinder"
        size = np.array([2 * shape.size[0]] * 2 + [shape.size[1]]) if radius_like else np.array(shape.size)
        low.append(np.array(shape.position) - size / 2)
        high.append(np.array(shape.position) + size / 2)
    return np.min(low, axis=0), np.max(high, axis=0)


@pytest.mark.parametrize("name", OBJECTS)
def test_collision_shapes_fit_the_mesh(name: str) -> None:
    model = object_model(name)
    low, high = bounds(model)
    seen_low, seen_high = model.mesh.vertices.min(axis=0), model.mesh.vertices.max(axis=0)
    assert (low > seen_low - 0.006).all() and (high < seen_high + 0.006).all()
    assert (np.ptp([low, high], axis=0) > 0.6 * (seen_high - seen_low)).sum() >= 2


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_at_rest_height_stands_on_the_table_and_keeps_to_its_circle(name: str) -> None:
    model = object_model(name)
    assert bounds(model)[0][2] == pytest.approx(-model.rest_height, abs=0.0012)
    for shape in model.shapes:
        x, y = np.abs(shape.position[:2])
        if shape.kind == "cylinder":
            reach = np.hypot(x, y) + shape.size[0]
        else:
            reach = np.hypot(x + shape.size[0] / 2, y + shape.size[1] / 2)
        assert reach <= model.radius + 0.005
    # Leaves and a spoon's rim may lie over the circle, but not over the gap that scenes keep.
    assert np.linalg.norm(model.mesh.vertices[:, :2], axis=1).max() <= model.radius + GAP


@pytest.mark.parametrize("task", SIM_TASKS.values(), ids=lambda task: task.name)
def test_objects_fit_the_gripper_and_targets_can_carry_them(task) -> None:
    thing, target = object_model(task.object), object_model(task.target)
    assert 0.012 < thing.grasp_width < WIDTH_OPEN - 0.02
    assert target.inside > 0.02
    tops = [
        shape.position[2] + (shape.size[2] if shape.kind == "box" else shape.size[1]) / 2 for shape in target.shapes
    ]
    assert any(abs(top - target.surface) < 1e-6 for top in tops), "what the keypoint calls surface can be stood on"


@pytest.mark.parametrize("name", OBJECTS)
def test_textures_are_addressed_inside_the_atlas(name: str) -> None:
    uvs = object_model(name).mesh.uvs
    assert uvs.min() >= 0.0 and uvs.max() <= 1.0


def test_unknown_object_is_named() -> None:
    with pytest.raises(SimError, match="'sofa'"):
        object_model("sofa")


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for run in ("a", "b"):
        folder = tmp_path / run
        folder.mkdir()
        write_object(object_model("carrot"), folder)
        contents.append([(folder / f"carrot.{end}").read_bytes() for end in ("obj", "png")])
    assert contents[0] == contents[1]
