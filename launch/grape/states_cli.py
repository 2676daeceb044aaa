"""`grape states` and `grape confirm`: the lab's initial states, and the word that one is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape.console import CommandError, console, table
from grape.paths import root

app = typer.Typer(help="First frames of the lab's initial states.", no_args_is_help=True)

States = Annotated[Path, typer.Option("--states", help="Folder of the states: the reset node's parameter.")]
Variant = Annotated[str, typer.Option(help="Variant of the scene.")]
Domain = Annotated[int, typer.Option("--domain", min=0, max=101, help="ROS domain of the nodes.")]
STATES = root() / "runs" / "states"


@app.command()
def capture(
    task: Annotated[str, typer.Argument(help="Task. With --bag: default as recorded.")] = "",
    state: Annotated[int, typer.Argument(min=-1, max=2**32 - 1, help="Initial-state id. With --bag: the same.")] = -1,
    bag: Annotated[Path | None, typer.Option(help="Take the first observation of this bag, not the camera's.")] = None,
    variant: Annotated[str, typer.Option(help="Variant of the scene. Default: clean, or as recorded.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Also where one is stored already.")] = False,
    states: States = STATES,
    domain: Domain = 0,
) -> None:
    """Store how a scene looks as an initial state: from the live camera, or from a recorded episode."""
    from grape_robot.state_library import StateLibrary

    if bag is None:
        if not task or state < 0:
            raise CommandError("name task and id: grape states capture TASK ID")
        from grape.ros import live_image

        image, source = live_image(domain), "camera"
    else:
        from grape_robot.first_frame import first_frame

        identity, image = first_frame(bag)
        for what, given, recorded in (("task", task, identity.task), ("variant", variant, identity.variant)):
            if given and given != recorded:
                raise CommandError(f"{bag}: is of {what} {recorded}, not {given}")
        if state >= 0 and state != identity.initial_state:
            raise CommandError(f"{bag}: is of initial state {identity.initial_state}, not {state}")
        task, state, source = identity.task, identity.initial_state, f"episode {identity.episode_id}"
        variant = variant or identity.variant
    stored = StateLibrary(states).store(task, variant or "clean", state, image, source, replace)
    console.print(f"{stored.name}: {states / task / stored.file}", markup=False)


@app.command("list")
def states_list(
    task: Annotated[str, typer.Argument(help="Only this task's.")] = "",
    states: States = STATES,
) -> None:
    """List the initial states that have a first frame."""
    from grape_robot.state_library import StateLibrary

    library = StateLibrary(states)
    rows = [
        [one.task, str(one.initial_state), one.variant, f"{one.width}x{one.height}", one.captured[:10], one.source]
        for name in ([task] if task else library.tasks())
        for one in library.states(name)
    ]
    table(f"states in {states}", ["task", "id", "variant", "size", "captured", "from"], rows)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Task.")],
    state: Annotated[int, typer.Argument(min=0, max=2**32 - 1, help="Initial-state id.")],
    variant: Variant = "clean",
    states: States = STATES,
) -> None:
    """Say where a state's first frame is, after checking that it is what was stored."""
    from grape_robot.state_library import StateError, StateLibrary, state_name

    library = StateLibrary(states)
    found = library.find(task, variant, state)
    if found is None:
        raise StateError(f"{states}: no first frame of {state_name(task, variant, state)}")
    library.image(found)
    console.print(f"{found.name}: {found.width}x{found.height}, {found.captured}, from {found.source}", markup=False)
    console.print(f"{states / task / found.file}", markup=False, soft_wrap=True)


def confirm(
    task: Annotated[str, typer.Argument(help="Task whose scene is laid out.")],
    state: Annotated[int, typer.Argument(min=0, max=2**32 - 1, help="Its initial-state id.")],
    domain: Domain = 0,
) -> None:
    """Say that the lab's scene is laid out as the initial state that a reset waits for. Exit 1 where it is another."""
    from grape.ros import confirm_reset

    confirm_reset(domain, task, state)
    console.print(f"{task} {state}: confirmed", markup=False)
