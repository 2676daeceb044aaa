"""Between the typed episode and its messages; rclpy's messages and rosbags' alike, their fields are the same."""

from __future__ import annotations

import array
from dataclasses import fields
from typing import Any

import numpy as np

from grape_episode.episode import TOKENS, GateEvent, Identity, Outcome, Step, World
from grape_episode.geometry import Pose
from grape_episode.topics import BASE_FRAME

MOVE = 0
"""OperatorStep.MOVE."""


def stamp_of(message: Any) -> int:
    """Header stamp, nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def fill_header(message: Any, stamp: int, frame_id: str = BASE_FRAME) -> None:
    """Sets stamp (nanoseconds) and frame."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(int(stamp), 1_000_000_000)
    message.header.frame_id = frame_id


def _set_numbers(message: Any, name: str, values: Any) -> None:
    # rclpy wants an array.array, rosbags an ndarray; each starts out as an empty one of the right kind
    current = getattr(message, name)
    if isinstance(current, array.array):
        setattr(message, name, array.array(current.typecode, list(values)))
    else:
        setattr(message, name, np.asarray(values, dtype=current.dtype))


def fill_pose(message: Any, pose: Pose) -> None:
    """Into a geometry_msgs/Pose."""
    p, q = message.position, message.orientation
    p.x, p.y, p.z = map(float, pose.position)
    q.x, q.y, q.z, q.w = map(float, pose.quaternion)


def pose_of(message: Any) -> Pose:
    """From a geometry_msgs/Pose."""
    p, q = message.position, message.orientation
    return Pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


_IDENTITY = tuple(f.name for f in fields(Identity) if f.name not in ("notes", "stamp"))
_OUTCOME = ("end_reason", "detail", "steps", "success_reward", "mixed_adapter")
_WORLD = tuple(f.name for f in fields(World))
_STEP = ("instruction", "rotation", "gripper_width", "adapter_id", "adapter_seq", "base_hash", "temperature", "seed")


def fill_identity(message: Any, identity: Identity) -> None:
    """Into an EpisodeIdentity."""
    fill_header(message, identity.stamp)
    for name in _IDENTITY:
        setattr(message, name, getattr(identity, name))
    message.notes = list(identity.notes)


def identity_of(message: Any) -> Identity:
    """From an EpisodeIdentity."""
    values = {name: getattr(message, name) for name in _IDENTITY}
    return Identity(**values, notes=tuple(message.notes), stamp=stamp_of(message))


def fill_outcome(message: Any, outcome: Outcome, episode_id: str) -> None:
    """Into an EpisodeOutcome."""
    fill_header(message, outcome.stamp)
    message.episode_id = episode_id
    for name in _OUTCOME:
        setattr(message, name, getattr(outcome, name))


def outcome_of(message: Any) -> Outcome:
    """From an EpisodeOutcome."""
    return Outcome(**{name: getattr(message, name) for name in _OUTCOME}, stamp=stamp_of(message))


def fill_step(message: Any, step: Step, episode_id: str) -> None:
    """Into a PolicyStep (the image travels on a topic of its own)."""
    fill_header(message, step.stamp)
    message.episode_id, message.step, message.latency = episode_id, step.index, step.latency
    for name in _STEP:
        setattr(message, name, getattr(step, name))
    _set_numbers(message, "token_ids", step.tokens)
    _set_numbers(message, "logprobs", step.logprobs)
    _set_numbers(message, "margins", step.margins)
    _set_numbers(message, "action", step.action)
    fill_pose(message.measured_tcp, step.tcp)


def step_of(message: Any, image: np.ndarray | None = None) -> Step:
    """From a PolicyStep. Raises ValueError naming the field whose length is not seven."""
    arrays: dict[str, Any] = {
        "tokens": np.array(message.token_ids, np.int32),
        "logprobs": np.array(message.logprobs, np.float32),
        "margins": np.array(message.margins, np.float32),
        "action": np.array(message.action, np.float64),
    }
    for name, values in arrays.items():
        if values.shape != (TOKENS,):
            raise ValueError(f"step {message.step} has {values.size} {name}, expected {TOKENS}")
    return Step(
        index=int(message.step),
        stamp=stamp_of(message),
        tcp=pose_of(message.measured_tcp),
        latency=message.latency,
        image=image,
        **arrays,
        **{name: getattr(message, name) for name in _STEP},
    )


def fill_gate(message: Any, event: GateEvent) -> None:
    """Into a GateStatus."""
    fill_header(message, event.stamp)
    for name in ("state", "episode_id", "step", "verdict", "check", "reason", "gripper"):
        setattr(message, name, getattr(event, name))
    fill_pose(message.target, event.target)


def gate_of(message: Any) -> GateEvent:
    """From a GateStatus."""
    names = ("state", "episode_id", "step", "verdict", "check", "reason", "gripper")
    values = {name: getattr(message, name) for name in names}
    return GateEvent(stamp=stamp_of(message), target=pose_of(message.target), **values)


def fill_world(message: Any, world: World, stamp: int, episode_id: str) -> None:
    """Into a WorldStatus."""
    fill_header(message, stamp)
    message.episode_id = episode_id
    for name in _WORLD:
        setattr(message, name, getattr(world, name))


def world_of(message: Any) -> World:
    """From a WorldStatus."""
    return World(**{name: getattr(message, name) for name in _WORLD})
