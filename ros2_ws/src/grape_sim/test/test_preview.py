from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from grape_sim import preview
from grape_sim.errors import SimError
from grape_sim.tasks import SEEN, SIM_TASKS
from grape_sim.unseen import KINDS
from grape_sim.world import World


@pytest.mark.parametrize(
    "unseen, columns",
    [
        (False, [len(SEEN) + 1] * len(SIM_TASKS)),
        (True, [*(len(kinds) for kinds in KINDS.values()), 4, preview.VARIED_SHOWN]),
    ],
)
def test_sheet_has_a_labelled_picture_of_everything(
    tmp_path: Path, world: World, unseen: bool, columns: list[int]
) -> None:
    size = 96
    path = preview.contact_sheet(tmp_path / "new" / "sheet.png", size, world=world, unseen=unseen)
    sheet = cv2.imread(str(path))
    height, width = sheet.shape[:2]
    rows, most = len(columns), max(columns)
    assert height // rows > size and width // most == size + 6
    for row in range(rows):
        for column in range(columns[row]):
            top, left = row * (height // rows), column * (width // most)
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
