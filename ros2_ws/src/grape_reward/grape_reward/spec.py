"""What a task is to the reward: its cost program, the numbers of Eq. 8, where stages end and what success is."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grape_reward.costs import KINDS, CostProgram, sha256
from grape_reward.errors import TaskError
from grape_reward.predicates import Predicate, described, reads_force

REDUCTIONS = ("last", "max", "mean", "integral")
OVER_TIME: Mapping[str, str] = {"target": "last", "path": "integral", "collision": "max", "grasp": "last"}
"""How a constraint's costs become one number for its stage, unless the task file says otherwise, by kind."""


@dataclass(frozen=True)
class Constraint:
    """The numbers of one constraint in Eq. 8: threshold ``tau``, weight ``beta`` and ``worst``, the cost that a stage
    is charged which was never reached, or not seen to its end. All refer to the cost after its reduction over time,
    ``over_time``, one of REDUCTIONS: the cost's own unit, times seconds for an integral."""

    tau: float
    beta: float
    worst: float
    over_time: str = "last"


@dataclass(frozen=True)
class Objective:
    """An alignment objective scales thresholds and weights by kind of constraint (002, section 3.6); 1 is implied."""

    tau: Mapping[str, float] = field(default_factory=dict)
    beta: Mapping[str, float] = field(default_factory=dict)

    def apply(self, kind: str, constraint: Constraint) -> Constraint:
        tau, beta = constraint.tau * self.tau.get(kind, 1.0), constraint.beta * self.beta.get(kind, 1.0)
        return Constraint(tau, beta, constraint.worst, constraint.over_time)


OBJECTIVES: Mapping[str, Objective] = {
    "task_completion": Objective(),
    "safety": Objective(tau={"collision": 0.25}, beta={"collision": 4.0, "path": 0.0}),
    "efficiency": Objective(tau={"path": 0.25}, beta={"path": 4.0, "collision": 0.0}),
}
"""Lower threshold and higher weight for what the objective is about; the other of the two does not enter. Every task
has these presets; its file may add others, or its own under these names."""

DEFAULT_OBJECTIVE = "task_completion"


@dataclass(frozen=True)
class Success:
    """``when`` holds in two consecutive observations at least, and for ``hold`` seconds, the gripper at least
    ``gripper_open`` metres open, and no keypoint of ``still`` (index to metres) moves further from one of these
    observations to the next."""

    when: Predicate
    gripper_open: float
    hold: float
    still: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSpec:
    """``stages``: their names. ``keypoints``: names of those that the program and the conditions know, ``bodies`` the
    objects they are fixed to; ``obstacles``: more keypoints may follow them. ``constraints``: the numbers of every
    constraint of ``program``, by name. ``boundaries``: the conditions that end stage 0, 1, ... (one fewer than
    stages). A keypoint seen with less than ``confidence`` is lost; the costs of a stage are unknown in which one was
    lost for more than ``lost_at_most`` seconds. ``folder``: where the task's approvals are; None: nowhere."""

    name: str
    instructions: tuple[str, ...]
    stages: tuple[str, ...]
    keypoints: tuple[str, ...]
    bodies: tuple[str, ...]
    program: CostProgram
    constraints: Mapping[str, Constraint]
    boundaries: tuple[Predicate, ...]
    success: Success
    step_limit: int
    obstacles: bool = False
    confidence: float = 0.5
    lost_at_most: float = 0.0
    objectives: Mapping[str, Objective] = field(default_factory=lambda: OBJECTIVES)
    up: str = "z"
    folder: Path | None = None

    def __post_init__(self) -> None:
        count = len(self.program.stages)
        if len(self.stages) != count or len(self.boundaries) != count - 1:
            raise TaskError(
                f"task {self.name}: {len(self.stages)} stages and {len(self.boundaries)} boundaries "
                f"do not fit a cost program of {count} stages"
            )
        names = {term.name for term in self.program.terms}
        if names != set(self.constraints):
            odd = ", ".join(sorted(names ^ set(self.constraints)))
            raise TaskError(f"task {self.name}: cost program and numbers differ in {odd}")
        for name, constraint in self.constraints.items():
            values = (constraint.tau, constraint.beta, constraint.worst)
            if not all(map(math.isfinite, values)) or constraint.beta < 0 or constraint.over_time not in REDUCTIONS:
                raise TaskError(
                    f"task {self.name}: {name} has tau, beta, worst {values}, over_time {constraint.over_time}"
                )
        for label, objective in self.objectives.items():
            odd = ", ".join(sorted((set(objective.tau) | set(objective.beta)) - set(KINDS)))
            if odd or any(scale < 0 for scale in objective.beta.values()):
                raise TaskError(f"task {self.name}: objective {label} scales {odd or 'a weight below zero'}")

    @property
    def instruction(self) -> str:
        """The first of the instructions."""
        return self.instructions[0]

    @functools.cached_property
    def reads_force(self) -> bool:
        """Whether a condition needs the wrench."""
        return any(reads_force(predicate) for predicate in (*self.boundaries, self.success.when))

    def objective(self, name: str) -> Objective:
        """The objective called ``name``. Raises TaskError listing those there are."""
        if name not in self.objectives:
            raise TaskError(f"unknown objective {name!r}: task {self.name} has {', '.join(self.objectives)}")
        return self.objectives[name]

    def stage_constraints(self, stage: int, objective: str) -> tuple[Constraint, ...]:
        """The numbers of the constraints of 0-based ``stage`` under an objective, in the program's order."""
        scaling = self.objective(objective)
        return tuple(scaling.apply(term.kind, self.constraints[term.name]) for term in self.program.stages[stage])

    @property
    def program_hash(self) -> str:
        """The cost program's hash: what an approval names."""
        return self.program.hash

    @functools.cached_property
    def task_hash(self) -> str:
        """sha256 hex of all that the task file says, whatever its layout, and of the program's hash."""
        told: dict[str, Any] = {
            "name": self.name,
            "instructions": self.instructions,
            "up": self.up,
            "step_limit": self.step_limit,
            "stages": self.stages,
            "keypoints": self.keypoints,
            "bodies": self.bodies,
            "obstacles": self.obstacles,
            "confidence": self.confidence,
            "lost_at_most": self.lost_at_most,
            "constraints": {name: asdict(value) for name, value in self.constraints.items()},
            "boundaries": [described(predicate) for predicate in self.boundaries],
            "success": {
                "when": described(self.success.when),
                "gripper_open": self.success.gripper_open,
                "hold": self.success.hold,
                "still": sorted(self.success.still.items()),
            },
            "objectives": {n: {"tau": dict(o.tau), "beta": dict(o.beta)} for n, o in self.objectives.items()},
        }
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return sha256(self.program.canonical, text)
