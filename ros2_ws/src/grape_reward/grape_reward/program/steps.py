"""The steps of a plan: array operations, each on the results of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from numpy.typing import NDArray

END_EFFECTOR, KEYPOINTS, CONSTANT, GATHER, LANE = "end_effector", "keypoints", "constant", "gather", "lane"
"""Operations that are no kernels: the inputs, numbers, and what ``lanes`` adds."""


class Kind(Enum):
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


@dataclass(frozen=True)
class Step:
    """One operation: ``inputs`` are the numbers of earlier steps. ``shape`` of one instant, () for a number.

    ``lanes``: it works on so many equal expressions side by side, the instants of one after those of the other."""

    operation: str
    inputs: tuple[int, ...]
    params: tuple
    shape: tuple[int, ...]
    kind: Kind
    value: NDArray | None = None
    lanes: int = 1
