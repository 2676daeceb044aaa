"""From a task file to a TaskSpec: ``TASK/task.yaml`` and the cost program beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from grape_reward import predicates as p
from grape_reward import task_schema as schema
from grape_reward.costs import KINDS, CostProgram
from grape_reward.errors import TaskError
from grape_reward.printable import one_line
from grape_reward.program.compiler import MAX_KEYPOINTS, load_program
from grape_reward.spec import OBJECTIVES, OVER_TIME, Constraint, Objective, Success, TaskSpec
from grape_reward.yaml_file import read_yaml

TASK_FILE = "task.yaml"
_TRIED_OBSTACLES = 3
_NUMBERS = ("tau", "beta", "worst")


class TaskFileError(TaskError):
    """A task file that cannot be used: ``FILE: field.path: what is wrong``, in one line."""


def load_task(path: Path) -> TaskSpec:
    """The task in a file, or in the folder that holds a ``task.yaml``.

    Raises TaskFileError naming file and field, CostError for a cost program that cannot be used."""
    file = path / TASK_FILE if path.is_dir() else path
    told = read_yaml(file, TaskFileError)
    if not isinstance(told, dict):
        raise TaskFileError(f"{file}: expected fields, found {'nothing' if told is None else type(told).__name__}")
    try:
        fields = schema.TaskFields.model_validate(told)
    except ValidationError as error:
        raise TaskFileError(f"{file}: {_first(error)}") from None
    return _Loading(file, fields).task()


class _Loading:
    """One file whose fields have the right types: what remains is how they fit each other and the program."""

    def __init__(self, file: Path, fields: schema.TaskFields) -> None:
        self.file, self.fields = file, fields
        self.keypoints = tuple(keypoint.name for keypoint in fields.keypoints)
        self.up = "xyz".index(fields.up)

    def task(self) -> TaskSpec:
        fields = self.fields
        if self.file.name == TASK_FILE and fields.name != self.file.resolve().parent.name:
            raise self._wrong("name", f"{fields.name!r} in the folder {self.file.resolve().parent.name}")
        self._once("keypoints", self.keypoints)
        self._once("stages", tuple(stage.name for stage in fields.stages))
        program = self._program()
        last = len(fields.stages) - 1
        boundaries = []
        for number, stage in enumerate(fields.stages):
            where = f"stages[{number}].until"
            if (stage.until is None) != (number == last):
                told = "missing: what ends the stage?" if number != last else "the last stage ends with success"
                raise self._wrong(where, told)
            if stage.until is not None:
                boundaries.append(self._condition(stage.until, where))
        return TaskSpec(
            name=fields.name,
            instructions=tuple(fields.instructions),
            stages=tuple(stage.name for stage in fields.stages),
            keypoints=self.keypoints,
            bodies=tuple(keypoint.body or keypoint.name for keypoint in fields.keypoints),
            program=program,
            constraints=self._constraints(program),
            boundaries=tuple(boundaries),
            success=self._success(),
            step_limit=fields.step_limit,
            obstacles=fields.obstacles,
            confidence=float(fields.confidence),
            lost_at_most=float(fields.lost_at_most),
            objectives={**OBJECTIVES, **{name: _objective(told) for name, told in fields.objectives.items()}},
            up=fields.up,
            folder=self.file.resolve().parent,
        )

    def _program(self) -> CostProgram:
        fields, count = self.fields, len(self.keypoints)
        path = self.file.parent / fields.program
        if not path.is_file():
            raise self._wrong("program", f"{path}: no such file")
        program = replace(load_program(path, count), name=fields.name)
        if len(program.stages) != len(fields.stages):
            raise self._wrong("stages", f"{len(fields.stages)}, but {path} has {len(program.stages)}")
        if fields.obstacles:
            load_program(path, min(count + _TRIED_OBSTACLES, MAX_KEYPOINTS))
        return program

    def _constraints(self, program: CostProgram) -> dict[str, Constraint]:
        fields = self.fields
        terms = {term.name: term.kind for term in program.terms}
        for name in fields.constraints:
            if name not in terms:
                raise self._wrong(f"constraints.{name}", f"no such function in {fields.program}")
        made = {}
        for name, kind in terms.items():
            own = fields.constraints.get(name, schema.ConstraintFields())
            general = fields.defaults.get(kind, schema.ConstraintFields())  # type: ignore[call-overload]
            numbers = {}
            for number in _NUMBERS:
                value = getattr(own, number) if getattr(own, number) is not None else getattr(general, number)
                if value is None:
                    raise self._wrong(f"constraints.{name}.{number}", f"missing, and defaults.{kind} has none")
                numbers[number] = float(value)
            if numbers["worst"] < numbers["tau"]:
                raise self._wrong(f"constraints.{name}.worst", f"{numbers['worst']:g} is below tau {numbers['tau']:g}")
            made[name] = Constraint(**numbers, over_time=own.over_time or general.over_time or OVER_TIME[kind])
        unused = set(fields.defaults) - set(terms.values())
        for kind in (kind for kind in KINDS if kind in unused):
            raise self._wrong(f"defaults.{kind}", f"{fields.program} has no {kind} constraint")
        return made

    def _success(self) -> Success:
        told = self.fields.success
        still = {self._keypoint(name, f"success.still.{name}"): float(told.still[name]) for name in told.still}
        when = self._condition(told.when, "success.when")
        return Success(when, float(told.gripper_open), float(told.hold), still)

    def _condition(self, told: object, where: str) -> p.Predicate:
        match told:
            case schema.AllOf(all=parts):
                return p.All(tuple(self._condition(part, f"{where}.all[{n}]") for n, part in enumerate(parts)))
            case schema.AnyOf(any=parts):
                return p.AnyOf(tuple(self._condition(part, f"{where}.any[{n}]") for n, part in enumerate(parts)))
            case schema.NotOf(not_=part):
                return p.Not(self._condition(part, f"{where}.not"))
        assert isinstance(told, schema._Bounded)
        low = -math.inf if told.at_least is None else float(told.at_least)
        high = math.inf if told.at_most is None else float(told.at_most)
        return p.Between(self._measure(told, where), low, high)

    def _measure(self, told: schema._Bounded, where: str) -> p.Measure:
        match told:
            case schema.GripperWidthBounds():
                return p.GripperWidth()
            case schema.ForceBounds():
                return p.Force()
            case schema.DistanceBounds(measure=measure, between=(first, second)):
                a, b = self._point(first, f"{where}.between[0]"), self._point(second, f"{where}.between[1]")
                return p.Distance(a, b) if measure == "distance" else p.HorizontalDistance(a, b, self.up)
            case schema.HeightBounds(of=of, over=over):
                return p.Height(self._point(of, f"{where}.of"), self._point(over, f"{where}.over"), self.up)
            case schema.ChangeBounds(measure=measure, of=of):
                a = self._point(of, f"{where}.of")
                return p.Rise(a, self.up) if measure == "rise" else p.Moved(a)
        raise AssertionError(told)

    def _point(self, name: str, where: str) -> int:
        return p.TCP if name == "tcp" else self._keypoint(name, where)

    def _keypoint(self, name: str, where: str) -> int:
        if name not in self.keypoints:
            raise self._wrong(where, f"no keypoint {name!r}: there are {', '.join(self.keypoints)}")
        return self.keypoints.index(name)

    def _once(self, where: str, names: tuple[str, ...]) -> None:
        for number, name in enumerate(names):
            if name in names[:number]:
                raise self._wrong(f"{where}[{number}].name", f"{name!r} is given twice")

    def _wrong(self, where: str, what: str) -> TaskFileError:
        return TaskFileError(f"{self.file}: {where}: {what}")


def _objective(told: schema.ObjectiveFields) -> Objective:
    def scales(factors: object) -> dict[str, float]:
        assert isinstance(factors, dict)
        return {kind: float(factors[kind]) for kind in KINDS if kind in factors}

    return Objective(scales(told.tau), scales(told.beta))


def _first(error: ValidationError) -> str:
    """Path and fault of the first field that is wrong."""
    told = error.errors()[0]
    path, before, tag = "", "", False
    for part in told["loc"]:
        if tag and isinstance(part, str):
            # pydantic names the form of a condition as if it were a field
            tag = False
            continue
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
        tag = part in ("until", "when", "not") or (isinstance(part, int) and before in ("all", "any"))
        before = str(part)
    message = told["msg"].removeprefix("Value error, ")
    return one_line(f"{path}: {message}" if path else message)
