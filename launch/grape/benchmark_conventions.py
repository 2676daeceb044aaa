"""What the clients of a benchmark send and what they take back: cameras, image size, rotations, grippers, seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grape_policy.config import ROTATIONS, VlaSpec
from grape_robot.integrate import rotation_delta

GRIPPERS = ("binary_close_positive", "binary_close_negative", "binary_close_01", "continuous_01")
"""vla-eval's names of what an environment's gripper takes: -1 open and +1 closed; -1 closed and +1 open; 0 open and
1 closed; from 0 closed to 1 open."""
RESIZES = ("checkpoint", "lanczos")
"""How an image of another size becomes the model's: as the checkpoint's processor does it, after any centre crop; or
by Lanczos before the crop, which then happens at the model's size."""


class ConventionError(ValueError):
    """A convention that is not known; the text names the field and the known ones."""


class ObservationError(ValueError):
    """What a client sent is no observation for the model; the text names the field."""


@dataclass(frozen=True)
class Conventions:
    """camera: name of the image that is looked at; rotation: one of ROTATIONS, as the environment takes it; gripper:
    one of GRIPPERS; resize: one of RESIZES; unsaid_rotation: what a checkpoint speaks whose `config.json` does not say
    it, because it was trained on this benchmark's own actions; client_params: settings that a client takes over where
    its own configuration is silent."""

    camera: str
    rotation: str
    gripper: str
    resize: str
    unsaid_rotation: str
    client_params: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConventionError naming the field whose value is unknown."""
        for name, known in (
            ("rotation", ROTATIONS),
            ("unsaid_rotation", ROTATIONS),
            ("gripper", GRIPPERS),
            ("resize", RESIZES),
        ):
            if getattr(self, name) not in known:
                raise ConventionError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")


BENCHMARKS = {
    # The client rotates the camera's image by 180 degrees and sends 256 x 256. Published checkpoints were trained on
    # the environment's own actions, whose rotation is a rotation vector. 7 and 0 are the seeds of published results.
    "libero": Conventions(
        camera="agentview",
        rotation="axis_angle",
        gripper="binary_close_positive",
        resize="lanczos",
        unsaid_rotation="axis_angle",
        client_params={"seed": 7, "env_seed": 0},
    ),
    # vla-eval's client declares Euler angles and a gripper that closes at +1, but its controller reads a rotation
    # vector, and it opens the gripper above 0.5: what it does is followed here, not what it declares.
    "simpler": Conventions(
        camera="primary",
        rotation="axis_angle",
        gripper="continuous_01",
        resize="checkpoint",
        unsaid_rotation="euler_xyz",
    ),
}


def conventions_of(benchmark: str, **other: str | None) -> Conventions:
    """Those of a benchmark in BENCHMARKS, with every field in ``other`` that is not None in its place.

    Raises ConventionError naming a field whose value is unknown."""
    given: dict[str, Any] = {name: value for name, value in other.items() if value is not None}
    return replace(BENCHMARKS[benchmark], **given)


def spoken_rotation(spec: VlaSpec, conventions: Conventions) -> str:
    """How a checkpoint's actions state rotations: as its `config.json` says, else as the benchmark's data do."""
    said = spec.config.get("action_convention", {}).get("rotation")
    return spec.rotation if said is not None else conventions.unsaid_rotation


def client_action(action: NDArray[np.float64], rotation: str, conventions: Conventions) -> NDArray[np.float32]:
    """An action (7,) of the engine, rotation as `rotation` names it, as the client's environment takes it (7,).

    The translation and a rotation that needs no conversion pass unchanged: their units are those of the data that the
    checkpoint was trained on."""
    result = np.array(action, np.float64)
    if rotation != conventions.rotation:
        turn = rotation_delta(result[3:6], rotation)
        result[3:6] = turn.as_rotvec() if conventions.rotation == "axis_angle" else turn.as_euler("xyz")
    opening = result[6]
    is_open = opening > 0.5
    result[6] = {
        "binary_close_positive": -1.0 if is_open else 1.0,
        "binary_close_negative": 1.0 if is_open else -1.0,
        "binary_close_01": 0.0 if is_open else 1.0,
        "continuous_01": np.clip(opening, 0.0, 1.0),
    }[conventions.gripper]
    return result.astype(np.float32)


def episode_seed(seed: int, task: Mapping[str, Any]) -> int:
    """Seed of an episode in [0, 2**63): a function of the server's seed and of what the client calls the episode (its
    suite, task and number), so that the same episode is sampled alike in every run, on every connection."""
    text = json.dumps([seed, task], sort_keys=True, separators=(",", ":"), default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def camera_image(observation: Mapping[str, Any], camera: str) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8 of a camera. Raises ObservationError naming what is missing or misshapen."""
    images = observation.get("images")
    if not isinstance(images, Mapping):
        raise ObservationError("observation: field images: expected a map of cameras to images")
    if camera not in images:
        raise ObservationError(f"observation: images: no camera {camera!r}; there is {', '.join(map(repr, images))}")
    image = images[camera]
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ObservationError(f"observation: images: {camera}: expected (H, W, 3) uint8, got {found}")
    if 0 in image.shape:
        raise ObservationError(f"observation: images: {camera}: an image of size {image.shape} is empty")
    return image


def instruction_of(observation: Mapping[str, Any]) -> str:
    """The instruction. Raises ObservationError where there is none."""
    words = observation.get("task_description")
    if not isinstance(words, str) or not words.strip():
        raise ObservationError("observation: field task_description: expected an instruction")
    return words


def resized(image: NDArray[np.uint8], side: int, resize: str) -> NDArray[np.uint8]:
    """(H, W, 3) as it goes to the checkpoint's processor: (side, side, 3) for `lanczos`, else unchanged."""
    if resize != "lanczos" or image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
