"""The operator's device: which mapping file and which driver a launch takes for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grape.nodes import NodesError
from grape_episode import topics
from grape_robot.joy_mapping import MappingError, load_mapping
from grape_robot.profile import GateProfile

NOTHING = "none"


@dataclass(frozen=True)
class Driver:
    """A node of another package that publishes /joy. ``apt``: the Debian package that brings it."""

    package: str
    executable: str
    name: str
    apt: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()


DRIVERS: dict[str, Driver] = {
    # not joy_node: this one numbers buttons and axes alike for every make of pad. It repeats what does not change,
    # since silence means that the dead-man's button was let go
    "gamepad": Driver(
        "joy",
        "game_controller_node",
        "joy",
        "ros-jazzy-joy",
        {"autorepeat_rate": 50.0, "coalesce_interval_ms": 1, "sticky_buttons": False},
        (("joy", topics.JOY),),
    ),
    # at rest it publishes every 30 ms by itself
    "spacemouse": Driver(
        "spacenav", "spacenav_node", "spacenav", "ros-jazzy-spacenav", {}, (("spacenav/joy", topics.JOY),)
    ),
}
MAPPINGS = {"gamepad": "teleop_gamepad.yaml", "spacemouse": "teleop_spacemouse.yaml"}


def mapping_file(joy: str, folder: Path, limits: GateProfile, evaluate: bool) -> Path | None:
    """The mapping file for ``joy`` (none, a device's name, or a path); ``folder``: launch/params; ``evaluate``: its
    button for the safety evaluation will be pressed.

    Raises NodesError where there is none, where its dead-man's button is not the one that the gate watches, or where
    it has no button for the evaluation."""
    if joy == NOTHING:
        return None
    path = folder / MAPPINGS[joy] if joy in MAPPINGS else Path(joy).expanduser()
    if not path.is_file():
        raise NodesError(f"joy:={joy}: neither one of {', '.join(sorted(MAPPINGS))} nor a file ({path})")
    try:
        mapping = load_mapping(path)
    except MappingError as error:
        raise NodesError(f"joy:={joy}: {error}") from None
    if limits.dead_man.required and mapping.dead_man != limits.dead_man.button:
        held, watched = mapping.dead_man, limits.dead_man.button
        told = f"its dead-man's button is {held}, gate profile {limits.name} watches {watched}"
        raise NodesError(f"joy:={joy}: {path}: {told}: the operator would hold the wrong one")
    if evaluate and "evaluate" not in mapping.presses:
        raise NodesError(
            f"joy:={joy}: {path}: buttons.evaluate is null: there is no button to begin an evaluation with"
        )
    return path.resolve()


def driver(joy: str, wanted: str) -> Driver | None:
    """The driver to start for ``joy``; ``wanted``: auto, none, or a device's name. A mapping of your own is taken
    for a gamepad's."""
    if joy == NOTHING or wanted == NOTHING:
        return None
    return DRIVERS[joy if joy in DRIVERS else "gamepad"] if wanted == "auto" else DRIVERS[wanted]
