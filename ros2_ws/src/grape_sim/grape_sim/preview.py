"""A contact sheet for a person's eyes: every task in every variant, labelled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_sim.errors import SimError
from grape_sim.hand import OUTSIDE
from grape_sim.tasks import SIM_TASKS, VARIANTS
from grape_sim.world import World, WorldConfig

TILE = 360
_BAR = 30
_MARGIN = 6
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PAPER = (250, 250, 250)
_INK = (30, 30, 30)


def tile(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """The image with a line of text above it; a line too long for it is written smaller."""
    bar = np.full((_BAR, image.shape[1], 3), _PAPER, np.uint8)
    scale = 0.5
    width = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    scale *= min(1.0, (image.shape[1] - 8) / width)
    cv2.putText(bar, text, (4, 20), _FONT, scale, _INK, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def contact_sheet(path: Path, size: int = TILE, initial_state: int = 0, world: World | None = None) -> Path:
    """Write the PNG: a row for every task, a column for every variant, and last what the policy itself sees.

    ``size`` is the side of a picture in pixels; the pictures have shadows, which the policy's do not. Raises SimError
    for a size below 64 or a path that cannot be written.
    """
    if size < 64:
        raise SimError(f"size {size} is below 64 pixels")
    path = Path(path)
    own = world is None
    stage = world or World(WorldConfig())
    try:
        rows = [_row(stage, task, size, initial_state) for task in SIM_TASKS]
    finally:
        if own:
            stage.close()
    gap = np.full((_MARGIN, rows[0].shape[1], 3), _PAPER, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row, gap)])
    encoded, data = cv2.imencode(".png", sheet[..., ::-1])
    if not encoded:
        raise SimError(f"{path}: the picture cannot be encoded")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise SimError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _row(world: World, task: str, size: int, initial_state: int) -> NDArray[np.uint8]:
    tiles = []
    seen = None
    for variant in VARIANTS:
        observation = world.reset(task, variant, initial_state)
        if (path := world.scene.hand) is not None:  # it comes from outside: wait until it is there
            world.advance(path.wait + (OUTSIDE + abs(path.reach)) / path.speed)
        seen = observation.color if seen is None else seen
        tiles.append(tile(world.render(size, size, shadows=True), f"{SIM_TASKS[task].instruction} [{variant}]"))
    assert seen is not None
    enlarged = cv2.resize(seen, (size, size), interpolation=cv2.INTER_NEAREST)
    tiles.append(tile(np.asarray(enlarged, np.uint8), f"what the policy sees: {seen.shape[1]} x {seen.shape[0]}"))
    gap = np.full((tiles[0].shape[0], _MARGIN, 3), _PAPER, np.uint8)
    return np.concatenate([part for picture in tiles for part in (picture, gap)], axis=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="grape_sim.preview", description="Write a contact sheet of every task.")
    parser.add_argument("path", type=Path, help="PNG to write")
    parser.add_argument("--size", type=int, default=TILE, help="side of a picture, pixels")
    parser.add_argument("--initial-state", type=int, default=0, help="initial state of every scene")
    options = parser.parse_args(arguments)
    try:
        print(contact_sheet(options.path, options.size, options.initial_state))
    except SimError as error:
        print(f"grape_sim.preview: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
