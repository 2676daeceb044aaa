"""Proposed keypoints and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grape_episode.geometry import Array
from grape_reward.files import write_whole
from grape_reward.keypoints.candidates import Candidate, Kind
from grape_reward.keypoints.errors import KeypointsError

_Strict = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class Keypoint(BaseModel):
    """``pixel`` (u, v), where its number stands; ``point`` metres, base frame; ``mask``: index of its mask, ``name``
    the mask's, if known. Kinds and confidence: see ``candidates.Candidate``."""

    model_config = _Strict
    number: int = Field(ge=0)
    pixel: tuple[int, int]
    point: tuple[float, float, float]
    mask: int = Field(ge=0)
    name: str = ""
    kind: Kind
    confidence: _Unit


class KeypointProposal(BaseModel):
    """K keypoints proposed from one frame. ``calibration``: sha256 of the calibration file by which pixels became
    points. ``masks`` and ``features``: where they came from. ``notes``: what was left out, and why."""

    model_config = _Strict
    format: Literal["grape-keypoints-1"] = "grape-keypoints-1"
    camera: str
    calibration: _Hash
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    masks: str
    features: str
    seed: int
    keypoints: tuple[Keypoint, ...]
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> NDArray[np.int64]:
        """(K, 2): u right, v down."""
        return np.array([one.pixel for one in self.keypoints], dtype=np.int64).reshape(-1, 2)

    @property
    def points(self) -> Array:
        """(K, 3) metres, base frame."""
        return np.array([one.point for one in self.keypoints], dtype=np.float64).reshape(-1, 3)

    @property
    def mask_indices(self) -> NDArray[np.int64]:
        """(K,): the index of each keypoint's mask."""
        return np.array([one.mask for one in self.keypoints], dtype=np.int64)

    @property
    def confidence(self) -> Array:
        """(K,) in [0, 1]."""
        return np.array([one.confidence for one in self.keypoints], dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write the JSON file; its folder must exist. Numbers come back bit for bit."""
        write_whole(path, self.model_dump_json(indent=2) + "\n")


def keypoints_of(candidates: list[Candidate], names: list[str]) -> tuple[Keypoint, ...]:
    """The candidates, numbered in their order. ``names`` of all masks."""
    return tuple(
        Keypoint(
            number=number,
            pixel=one.pixel,
            point=(float(one.point[0]), float(one.point[1]), float(one.point[2])),
            mask=one.mask,
            name=names[one.mask],
            kind=one.kind,
            confidence=min(1.0, max(0.0, one.confidence)),
        )
        for number, one in enumerate(candidates)
    )


def load_proposal(path: Path) -> KeypointProposal:
    """Raises KeypointsError naming file and field."""
    try:
        proposal = KeypointProposal.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise KeypointsError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise KeypointsError(f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from None
    numbers = [one.number for one in proposal.keypoints]
    if numbers != list(range(len(numbers))):
        raise KeypointsError(f"{path}: keypoints: their numbers are not 0, 1, 2 and so on: {numbers}")
    return proposal
