"""What the reward node says, and how it is told what to do: publishers and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geometry_msgs.msg import Point
from grape_interfaces.msg import EpisodeScore, Keypoints, StageCosts, TaskStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from grape_episode import topics
from grape_episode.messages import fill_header
from grape_episode.replay import replayed
from grape_episode.ros import EVENT, declare
from grape_reward.camera import load_calibration
from grape_reward.errors import RewardError
from grape_reward.frames import TrackingSetup
from grape_reward.gcpg import PRESETS, Lambdas, lambdas_named
from grape_reward.live import Judgement
from grape_reward.result import Score
from grape_reward.tasks import TaskLibrary, library
from grape_reward.tracking import Tracked

KEYPOINTS = ("topic", "tracking")


@dataclass(frozen=True)
class RewardParameters:
    """``drain_seconds``: wall seconds; ``tracking`` None: keypoints come by topic."""

    lock_step: bool
    objective: str
    lambdas: Lambdas
    drain_seconds: float
    tasks: TaskLibrary
    unapproved: bool
    replay: bool
    tracking: TrackingSetup | None

    @property
    def step_topic(self) -> str:
        """A replay keeps steps off the topic that moves an arm."""
        return replayed(topics.POLICY_STEP) if self.replay else topics.POLICY_STEP


def declared(node: Node) -> RewardParameters:
    """Declare and read the parameters. Raises RewardError for one that makes no sense."""
    lock_step = declare(node, "lock_step", False, "Subscribe to pose reliably: the world waits for each step.")
    objective = declare(node, "objective", "", "Score towards this objective; empty: each episode's own.")
    preset = declare(node, "lambdas", "paper", f"Weights of Eq. 10: one of {', '.join(PRESETS)}, or 'a,b,c'.")
    waiting = "Wall seconds to wait, after the outcome, for more of what it announces."
    drain = declare(node, "drain_seconds", 2.0, waiting, (0.1, 60.0))
    folder = declare(node, "tasks", "", "Folder of task folders of your own; the shipped tasks come after them.")
    unapproved = declare(node, "unapproved", False, "Score also by cost programs that nobody has approved.")
    replay = declare(node, "replay", False, "Take the steps of a bag that is replayed.")
    source = declare(
        node, "keypoints", "topic", "topic: from whoever publishes them; tracking: in the camera's images."
    )
    camera = declare(node, "calibration", "", "Tracking: file of the camera's calibration.")
    starts = declare(node, "starts", "", "Tracking: folder of the keypoints of the first frame; docs/tasks.md.")
    try:
        lambdas = lambdas_named(preset)
    except RewardError as error:
        raise RewardError(f"parameter {error}") from None
    try:
        tasks = library(folder)
    except RewardError as error:
        raise RewardError(f"parameter tasks: {error}") from None
    tracking = _tracking(source, camera, starts)
    return RewardParameters(lock_step, objective, lambdas, drain, tasks, unapproved, replay, tracking)


def _tracking(source: str, camera: str, starts: str) -> TrackingSetup | None:
    if source not in KEYPOINTS:
        raise RewardError(f"parameter keypoints: {source!r} is none of {', '.join(KEYPOINTS)}")
    if source == "topic":
        return None
    for name, value in (("calibration", camera), ("starts", starts)):
        if not value:
            raise RewardError(f"parameter {name}: must be set where keypoints is tracking")
    load_calibration(Path(camera))
    return TrackingSetup(Path(camera), Path(starts))


def wrench_needed(node: Node, tasks: TaskLibrary) -> bool:
    """Whether a task reads the wrench, which at a thousand a second costs a quarter of a core. A task that cannot be
    used is named in the log."""
    needed = False
    for name in tasks:
        try:
            needed = tasks[name].reads_force or needed
        except RewardError as error:
            node.get_logger().error(f"task {name} cannot be used: {error}")
    return needed


class Voice:
    """The node's publishers. Stamps are nanoseconds of ROS time."""

    def __init__(self, node: Node, keypoints: bool) -> None:
        self._status = node.create_publisher(TaskStatus, topics.TASK_STATUS, EVENT)
        self._costs = node.create_publisher(StageCosts, topics.STAGE_COSTS, EVENT)
        self._scores = node.create_publisher(EpisodeScore, topics.SCORE, EVENT)
        self._keypoints = node.create_publisher(Keypoints, topics.KEYPOINTS, EVENT) if keypoints else None

    def status(
        self, episode_id: str, stamp: int, stage: int, stages: int, success: int, program_hash: str, reason: str
    ) -> None:
        message = TaskStatus()
        fill_header(message, stamp)
        message.episode_id = episode_id
        message.stage, message.stages, message.success = stage, stages, success
        message.cost_program_hash, message.reason = program_hash, reason
        self._status.publish(message)

    def costs(self, episode_id: str, judgement: Judgement, stages: int) -> None:
        message = StageCosts()
        fill_header(message, judgement.stamp)
        message.episode_id = episode_id
        message.step, message.stage, message.stages = judgement.step, judgement.live.stage, stages
        message.names, message.costs = list(judgement.live.names), list(judgement.live.costs)
        self._costs.publish(message)

    def score(self, score: Score, stamp: int) -> None:
        message = EpisodeScore()
        fill_header(message, stamp)
        for name in ("episode_id", "task", "initial_state", "objective", "log_r_ext", "stages_reached", "r_self"):
            setattr(message, name, getattr(score, name))
        for name in ("r_self_per_token", "success", "reward", "incomplete", "cost_program_hash", "inputs_hash"):
            setattr(message, name, getattr(score, name))
        message.stage_costs = list(score.stage_costs)
        message.json = score.to_json()
        self._scores.publish(message)

    def keypoints(self, tracked: Tracked) -> None:
        """What was tracked, for the recorder: a bag of it scores the same without its images."""
        message = Keypoints()
        fill_header(message, tracked.stamp)
        message.names = list(tracked.names)
        message.points = [Point(x=x, y=y, z=z) for x, y, z in tracked.keypoints.tolist()]
        message.confidence = tracked.confidence.astype("float32").tolist()
        if self._keypoints is not None:
            self._keypoints.publish(message)


def deep(qos: QoSProfile, depth: int = 100) -> QoSProfile:
    """The same with room for a second of samples: best effort keeps one, and a busy moment would overwrite it."""
    if qos.reliability == ReliabilityPolicy.BEST_EFFORT:
        return QoSProfile(history=qos.history, depth=depth, reliability=qos.reliability, durability=qos.durability)
    return qos
