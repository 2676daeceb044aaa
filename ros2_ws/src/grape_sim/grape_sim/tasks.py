"""The tasks and the variants of their worlds, as the simulator knows them.

An in-domain task is: take ``object``, put it on (or into) ``target``. The keypoints of a scene are, in this order: the
middle of the object, where it is grasped; the middle of the surface of the target on which the object is to rest; and
one point in the middle of everything else that lies there. The tasks of :data:`ACTION_TASKS` ask for another motion.
"""

from __future__ import annotations

from dataclasses import dataclass

from grape_sim.errors import SimError

UNSEEN = ("subject", "physical", "semantic", "visual", "grounding")
"""Variants that change what the demonstrations have shown; see :mod:`grape_sim.unseen`."""
SEEN = ("clean", "distractors", "obstacle", "near_limit", "near_edge", "moving_hand")
VARIED = "varied"
"""The variant that a base model practises in; see :mod:`grape_sim.practice`."""
VARIANTS = (*SEEN, *UNSEEN, VARIED)
"""A variant's place in the list enters the seed of its scenes: new ones come last."""
PLACE, PRESS, TOPPLE = "place", "press", "topple"


@dataclass(frozen=True)
class SimTask:
    """``release_gap``: how far above the target's surface the expert lets go, metres (a basket has walls).

    ``goal``: what is to be done with the object: PLACE it on the target, PRESS it down on the target, TOPPLE it."""

    name: str
    instruction: str
    object: str
    target: str
    release_gap: float = 0.006
    step_limit: int = 60
    goal: str = PLACE


SIM_TASKS: dict[str, SimTask] = {
    task.name: task
    for task in (
        SimTask("carrot_on_plate", "put the carrot on the plate", "carrot", "plate", 0.014),
        SimTask("eggplant_in_basket", "put the eggplant in the basket", "eggplant", "basket", 0.045),
        SimTask(
            "green_cube_on_yellow_cube", "stack the green cube on the yellow cube", "green_cube", "yellow_cube", 0.008
        ),
        SimTask("spoon_on_towel", "put the spoon on the towel", "spoon", "towel", 0.012),
    )
}
"""The four in-domain tasks: what is demonstrated, aligned and evaluated unless told otherwise."""

ACTION_TASKS: dict[str, SimTask] = {
    task.name: task
    for task in (
        SimTask("press_button", "push the red button", "button", "console", goal=PRESS),
        SimTask("knock_down_bottle", "knock down the bottle", "bottle", "coaster", goal=TOPPLE),
    )
}
"""Actions that no demonstration shows. The object stands on the target; the world alone judges them."""

ALL_TASKS = {**SIM_TASKS, **ACTION_TASKS}
"""A task's place in the list enters the seed of its scenes: new ones come last."""


def sim_task(name: str) -> SimTask:
    """The task by name. Raises SimError for an unknown one."""
    if name not in ALL_TASKS:
        raise SimError(f"unknown task {name!r}; there are {', '.join(ALL_TASKS)}")
    return ALL_TASKS[name]


def check_variant(variant: str) -> str:
    """The variant itself. Raises SimError for an unknown one."""
    if variant not in VARIANTS:
        raise SimError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    return variant
