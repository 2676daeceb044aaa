"""The stages and keypoints that a vision-language model names for a task, checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grape_reward.extract import ExtractError, json_object
from grape_reward.printable import one_line


@dataclass(frozen=True)
class Scene:
    """``stages``: names, in order. ``keypoints``: names; their position is their index in a cost program. ``picked``:
    the number that each keypoint has in the overlay image, empty where none was shown. ``ends_at``: for each stage the
    index of the keypoint at which it ends, the stage points of Eq. 7; empty where nobody was asked."""

    stages: tuple[str, ...]
    keypoints: tuple[str, ...]
    picked: tuple[int, ...] = ()
    ends_at: tuple[int, ...] = ()


class SceneError(ExtractError):
    """An answer that names no usable scene. ``findings``: one sentence for each thing that is wrong."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__("; ".join(findings))
        self.findings = tuple(findings)


class _Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    number: int | None = None


class _Stage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(min_length=1, max_length=100)
    ends_at: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    keypoints: list[_Point] = Field(min_length=1, max_length=32)
    stages: list[_Stage] = Field(min_length=1, max_length=12)


def read_scene(answer: str, stages: Sequence[str], keypoints: Sequence[str], numbered: int | None) -> Scene:
    """The scene in an answer to ``prompts.scene_prompt``; the arguments are those of the prompt.

    Raises SceneError with everything that is wrong: no JSON object, wrong fields, a number that the image does not
    show, a number or name given twice, an unknown keypoint, other names than those that were given."""
    try:
        said = _Answer.model_validate_json(json.dumps(json_object(answer)))
    except ExtractError as error:
        raise SceneError([str(error)]) from None
    except ValidationError as error:
        told = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        raise SceneError([one_line(f"{where}: {what}") for where, what in told[:10]]) from None
    findings = [*_points(said.keypoints, keypoints, numbered), *_stages(said, stages)]
    if findings:
        raise SceneError(findings)
    names = tuple(point.name for point in said.keypoints)
    picked = tuple(point.number for point in said.keypoints if point.number is not None)
    ends_at = tuple(names.index(stage.ends_at) for stage in said.stages)
    return Scene(tuple(one_line(stage.name) for stage in said.stages), names, picked, ends_at)


def _points(points: Sequence[_Point], given: Sequence[str], numbered: int | None) -> list[str]:
    findings = []
    names = [point.name for point in points]
    if list(given) != names[: len(given)]:
        findings.append(f"keypoints must begin with {', '.join(given)}, in this order; found {', '.join(names)}")
    findings += [f"keypoint {name} is named {count} times" for name, count in Counter(names).items() if count > 1]
    if numbered is None:
        findings += [f"keypoint {p.name}: the image shows no numbers" for p in points if p.number is not None]
        return findings
    for point in points:
        if point.number is None:
            findings.append(f"keypoint {point.name} has no number")
        elif not 0 <= point.number < numbered:
            findings.append(
                f"keypoint {point.name}: number {point.number} is not in the image, 0 to {numbered - 1} are"
            )
    numbers = Counter(point.number for point in points if point.number is not None)
    findings += [f"number {number} is given to {count} keypoints" for number, count in numbers.items() if count > 1]
    return findings


def _stages(said: _Answer, given: Sequence[str]) -> list[str]:
    findings = []
    names = {point.name for point in said.keypoints}
    if given and [stage.name for stage in said.stages] != list(given):
        findings.append(f"stages must be {'; '.join(given)}, in this order")
    for number, stage in enumerate(said.stages, 1):
        if stage.ends_at not in names:
            findings.append(f"stage {number} ends at {one_line(stage.ends_at, 40)!r}, which is no keypoint named here")
    return findings
