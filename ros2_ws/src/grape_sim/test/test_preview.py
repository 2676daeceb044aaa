from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from grape_sim import preview
from grape_sim.errors import SimError
from grape_sim.tasks import SIM_TASKS, VARIANTS
from grape_sim.world import World


def test_sheet_has_a_labelled_picture_of_every_task_and_variant(tmp_path: Path, world: World) -> None:
    size = 96
    path = preview.contact_sheet(tmp_path / "new" / "sheet.png", size, world=world)
    sheet = cv2.imread(str(path))
    height, width = sheet.shape[:2]
    rows, columns = len(SIM_TASKS), len(VARIANTS) + 1
    assert height // rows > size and width // columns > size
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height // rows), column * (width // columns)
            label = sheet[top : top + height // rows - size - 6, left : left + size]
            picture = sheet[top + height // rows - size - 6 :][:size, left : left + size]
            assert label.min() < 120, "something is written"
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_long_labels_fit() -> None:
    drawn = preview.tile(np.zeros((20, 80, 3), np.uint8), "a line that is far too long for a picture so small")
    assert (drawn[:-20, -3:] > 200).all()


def test_wrong_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimError, match="size 10"):
        preview.contact_sheet(tmp_path / "a.png", 10)


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, world: World) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SimError, match="file"):
        preview.contact_sheet(tmp_path / "file" / "a.png", 64, world=world)
