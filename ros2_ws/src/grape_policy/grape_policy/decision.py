"""What an inference gives and which adapter serves, for those who do not import the model's libraries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Decision:
    """One action. tokens (7,) int32; logprobs (7,) float32, nats, whole vocabulary at temperature 1; margins (7,)
    float32, top-1 minus top-2 logit; action (7,) float64 in metres, radians and gripper opening (0 closed, 1 open)."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    margins: NDArray[np.float32]
    action: NDArray[np.float64]
    adapter_id: str
    adapter_seq: int


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter as the engine sees it; ``adapter_id`` is empty and ``rank`` 0 for the base model alone."""

    adapter_id: str
    adapter_seq: int
    base_hash: str
    path: str
    rank: int
    slot: int | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What the node must know of the checkpoint. ``image_size``: side of the model's input, pixels; ``rotation``: of
    the actions, euler_xyz or axis_angle; ``folder``: where the checkpoint lies."""

    base_hash: str
    image_size: int
    rotation: str
    folder: str


@dataclass(frozen=True)
class Answer:
    """A decision on a camera frame, with the exact image (S, S, 3) uint8 that the model saw."""

    decision: Decision
    image: NDArray[np.uint8]
