"""A contact sheet for a person's eyes: every task in every seen variant, every kind of the unseen ones, labelled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from grape_sim.demos import integrate
from grape_sim.errors import SimError
from grape_sim.expert import Expert
from grape_sim.hand import OUTSIDE
from grape_sim.tasks import ACTION_TASKS, SEEN, SIM_TASKS, VARIED
from grape_sim.unseen import KINDS
from grape_sim.world import World, WorldConfig

TILE = 360
VARIED_SHOWN = 5
_BAR, _LINE = 30, 17
_MARGIN = 6
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PAPER = (250, 250, 250)
_INK = (30, 30, 30)


def tile(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """The image with the lines of a text above it; a line too long for it is written smaller."""
    lines = text.split("\n")
    bar = np.full((_BAR + _LINE * (len(lines) - 1), image.shape[1], 3), _PAPER, np.uint8)
    for number, line in enumerate(lines):
        width = cv2.getTextSize(line, _FONT, 0.5, 1)[0][0]
        scale = 0.5 * min(1.0, (image.shape[1] - 8) / max(width, 1))
        cv2.putText(bar, line, (4, 20 + _LINE * number), _FONT, scale, _INK, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def contact_sheet(
    path: Path, size: int = TILE, initial_state: int = 0, world: World | None = None, unseen: bool = False
) -> Path:
    """Write the PNG: a row for every task, a column for every seen variant, and last what the policy itself sees.

    ``unseen``: a row for every unseen variant instead, a column for every kind of it, the tasks in turn, then a row of
    the action tasks, before and after, and one of what a base model may practise on. ``size`` is the side of a picture
    in pixels; the pictures have shadows, which the policy's do not. Raises SimError for a size below 64 or a path that
    cannot be written.
    """
    if size < 64:
        raise SimError(f"size {size} is below 64 pixels")
    path = Path(path)
    own = world is None
    stage = world or World(WorldConfig())
    try:
        rows = list(_unseen_rows(stage, size, initial_state) if unseen else _seen_rows(stage, size, initial_state))
    finally:
        if own:
            stage.close()
    encoded, data = cv2.imencode(".png", _pasted(rows)[..., ::-1])
    if not encoded:
        raise SimError(f"{path}: the picture cannot be encoded")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise SimError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _pasted(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Rows of tiles of one size, margins between them; short rows are filled with paper."""
    height, width = rows[0][0].shape[:2]
    across = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + _MARGIN), across * (width + _MARGIN), 3), _PAPER, np.uint8)
    for row, tiles in enumerate(rows):
        for column, picture in enumerate(tiles):
            top, left = row * (height + _MARGIN), column * (width + _MARGIN)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def _seen_rows(world: World, size: int, initial_state: int) -> Iterator[list[NDArray[np.uint8]]]:
    for task in SIM_TASKS:
        tiles = []
        seen = None
        for variant in SEEN:
            observation = world.reset(task, variant, initial_state)
            if (path := world.scene.hand) is not None:  # it comes from outside: wait until it is there
                world.advance(path.wait + (OUTSIDE + abs(path.reach)) / path.speed)
            seen = observation.color if seen is None else seen
            tiles.append(tile(world.render(size, size, shadows=True), f"{world.scene.instruction} [{variant}]"))
        assert seen is not None
        enlarged = cv2.resize(seen, (size, size), interpolation=cv2.INTER_NEAREST)
        tiles.append(tile(np.asarray(enlarged, np.uint8), f"what the policy sees: {seen.shape[1]} x {seen.shape[0]}"))
        yield tiles


def _unseen_rows(world: World, size: int, initial_state: int) -> Iterator[list[NDArray[np.uint8]]]:
    tasks = list(SIM_TASKS)
    for row, (variant, kinds) in enumerate(KINDS.items()):
        tiles = []
        for column in range(len(kinds)):
            world.reset(tasks[(row + column) % len(tasks)], variant, initial_state + column)
            told = f"{variant}: {world.scene.kind}\n{world.scene.instruction}"
            tiles.append(tile(world.render(size, size, shadows=True), told))
        yield tiles
    tiles = []
    for task in ACTION_TASKS:
        observation = world.reset(task, "clean", initial_state)
        tiles.append(tile(world.render(size, size, shadows=True), f"action\n{world.scene.instruction}"))
        expert, reference = Expert(world), observation.tcp
        while not observation.status.success:
            action = expert.action(observation)
            reference = integrate(reference, observation.tcp, action)
            observation = world.step(reference, float(action[6]))
        tiles.append(tile(world.render(size, size, shadows=True), f"action, done\n{world.scene.instruction}"))
    yield tiles
    tiles = []
    for number in range(VARIED_SHOWN):
        world.reset(tasks[number % len(tasks)], VARIED, initial_state + number)
        tiles.append(tile(world.render(size, size, shadows=True), f"{VARIED}: practice\n{world.scene.instruction}"))
    yield tiles


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="grape_sim.preview", description="Write a contact sheet of every task.")
    parser.add_argument("path", type=Path, help="PNG to write")
    parser.add_argument("--size", type=int, default=TILE, help="side of a picture, pixels")
    parser.add_argument("--initial-state", type=int, default=0, help="initial state of every scene")
    parser.add_argument("--unseen", action="store_true", help="the unseen variants and actions in place of the others")
    options = parser.parse_args(arguments)
    try:
        print(contact_sheet(options.path, options.size, options.initial_state, unseen=options.unseen))
    except SimError as error:
        print(f"grape_sim.preview: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
