"""What a task is to the reward: its cost program, the numbers of Eq. 8, where stages end and what success is."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grape_reward import stages as stage_predicates
from grape_reward.costs import KINDS, CostProgram, canonical_source, sha256
from grape_reward.errors import TaskError
from grape_reward.stages import Predicate


@dataclass(frozen=True)
class Constraint:
    """The numbers of one constraint in Eq. 8: threshold ``tau``, weight ``beta`` and ``worst``, the cost that a stage
    is charged which was never reached, or not seen to its end. All refer to the cost after its reduction over time:
    metres for target, grasp and collision costs, seconds for path costs (their integrand has no unit)."""

    tau: float
    beta: float
    worst: float


@dataclass(frozen=True)
class Objective:
    """An alignment objective scales thresholds and weights by kind of constraint (002, section 3.6); 1 is implied."""

    tau: Mapping[str, float] = field(default_factory=dict)
    beta: Mapping[str, float] = field(default_factory=dict)

    def apply(self, kind: str, constraint: Constraint) -> Constraint:
        return Constraint(
            constraint.tau * self.tau.get(kind, 1.0), constraint.beta * self.beta.get(kind, 1.0), constraint.worst
        )


OBJECTIVES: Mapping[str, Objective] = {
    "task_completion": Objective(),
    "safety": Objective(tau={"collision": 0.25}, beta={"collision": 4.0, "path": 0.0}),
    "efficiency": Objective(tau={"path": 0.25}, beta={"path": 4.0, "collision": 0.0}),
}
"""Lower threshold and higher weight for what the objective is about; the other of the two does not enter."""

DEFAULT_OBJECTIVE = "task_completion"


@dataclass(frozen=True)
class TaskSpec:
    """``stages``: their names. ``keypoints``: names of [0] the object and [1] the target; whatever follows is an
    obstacle. ``constraints``: the numbers of every constraint of ``program``, by name. ``boundaries``: the predicates
    that end stage 0, 1, ... (one fewer than stages). ``success`` must hold in ``hold`` consecutive observations,
    between which the object moves no more than ``still`` metres."""

    name: str
    instruction: str
    stages: tuple[str, ...]
    keypoints: tuple[str, ...]
    program: CostProgram
    constraints: Mapping[str, Constraint]
    boundaries: tuple[Predicate, ...]
    success: Predicate
    step_limit: int = 60
    hold: int = 2
    still: float = 0.005
    objectives: Mapping[str, Objective] = field(default_factory=lambda: OBJECTIVES)

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
            if not all(map(math.isfinite, values)) or constraint.beta < 0:
                raise TaskError(f"task {self.name}: {name} has tau, beta, worst {values}")
        for label, objective in self.objectives.items():
            odd = ", ".join(sorted((set(objective.tau) | set(objective.beta)) - set(KINDS)))
            if odd or any(scale < 0 for scale in objective.beta.values()):
                raise TaskError(f"task {self.name}: objective {label} scales {odd or 'a weight below zero'}")

    def objective(self, name: str) -> Objective:
        """The objective called ``name``. Raises TaskError listing those there are."""
        if name not in self.objectives:
            raise TaskError(f"unknown objective {name!r}: task {self.name} has {', '.join(self.objectives)}")
        return self.objectives[name]

    def stage_constraints(self, stage: int, objective: str) -> tuple[Constraint, ...]:
        """The numbers of the constraints of 0-based ``stage`` under an objective, in the program's order."""
        scaling = self.objective(objective)
        return tuple(scaling.apply(term.kind, self.constraints[term.name]) for term in self.program.stages[stage])

    @functools.cached_property
    def program_hash(self) -> str:
        """sha256 hex of the canonical syntax tree of the cost functions and of the predicates, and of every number."""
        numbers = {
            "keypoints": self.keypoints,
            "constraints": {name: asdict(value) for name, value in self.constraints.items()},
            "boundaries": [_described(predicate) for predicate in self.boundaries],
            "success": _described(self.success),
            "hold": self.hold,
            "still": self.still,
            "objectives": {n: {"tau": dict(o.tau), "beta": dict(o.beta)} for n, o in self.objectives.items()},
        }
        text = json.dumps(numbers, sort_keys=True, separators=(",", ":"))
        return sha256(self.program.canonical, canonical_source(stage_predicates), text)


def _described(predicate: Any) -> dict[str, Any]:
    return {"predicate": type(predicate).__name__, **asdict(predicate)}
