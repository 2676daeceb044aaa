"""The task file's fields, as pydantic sees them: types, ranges and nothing that needs the cost program. See
``docs/tasks.md`` for what they mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

FORMAT = "grape-task-1"
Kind = Literal["target", "path", "collision", "grasp"]
OverTime = Literal["last", "max", "mean", "integral"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\n]*\S[^\n]*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Fields(BaseModel):
    """Unknown fields are refused; a number is not read out of a text, nor a truth out of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Bounded(Fields):
    at_least: Finite | None = None
    at_most: Finite | None = None

    @model_validator(mode="after")
    def _some(self) -> _Bounded:
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least or at_most, or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is above at_most {self.at_most:g}")
        return self


class GripperWidthBounds(_Bounded):
    measure: Literal["gripper_width"]


class ForceBounds(_Bounded):
    measure: Literal["force"]


class DistanceBounds(_Bounded):
    measure: Literal["distance", "horizontal_distance"]
    between: tuple[Name, Name] = Field(strict=False)


class HeightBounds(_Bounded):
    measure: Literal["height"]
    of: Name
    over: Name


class ChangeBounds(_Bounded):
    measure: Literal["rise", "moved"]
    of: Name


class AllOf(Fields):
    all: Annotated[list[Condition], Field(min_length=1, max_length=20)]


class AnyOf(Fields):
    any: Annotated[list[Condition], Field(min_length=1, max_length=20)]


class NotOf(Fields):
    not_: Annotated[Condition, Field(alias="not")]


MEASURES = {
    "gripper_width": "gripper_width",
    "force": "force",
    "distance": "distance",
    "horizontal_distance": "distance",
    "height": "height",
    "rise": "change",
    "moved": "change",
}


def _which(value: Any) -> str | None:
    """Which of the forms of a condition a mapping is."""
    if not isinstance(value, dict):
        return None
    forms = [name for name in ("all", "any", "not", "measure") if name in value]
    if len(forms) != 1:
        return None
    measure = value["measure"] if forms == ["measure"] else ""
    return MEASURES.get(measure) if isinstance(measure, str) and measure else forms[0]


Condition = Annotated[
    Annotated[GripperWidthBounds, Tag("gripper_width")]
    | Annotated[ForceBounds, Tag("force")]
    | Annotated[DistanceBounds, Tag("distance")]
    | Annotated[HeightBounds, Tag("height")]
    | Annotated[ChangeBounds, Tag("change")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[NotOf, Tag("not")],
    Discriminator(
        _which,
        custom_error_type="condition",
        custom_error_message="a condition has one of all, any, not, and measure: " + ", ".join(MEASURES),
    ),
]


class KeypointFields(Fields):
    """``body``: the object that the keypoint is fixed to; empty: one of the keypoint's own name."""

    name: Name
    body: Name | None = None

    @field_validator("name")
    @classmethod
    def _no_tcp(cls, value: str) -> str:
        if value == "tcp":
            raise ValueError("tcp is the tool centre point, not a keypoint")
        return value


class StageFields(Fields):
    """``until``: what ends the stage; the last stage has none, it ends with success."""

    name: Line
    until: Condition | None = None


class SuccessFields(Fields):
    """``when`` must hold for ``hold`` seconds, in two observations at least, with the gripper open by ``gripper_open``
    metres; ``still``: how far a keypoint may move, metres, from one of these observations to the next."""

    when: Condition
    gripper_open: NotNegative
    hold: NotNegative
    still: dict[Name, NotNegative] = Field(default_factory=dict)


class ConstraintFields(Fields):
    """What is left out is taken from ``defaults``; ``over_time`` from the constraint's kind."""

    tau: Finite | None = None
    beta: NotNegative | None = None
    worst: Finite | None = None
    over_time: OverTime | None = None


class ObjectiveFields(Fields):
    """Factors on thresholds and weights by kind of constraint; 1 where left out."""

    tau: dict[Kind, Finite] = Field(default_factory=dict)
    beta: dict[Kind, NotNegative] = Field(default_factory=dict)


class TaskFields(Fields):
    """A whole task file."""

    format: Literal["grape-task-1"]
    name: Name
    instructions: Annotated[list[Line], Field(min_length=1)]
    up: Literal["x", "y", "z"]
    step_limit: Annotated[int, Field(ge=1, le=1_000_000)]
    program: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
    keypoints: Annotated[list[KeypointFields], Field(min_length=1, max_length=64)]
    obstacles: bool = False
    confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    lost_at_most: NotNegative = 0.0
    stages: Annotated[list[StageFields], Field(min_length=1, max_length=64)]
    success: SuccessFields
    defaults: dict[Kind, ConstraintFields] = Field(default_factory=dict)
    constraints: dict[str, ConstraintFields] = Field(default_factory=dict)
    objectives: dict[Name, ObjectiveFields] = Field(default_factory=dict)
