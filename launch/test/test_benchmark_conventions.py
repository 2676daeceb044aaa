"""Observations and actions between a benchmark's client and the engine."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from grape.benchmark_conventions import (
    BENCHMARKS,
    GRIPPERS,
    ConventionError,
    ObservationError,
    camera_image,
    client_action,
    conventions_of,
    episode_seed,
    instruction_of,
    resized,
    spoken_rotation,
)

LIBERO, SIMPLER = BENCHMARKS["libero"], BENCHMARKS["simpler"]
ANGLES = st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3)


def action(gripper: float, rotation: list[float] | None = None) -> NDArray[np.float64]:
    return np.array([0.01, -0.02, 0.03, *(rotation or [0.1, 0.2, -0.3]), gripper])


def rodrigues(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of a rotation vector (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / angle if angle > 0 else vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def fixed_axes(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Rz(yaw) Ry(pitch) Rx(roll)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@given(ANGLES)
def test_euler_angles_become_the_rotation_vector_of_the_same_rotation(angles: list[float]) -> None:
    sent = client_action(action(1.0, angles), "euler_xyz", LIBERO)
    np.testing.assert_allclose(rodrigues(sent[3:6].astype(float)), fixed_axes(*angles), atol=1e-5)


@given(ANGLES)
def test_a_rotation_vector_becomes_the_euler_angles_of_the_same_rotation(vector: list[float]) -> None:
    sent = client_action(action(1.0, vector), "axis_angle", conventions_of("simpler", rotation="euler_xyz"))
    np.testing.assert_allclose(fixed_axes(*sent[3:6].astype(float)), rodrigues(np.array(vector)), atol=1e-5)


@given(ANGLES, st.sampled_from(GRIPPERS))
def test_what_needs_no_conversion_passes_bit_by_bit(vector: list[float], gripper: str) -> None:
    sent = client_action(action(1.0, vector), "axis_angle", conventions_of("libero", gripper=gripper))
    np.testing.assert_array_equal(sent[:6], action(1.0, vector)[:6].astype(np.float32))


@given(st.floats(-0.5, 1.5))
def test_the_gripper_of_libero_is_the_published_evaluations(opening: float) -> None:
    """OpenVLA's own evaluation: map [0, 1] to [-1, 1], take the sign, invert; LIBERO's client closes from 0 up."""
    published = -1.0 * np.sign(2.0 * opening - 1.0)
    sent = client_action(action(opening), "axis_angle", LIBERO)[6]
    assert (sent < 0) == (published < 0) and abs(sent) == 1.0


@pytest.mark.parametrize(
    ("gripper", "closed", "opened"),
    [
        ("binary_close_positive", 1.0, -1.0),
        ("binary_close_negative", -1.0, 1.0),
        ("binary_close_01", 1.0, 0.0),
        ("continuous_01", 0.0, 1.0),
    ],
)
def test_every_gripper_has_its_ends(gripper: str, closed: float, opened: float) -> None:
    spoken = conventions_of("libero", gripper=gripper)
    assert client_action(action(0.0), "axis_angle", spoken)[6] == closed
    assert client_action(action(1.0), "axis_angle", spoken)[6] == opened


def test_simplers_gripper_opens_where_its_client_opens() -> None:
    """Its client: `1.0 if raw_action[6] > 0.5 else -1.0`, and the environment opens at +1."""
    assert client_action(action(0.9), "euler_xyz", SIMPLER)[6] > 0.5
    assert client_action(action(0.1), "euler_xyz", SIMPLER)[6] < 0.5
    assert client_action(action(1.7), "euler_xyz", SIMPLER)[6] == 1.0


def test_the_checkpoints_word_on_rotations_comes_before_the_benchmarks() -> None:
    said = SimpleNamespace(rotation="euler_xyz", config={"action_convention": {"rotation": "euler_xyz"}})
    silent = SimpleNamespace(rotation="euler_xyz", config={})
    assert spoken_rotation(said, LIBERO) == "euler_xyz"  # type: ignore[arg-type]
    assert spoken_rotation(silent, LIBERO) == "axis_angle"  # type: ignore[arg-type]
    assert spoken_rotation(silent, SIMPLER) == "euler_xyz"  # type: ignore[arg-type]


def test_an_unknown_convention_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConventionError, match=r"gripper 'left'.*continuous_01"):
        conventions_of("libero", gripper="left")
    with pytest.raises(ConventionError, match=r"rotation 'quaternion'.*axis_angle"):
        conventions_of("libero", rotation="quaternion")
    with pytest.raises(ConventionError, match=r"resize 'nearest'.*lanczos"):
        conventions_of("libero", resize="nearest")


TASK = {"suite": "libero_spatial", "task_id": 3, "name": "pick up the bowl", "episode_idx": 1}


def test_the_same_episode_has_the_same_seed_in_every_run() -> None:
    shuffled = dict(reversed(TASK.items()))
    assert episode_seed(0, TASK) == episode_seed(0, shuffled) == 6897503066253793656


def test_other_episodes_and_other_servers_have_other_seeds() -> None:
    seeds = [
        episode_seed(0, {**TASK, "episode_idx": number, "task_id": task}) for number in range(50) for task in (1, 2)
    ]
    seeds += [episode_seed(1, TASK), episode_seed(0, {**TASK, "suite": "libero_goal"})]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_camera_is_found_by_name() -> None:
    wrist, front = np.zeros((4, 4, 3), np.uint8), np.ones((6, 5, 3), np.uint8)
    assert camera_image({"images": {"wrist": wrist, "agentview": front}}, "agentview") is front


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ({}, "field images"),
        ({"images": np.zeros((4, 4, 3), np.uint8)}, "field images"),
        ({"images": {"primary": 0}}, "no camera 'agentview'; there is 'primary'"),
        ({"images": {"agentview": [1]}}, r"agentview: expected \(H, W, 3\) uint8, got list"),
        ({"images": {"agentview": np.zeros((4, 4, 3))}}, "float64"),
        ({"images": {"agentview": np.zeros((4, 4, 4), np.uint8)}}, r"\(4, 4, 4\)"),
        ({"images": {"agentview": np.zeros((0, 4, 3), np.uint8)}}, "empty"),
    ],
)
def test_an_image_that_is_none_is_named(observation: dict, words: str) -> None:
    with pytest.raises(ObservationError, match=words):
        camera_image(observation, "agentview")


@pytest.mark.parametrize("words", [None, "", "  ", 3])
def test_an_instruction_is_needed(words: object) -> None:
    with pytest.raises(ObservationError, match="task_description"):
        instruction_of({"task_description": words})


def test_lanczos_comes_before_the_checkpoints_own_processing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert resized(image, 20, "checkpoint") is image
    small = resized(image, 20, "lanczos")
    np.testing.assert_array_equal(small, np.array(Image.fromarray(image).resize((20, 20), Image.LANCZOS)))
    assert resized(small, 20, "lanczos") is small
