"""The frames of an episode as LeRobot features: one row a step, what the model saw, measured, sampled and was told."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grape_episode import topics
from grape_episode.episode import TOKENS, Episode
from grape_trainer.errors import TrainerError

IMAGE, STATE, ACTION = "observation.images.model_input", "observation.state", "action"
TOKEN_IDS, LOG_PROBS, STAMP = "grape.tokens", "grape.log_probs", "grape.stamp"
"""Not ``action.tokens``: LeRobot takes every feature whose name begins with ``action`` for an action."""
REWARD, DONE, SUCCESS = "next.reward", "next.done", "next.success"

_POSE = ("tcp_x", "tcp_y", "tcp_z", "tcp_qx", "tcp_qy", "tcp_qz", "tcp_qw", "gripper_width")
_POSE_UNITS = ("m", "m", "m", "1", "1", "1", "1", "m")
_TURNS = {
    "euler_xyz": ("rotation_roll", "rotation_pitch", "rotation_yaw"),
    "axis_angle": ("rotation_x", "rotation_y", "rotation_z"),
}


class ExportError(TrainerError):
    """Episodes that cannot be exported, or not together; the text names the bag or folder."""


@dataclass(frozen=True)
class Layout:
    """What all episodes of one dataset share. ``control_period`` in seconds; ``height`` and ``width`` of the model's
    input; ``rotation``: convention of the actions; ``rewarded``: the success of every episode is known."""

    control_period: float
    height: int
    width: int
    rotation: str
    rewarded: bool

    @property
    def fps(self) -> int | float:
        """Steps a second; whole where the control period is one over a whole number."""
        exact = 1.0 / self.control_period
        return round(exact) if abs(exact - round(exact)) < 1e-4 * exact else exact

    def features(self) -> dict[str, dict[str, Any]]:
        """``features`` of meta/info.json, in the order of the columns."""
        turn = _TURNS.get(self.rotation, ("rotation_0", "rotation_1", "rotation_2"))
        action = ("translation_x", "translation_y", "translation_z", *turn, "gripper")
        frame = {"frame": topics.BASE_FRAME}
        units = {**frame, "units": ["m"] * 3 + ["rad"] * 3 + ["0 closed, 1 open"], "rotation": self.rotation}
        told = {
            IMAGE: _feature("image", (self.height, self.width, 3), ("height", "width", "channels")),
            STATE: _feature("float32", (len(_POSE),), _POSE, {**frame, "units": list(_POSE_UNITS)}),
            ACTION: _feature("float32", (TOKENS,), action, units),
            TOKEN_IDS: _feature("int32", (TOKENS,), action),
            LOG_PROBS: _feature("float32", (TOKENS,), action, {"units": "nat", "temperature": 1}),
            STAMP: _feature("int64", (1,), None, {"units": "ns"}),
        }
        if self.rewarded:
            told[REWARD] = _feature("float32", (1,))
            told[SUCCESS] = _feature("bool", (1,))
        told[DONE] = _feature("bool", (1,))
        told["timestamp"] = _feature("float32", (1,))
        return told | {
            name: _feature("int64", (1,)) for name in ("frame_index", "episode_index", "index", "task_index")
        }


def _feature(
    dtype: str, shape: tuple[int, ...], names: tuple[str, ...] | None = None, info: dict[str, Any] | None = None
) -> dict[str, Any]:
    told: dict[str, Any] = {"dtype": dtype, "shape": list(shape), "names": None if names is None else list(names)}
    return told if info is None else {**told, "info": info}


def rotation_of(episode: Episode) -> str:
    """Convention of the episode's actions. Raises ExportError where its steps differ."""
    found = sorted({step.rotation for step in episode.steps})
    if len(found) != 1:
        raise ExportError(f"{_name(episode)}: rotations are told as {' and as '.join(found)}")
    return found[0]


def columns(episode: Episode, layout: Layout, success: int | None) -> dict[str, NDArray[Any]]:
    """Values of the features that the episode alone decides, a row a step; images are ``pictures``.

    ``success``: 1 or 0, None where unknown: then nothing is said of it. ``timestamp``: seconds since the episode's
    first step, from the stamps. Raises ExportError naming bag, step and feature where a number is not finite."""
    steps = episode.steps
    last = np.arange(len(steps)) == len(steps) - 1
    stamps = np.array([step.stamp for step in steps], np.int64)
    measured = [[*step.tcp.position, *step.tcp.quaternion, step.gripper_width] for step in steps]
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and named below
        motion = np.array([step.action for step in steps]).astype(np.float32)
        state = np.array(measured).astype(np.float32)
    found: dict[str, NDArray[Any]] = {
        STATE: state,
        ACTION: motion,
        TOKEN_IDS: episode.tokens,
        LOG_PROBS: episode.logprobs,
        STAMP: stamps,
        DONE: last,
        "timestamp": ((stamps - stamps[0]) / 1e9).astype(np.float32),
        "frame_index": np.arange(len(steps), dtype=np.int64),
    }
    if layout.rewarded:
        found[SUCCESS] = last & (success == 1)
        found[REWARD] = found[SUCCESS].astype(np.float32)
    for name, values in found.items():
        bad = ~np.isfinite(values).reshape(len(steps), -1).all(axis=1)
        if bad.any():
            raise ExportError(f"{_name(episode)}: step {steps[int(bad.argmax())].index}: {name} is not finite")
    return found


def png(image: NDArray[np.uint8]) -> bytes:
    """``image`` (H, W, 3) uint8 as PNG: lossless."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def pictures(episode: Episode, layout: Layout) -> NDArray[np.uint8]:
    """(T, H, W, 3) uint8, what the model saw. Raises ExportError naming the first step of another size."""
    for step in episode.steps:
        size = (0, 0) if step.image is None else step.image.shape[:2]
        if size != (layout.height, layout.width):
            told = f"its image is {size[1]}x{size[0]}, the dataset's are {layout.width}x{layout.height}"
            raise ExportError(f"{_name(episode)}: step {step.index}: {told}")
    return episode.images


def _name(episode: Episode) -> str:
    return str(episode.path or episode.identity.episode_id)
