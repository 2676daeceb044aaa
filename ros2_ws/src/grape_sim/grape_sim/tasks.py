"""The four in-domain tasks and their variants, as the simulator knows them.

Every task is: take ``object``, put it on (or into) ``target``. The keypoints of a scene are, in this order: the middle
of the object, where it is grasped; the middle of the surface of the target on which the object is to rest; and one
point in the middle of every obstacle or distractor.
"""

from __future__ import annotations

from dataclasses import dataclass

from grape_sim.errors import SimError

VARIANTS = ("clean", "distractors", "obstacle", "near_limit", "near_edge", "moving_hand")
"""A variant's place in the list enters the seed of its scenes: new ones come last."""


@dataclass(frozen=True)
class SimTask:
    """``release_gap``: how far above the target's surface the expert lets go, metres (a basket has walls)."""

    name: str
    instruction: str
    object: str
    target: str
    release_gap: float = 0.006
    step_limit: int = 60


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


def sim_task(name: str) -> SimTask:
    """The task by name. Raises SimError for an unknown one."""
    if name not in SIM_TASKS:
        raise SimError(f"unknown task {name!r}; there are {', '.join(SIM_TASKS)}")
    return SIM_TASKS[name]


def check_variant(variant: str) -> str:
    """The variant itself. Raises SimError for an unknown one."""
    if variant not in VARIANTS:
        raise SimError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    return variant
