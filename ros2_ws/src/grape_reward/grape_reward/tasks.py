"""The four in-domain tasks: their numbers. Metres and seconds; heights are of the object's middle over the target's
keypoint."""

from __future__ import annotations

from collections.abc import Mapping

from grape_reward.costs import CostProgram
from grape_reward.errors import TaskError
from grape_reward.program.shipped import shipped_program
from grape_reward.spec import DEFAULT_OBJECTIVE, OBJECTIVES, Constraint, Objective, TaskSpec
from grape_reward.stages import Above, Lifted, Placed

__all__ = ["DEFAULT_OBJECTIVE", "OBJECTIVES", "TASKS", "Constraint", "Objective", "TaskSpec", "task_named"]

NUMBERS = {
    "target": Constraint(tau=0.02, beta=10.0, worst=0.5),
    "path": Constraint(tau=2.0, beta=0.1, worst=30.0),
    "collision": Constraint(tau=0.02, beta=20.0, worst=0.3),
    "grasp": Constraint(tau=0.02, beta=10.0, worst=0.3),
}
"""By kind. A stage that takes the whole of 60 steps of 0.2 s lasts 12 s; the table is 0.5 m deep."""

LIFTED = Lifted(rise=0.015, reach=0.05, width=0.075)


def _numbers(program: CostProgram) -> dict[str, Constraint]:
    return {term.name: NUMBERS[term.kind] for term in program.terms}


def _task(
    program: CostProgram,
    instruction: str,
    stages: tuple[str, str, str],
    keypoints: tuple[str, str],
    above: Above,
    placed: Placed,
) -> TaskSpec:
    return TaskSpec(program.name, instruction, stages, keypoints, program, _numbers(program), (LIFTED, above), placed)


TASKS: Mapping[str, TaskSpec] = {
    task.name: task
    for task in (
        _task(
            shipped_program("carrot_on_plate"),
            "put the carrot on the plate",
            ("grasp the carrot", "move the carrot to the plate", "place the carrot on the plate"),
            ("carrot", "plate"),
            Above(radius=0.06),
            Placed(radius=0.08, low=0.006, high=0.045, width=0.058),
        ),
        _task(
            shipped_program("eggplant_in_basket"),
            "put the eggplant in the basket",
            ("grasp the eggplant", "move the eggplant to the basket", "drop the eggplant in the basket"),
            ("eggplant", "basket"),
            Above(radius=0.06),
            Placed(radius=0.09, low=0.01, high=0.057, width=0.072),
        ),
        _task(
            shipped_program("green_cube_on_yellow_cube"),
            "stack the green cube on the yellow cube",
            (
                "grasp the green cube",
                "move the green cube to the yellow cube",
                "place the green cube on the yellow cube",
            ),
            ("green_cube", "yellow_cube"),
            Above(radius=0.03),
            Placed(radius=0.035, low=0.015, high=0.035, width=0.066),
        ),
        _task(
            shipped_program("spoon_on_towel"),
            "put the spoon on the towel",
            ("grasp the spoon", "move the spoon to the towel", "place the spoon on the towel"),
            ("spoon", "towel"),
            Above(radius=0.06),
            Placed(radius=0.08, low=0.002, high=0.03, width=0.04),
        ),
    )
}


def task_named(name: str) -> TaskSpec:
    """The task called ``name``. Raises TaskError listing those there are."""
    if name not in TASKS:
        raise TaskError(f"unknown task {name!r}: known are {', '.join(TASKS)}")
    return TASKS[name]
