"""Episodes without a robot: plausible random ones, and their bags. For tests, and for data made in process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode import messages, topics
from grape_episode.bag import Bag
from grape_episode.episode import (
    GATE_ACCEPTED,
    TOKENS,
    Episode,
    GateEvent,
    Identity,
    Outcome,
    Series,
    Step,
    World,
    step_problems,
)
from grape_episode.geometry import Pose
from grape_episode.typestore import blank, typestore

INSTRUCTIONS = {
    "carrot_on_plate": "put the carrot on the plate",
    "eggplant_in_basket": "put the eggplant in the basket",
    "green_cube_on_yellow_cube": "stack the green cube on the yellow cube",
    "spoon_on_towel": "put the spoon on the towel",
}
_KEYPOINTS = {
    "carrot_on_plate": ("carrot", "plate"),
    "eggplant_in_basket": ("eggplant", "basket"),
    "green_cube_on_yellow_cube": ("green_cube", "yellow_cube"),
    "spoon_on_towel": ("spoon", "towel"),
}
_GATE_ACTIVE = 1
_DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # the gripper points at the table
_GRASP, _RELEASE = 0.4, 0.85  # fractions of the episode at which the gripper closes and opens
_HELD, _OPEN = topics.gripper_width(0.5), topics.gripper_width(0.0)


def make_episode(
    seed: int = 0,
    steps: int = 12,
    success: bool = True,
    task: str = "carrot_on_plate",
    *,
    initial_state: int = 100_000,
    variant: str = "clean",
    objective: str = "task_completion",
    episode_id: str | None = None,
    adapter_id: str = "",
    adapter_seq: int = 0,
    base_hash: str = "b" * 64,
    cost_program_hash: str = "c" * 64,
    temperature: float = 1.0,
    control_period: float = 0.2,
    image_size: int = 32,
    token_range: tuple[int, int] = (31744, 32000),
    keypoint_names: tuple[str, ...] | None = None,
    samples_per_step: int = 1,
    collision: bool = False,
) -> Episode:
    """A random but plausible rollout: reach, grasp, carry, release; a failed one drops or misses the object.

    The same arguments give the same episode, bit for bit. ``samples_per_step`` samples of pose, gripper, wrench and
    keypoints a control period, one of them at the stamp of each step and of the outcome. The scene depends on
    (task, variant, initial_state) alone. ``keypoint_names``: object, target, then obstacles."""
    rng = np.random.default_rng([seed, steps, initial_state, int(success)])
    if keypoint_names is None:
        keypoint_names = (
            *_KEYPOINTS.get(task, ("object", "target")),
            *(("obstacle",) if variant == "obstacle" else ()),
        )
    instruction = INSTRUCTIONS.get(task, task.replace("_", " "))
    identity = Identity(
        episode_id=episode_id or f"{task}-{initial_state}-{seed}",
        task=task,
        instruction=instruction,
        variant=variant,
        initial_state=initial_state,
        objective=objective,
        seed=seed,
        temperature=temperature,
        step_limit=max(60, steps),
        control_period=control_period,
        lock_step=True,
        base_hash=base_hash,
        adapter_id=adapter_id,
        adapter_seq=adapter_seq,
        cost_program_hash=cost_program_hash,
        calibration_hash="",
        code_version="synthetic",
        notes=("made in process",),
        stamp=1_000_000_000 * (1 + seed % 1000),
    )
    period = round(control_period * 1e9)
    first = identity.stamp + period
    fractions = np.arange(steps * samples_per_step + 1) / max(1, steps * samples_per_step)
    stamps = first + np.arange(len(fractions), dtype=np.int64) * period // samples_per_step
    tcp, width, points = _motion(rng, fractions, success, _scene(task, variant, initial_state, len(keypoint_names)))
    poses = np.concatenate([tcp, np.tile(_DOWN, (len(tcp), 1))], axis=1)
    made = []
    for n in range(steps):
        here, there = n * samples_per_step, (n + 1) * samples_per_step
        action = np.concatenate([tcp[there] - tcp[here], rng.normal(0, 0.01, 3), [float(width[there] > _HELD)]])
        made.append(
            Step(
                index=n,
                stamp=int(stamps[here]),
                instruction=instruction,
                tokens=rng.integers(*token_range, TOKENS, dtype=np.int32),
                logprobs=(-rng.exponential(0.7, TOKENS)).astype(np.float32),
                margins=rng.exponential(1.5, TOKENS).astype(np.float32),
                action=action,
                rotation="euler_xyz",
                tcp=Pose(tcp[here], _DOWN),
                gripper_width=float(width[here]),
                adapter_id=adapter_id,
                adapter_seq=adapter_seq,
                base_hash=base_hash,
                temperature=temperature,
                seed=seed,
                latency=float(rng.uniform(0.01, 0.05)),
                image=rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8),
            )
        )
    gate = tuple(
        GateEvent(
            stamp=step.stamp,
            state=_GATE_ACTIVE,
            episode_id=identity.episode_id,
            step=step.index,
            verdict=GATE_ACCEPTED,
            check="",
            reason="",
            target=Pose(step.tcp.position + step.action[:3], _DOWN),
            gripper=float(step.action[6]),
        )
        for step in made
    )
    end = "success" if success else "step_limit"
    outcome = Outcome(end, "", steps, int(success), mixed_adapter=False, stamp=int(stamps[-1]))
    force = float(rng.uniform(5, 30)) if collision else 0.0
    clearance = float(rng.uniform(0.01, 0.1)) if len(keypoint_names) > 2 else math.nan
    grasped = bool(points[-1, 0, 2] > 0.2 or success)
    return Episode(
        identity=identity,
        steps=tuple(made),
        outcome=outcome,
        tcp=Series(stamps, poses),
        gripper=Series(stamps, width[:, None]),
        keypoints=Series(stamps, points, keypoint_names),
        wrench=Series(stamps, rng.normal(0, 0.5, (len(stamps), 6))),
        gate=gate,
        world=World(success, grasped, collision, int(collision), force, clearance),
        problems=tuple(step_problems(identity, tuple(made), outcome, {step.stamp for step in made})),
    )


def _scene(task: str, variant: str, initial_state: int, count: int) -> NDArray[np.float64]:
    """Where the ``count`` keypoints start, (count, 3) metres on a table at height 0."""
    key = [initial_state, *f"{task}/{variant}".encode()]
    scene = np.random.default_rng(key).uniform([0.4, -0.2, 0.02], [0.6, 0.2, 0.04], (count, 3))
    scene[1:, 1] = np.sign(-scene[0, 1] or 1.0) * (0.05 + np.abs(scene[1:, 1]))  # the target lies on the other side
    return scene


def _motion(
    rng: np.random.Generator, fractions: NDArray[np.float64], success: bool, scene: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """TCP (N, 3), gripper width (N,) and keypoints (N, K, 3) at fractions of the episode in [0, 1]."""
    up, home = np.array([0.0, 0.0, 0.15]), np.array([0.45, 0.0, 0.35])
    start, target = scene[0], scene[1]
    rest = target + np.array([0.0, 0.0, 0.03])
    missed = not success and rng.random() < 0.5
    reach = start + ([0.05, 0.03, 0.0] if missed else np.zeros(3))
    where = [home, start + up, reach, reach, reach + up, target + up, rest, rest, rest + up]
    when = [0.0, 0.2, 0.35, _GRASP, 0.5, 0.7, 0.8, _RELEASE, 1.0]
    tcp = np.stack([np.interp(fractions, when, [w[i] for w in where]) for i in range(3)], axis=1)
    tcp += rng.normal(0, 0.001, tcp.shape)
    closed = (fractions >= _GRASP) & (fractions < _RELEASE)
    width = np.where(closed, _HELD, _OPEN)
    points = np.repeat(scene[None], len(fractions), axis=0)
    lost = _RELEASE if success else rng.uniform(0.5, 0.65)
    held = closed & (fractions < lost) & (not missed)
    points[held, 0] = tcp[held]
    after = (fractions >= lost) & (not missed)
    fallen = tcp[held][-1] * [1, 1, 0] + [0, 0, 0.02] if held.any() else start
    points[after, 0] = rest if success else fallen
    return tcp, width, points


def write_episode(episode: Episode, path: Path, compression: str = "zstd") -> Path:
    """Writes the bag of ``episode`` into the new folder ``path`` and returns it; ``read_episode`` gives it back.

    A step's image is left out where it is None, the outcome where there is none, so that damaged episodes can be
    made too. Raises FileExistsError."""
    bag = Bag(Path(path), compression)
    log_time = 0
    for topic, stamp, message in episode_messages(episode):
        log_time = max(log_time + 1, stamp)
        type_name = topics.DATA_TYPES[topic]
        bag.write(topic, type_name, bytes(typestore().serialize_cdr(message, type_name)), log_time)
    bag.close()
    return bag.folder


def episode_messages(episode: Episode) -> Iterator[tuple[str, int, Any]]:
    """(topic, header stamp, message) in the order of lock-step: identity, then by stamp the world's state before the
    model's input before the step before the verdict, the outcome last. Messages are rosbags'."""
    identity = blank(topics.DATA_TYPES[topics.EPISODE])
    messages.fill_identity(identity, episode.identity)
    yield topics.EPISODE, episode.identity.stamp, identity
    ranked = [(stamp, rank, n, topic, message) for n, (rank, stamp, topic, message) in enumerate(_body(episode))]
    for stamp, _, _, topic, message in sorted(ranked, key=lambda entry: entry[:3]):
        yield topic, stamp, message
    if episode.outcome is not None:
        outcome = blank(topics.DATA_TYPES[topics.OUTCOME])
        messages.fill_outcome(outcome, episode.outcome, episode.identity.episode_id)
        yield topics.OUTCOME, episode.outcome.stamp, outcome


def _body(episode: Episode) -> Iterator[tuple[int, int, str, Any]]:
    makers = (
        (topics.CURRENT_POSE, episode.tcp, _pose),
        (topics.JOINT_STATES, episode.gripper, _joints),
        (topics.WRENCH, episode.wrench, _wrench),
        (topics.KEYPOINTS, episode.keypoints, _keypoints),
        (topics.OPERATOR_STEP, episode.operator, _operator),
    )
    for topic, series, make in makers:
        for stamp, values in zip(series.stamps.tolist(), series.values, strict=True):
            message = blank(topics.DATA_TYPES[topic])
            messages.fill_header(message, stamp)
            make(message, values, series)
            if topic == topics.KEYPOINTS and len(episode.confidence):
                at = int(np.searchsorted(episode.confidence.stamps, stamp))
                message.confidence = episode.confidence.values[at].astype(np.float32)
            yield 0, stamp, topic, message
    own = episode.identity.episode_id
    last = int(episode.tcp.stamps[-1]) if len(episode.tcp) else episode.identity.stamp
    if episode.world is not None:
        stamp = min(last, episode.outcome.stamp) if episode.outcome else last
        status = blank(topics.DATA_TYPES[topics.WORLD_STATUS])
        messages.fill_world(status, episode.world, stamp, own)
        yield 1, stamp, topics.WORLD_STATUS, status
    for step in episode.steps:
        if step.image is not None:
            yield 2, step.stamp, topics.MODEL_INPUT, _image(step)
        decision = blank(topics.DATA_TYPES[topics.POLICY_STEP])
        messages.fill_step(decision, step, own)
        yield 3, step.stamp, topics.POLICY_STEP, decision
    for event in episode.gate:
        status = blank(topics.DATA_TYPES[topics.GATE_STATUS])
        messages.fill_gate(status, event)
        yield 4, event.stamp, topics.GATE_STATUS, status


def _pose(message: Any, values: NDArray, series: Series) -> None:
    messages.fill_pose(message.pose, Pose(values[:3], values[3:]))


def _wrench(message: Any, values: NDArray, series: Series) -> None:
    f, t = message.wrench.force, message.wrench.torque
    f.x, f.y, f.z, t.x, t.y, t.z = values.tolist()


def _joints(message: Any, values: NDArray, series: Series) -> None:
    message.name = [topics.KNUCKLE_JOINT]
    message.position = np.array([knuckle_angle(float(values[0]))])


def _operator(message: Any, values: NDArray, series: Series) -> None:
    message.source, message.kind, message.rotation = "teleop", messages.MOVE, "axis_angle"
    message.action = values.copy()


def _keypoints(message: Any, values: NDArray, series: Series) -> None:
    message.names = list(series.names)
    message.confidence = np.ones(len(values), np.float32)
    for xyz in values.tolist():
        point = blank("geometry_msgs/msg/Point")
        point.x, point.y, point.z = xyz
        message.points.append(point)


def _image(step: Step) -> Any:
    assert step.image is not None
    message = blank(topics.IMAGE_TYPE)
    messages.fill_header(message, step.stamp, topics.CAMERA_FRAME)
    message.height, message.width = step.image.shape[:2]
    message.encoding, message.step = "rgb8", step.image.shape[1] * 3
    message.data = np.ascontiguousarray(step.image).reshape(-1)
    return message


def knuckle_angle(width: float) -> float:
    """The knuckle angle, radians, for an opening in metres: inverse of ``topics.gripper_width``, to the last bit
    wherever an angle with exactly that opening exists."""
    guess = topics.KNUCKLE_CLOSED * (1.0 - width / topics.GRIPPER_STROKE)
    for n in range(33):
        offset = (n + 1) // 2 * (1 if n % 2 else -1) * 2.0**-55
        if topics.gripper_width(guess + offset) == width:
            return guess + offset
    return guess
