"""The reward node: judges every observation, prices every step, scores every episode, live or from a replayed bag."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import (
    EpisodeIdentity,
    EpisodeOutcome,
    EpisodeScore,
    Keypoints,
    PolicyStep,
    StageCosts,
    TaskStatus,
)
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from grape_episode import topics
from grape_episode.messages import fill_header, identity_of, outcome_of, stamp_of
from grape_episode.ros import EVENT, LATCHED, declare, robot_state, spin
from grape_reward.errors import RewardError
from grape_reward.gcpg import PRESETS, Lambdas
from grape_reward.live import Judgement, LiveEpisode
from grape_reward.result import Score, unscorable

EARLY_SECONDS = 2.0
"""Topics are not ordered among each other: what arrived this long before the announcement may belong to its episode."""


class RewardNode(Node):
    """Parameters: see ``ros2 param describe /grape_reward``. Raises RewardError for parameters that make no sense."""

    def __init__(self) -> None:
        super().__init__("grape_reward")
        lock_step = declare(self, "lock_step", False, "Subscribe to pose reliably: the world waits for each step.")
        self._objective = declare(self, "objective", "", "Score towards this objective; empty: each episode's own.")
        preset = declare(self, "lambdas", "paper", f"Weights of Eq. 10: one of {', '.join(PRESETS)}, or 'a,b,c'.")
        self._lambdas = _lambdas(preset)
        waiting = "Wall seconds to wait, after the outcome, for more of what it announces."
        self._drain = declare(self, "drain_seconds", 2.0, waiting, (0.1, 60.0))
        self._episode: LiveEpisode | None = None
        self._identity: Any = None
        self._refusal = ""
        self._refused_at: int | None = None
        self._deadline: float | None = None
        self._early: deque[tuple[float, int, Callable[[], None]]] = deque(maxlen=2000)
        self._status = self.create_publisher(TaskStatus, topics.TASK_STATUS, EVENT)
        self._costs = self.create_publisher(StageCosts, topics.STAGE_COSTS, EVENT)
        self._scores = self.create_publisher(EpisodeScore, topics.SCORE, EVENT)
        self._subscribe(EpisodeIdentity, topics.EPISODE, self._on_identity, LATCHED)
        self._subscribe(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        self._subscribe(PolicyStep, topics.POLICY_STEP, self._on_step, EVENT)
        self._subscribe(Keypoints, topics.KEYPOINTS, self._on_keypoints, EVENT)
        self._subscribe(JointState, topics.JOINT_STATES, self._on_joints, EVENT)
        self._subscribe(PoseStamped, topics.CURRENT_POSE, self._on_pose, _deep(robot_state(lock_step)))
        # Steady: simulated time stands still in lock-step, and at the end of a replay.
        self.create_timer(0.1, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> None:
        events = SubscriptionEventCallbacks(message_lost=lambda _: self._on_lost(topic))
        self.create_subscription(kind, topic, callback, qos, event_callbacks=events)

    # --- what arrives ---

    def _on_identity(self, message: EpisodeIdentity) -> None:
        identity = identity_of(message)
        if self._current(identity.episode_id):
            return
        self._finish()
        self._identity, self._refusal, self._refused_at = identity, "", None
        try:
            self._episode = LiveEpisode(identity, self._objective, self._lambdas)
        except RewardError as error:
            self._refusal = str(error)
            self.get_logger().error(f"{identity.episode_id}: {error}")
        now = time.monotonic()
        early, self._early = list(self._early), deque(maxlen=self._early.maxlen)
        for arrived, stamp, again in early:
            if arrived > now - EARLY_SECONDS and stamp > identity.stamp:
                again()

    def _on_step(self, message: PolicyStep) -> None:
        stamp = stamp_of(message)
        if not self._current(message.episode_id):
            self._keep(stamp, lambda: self._on_step(message))
        elif self._episode is not None:
            self._episode.step(int(message.step), stamp, np.array(message.logprobs, np.float32))
            self._wait_on()
            self._advance()

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        if not self._current(message.episode_id):
            self._keep(stamp_of(message), lambda: self._on_outcome(message))
        elif self._episode is not None and not self._episode.ended:
            self._episode.end(outcome_of(message))
            self._wait_on()
            self._advance()
        elif self._refusal:
            identity = self._identity
            objective = self._objective or identity.objective
            args = (identity.episode_id, identity.task, identity.initial_state, objective, self._refusal)
            self._refused_at = stamp_of(message)
            self._publish_score(unscorable(*args), self._refused_at)

    def _on_keypoints(self, message: Keypoints) -> None:
        points = np.array([(p.x, p.y, p.z) for p in message.points], np.float64).reshape(-1, 3)
        stamp = stamp_of(message)
        last = stamp if self._refused_at is None else self._refused_at
        if self._refusal and self._identity.stamp < stamp <= last:
            self._publish_status(stamp, 0, 0, TaskStatus.UNKNOWN, "", self._refusal)
        self._sample("keypoints", stamp, points)

    def _on_joints(self, message: JointState) -> None:
        # The arm's own joint states, without the gripper, come on the same topic on a real robot.
        if topics.KNUCKLE_JOINT in message.name:
            joints = dict(zip(message.name, message.position, strict=False))
            knuckle = float(joints.get(topics.KNUCKLE_JOINT, np.nan))
            self._sample("gripper", stamp_of(message), topics.gripper_width(knuckle))

    def _on_pose(self, message: PoseStamped) -> None:
        p, q = message.pose.position, message.pose.orientation
        self._sample("tcp", stamp_of(message), np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w]))

    def _sample(self, topic: str, stamp: int, value: Any) -> None:
        if self._episode is None:
            self._keep(stamp, lambda: self._sample(topic, stamp, value))
            return
        if self._episode.ended and stamp > self._episode.outcome_stamp:
            # It may belong to the next episode, whose announcement has yet to arrive.
            self._keep(stamp, lambda: self._sample(topic, stamp, value))
        else:
            self._wait_on()
        self._episode.sample(topic, stamp, value)
        self._advance()

    def _on_lost(self, topic: str) -> None:
        self.get_logger().warning(f"{topic}: messages were lost")
        if self._episode is not None:
            self._episode.lost(topic)

    def _wait_on(self) -> None:
        """Something of the episode has arrived: after its outcome, wait anew for the rest."""
        if self._episode is not None and self._episode.ended:
            self._deadline = time.monotonic() + self._drain

    def _on_timer(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._finish()

    # --- what leaves ---

    def _current(self, episode_id: str) -> bool:
        """Whether an episode of that id is under way; one that was scored may be replayed."""
        under_way = self._episode is not None or (bool(self._refusal) and self._refused_at is None)
        return under_way and episode_id == self._identity.episode_id

    def _keep(self, stamp: int, again: Callable[[], None]) -> None:
        self._early.append((time.monotonic(), stamp, again))

    def _advance(self) -> None:
        episode = self._episode
        if episode is None:
            return
        standing, costs, score = episode.advance()
        for judgement in standing:
            live = judgement.live
            stages = len(episode.task.stages)
            self._publish_status(
                judgement.stamp, live.stage, stages, live.success, episode.task.program_hash, live.reason
            )
        for judgement in costs:
            self._publish_costs(judgement, len(episode.task.stages))
        if score is not None:
            self._close(episode, score)

    def _finish(self) -> None:
        """End the episode at hand with what there is of it."""
        episode, self._deadline = self._episode, None
        if episode is None:
            return
        score = episode.finish()
        if score is None:
            self.get_logger().warning(f"{episode.identity.episode_id}: no outcome, no score")
            self._episode = None
        else:
            self._close(episode, score)

    def _close(self, episode: LiveEpisode, score: Score) -> None:
        self._episode, self._deadline = None, None
        self._publish_score(score, episode.outcome_stamp)
        lines = "; ".join(score.problems[:3])
        self.get_logger().info(
            f"{score.episode_id}: success {score.success}, log R_ext {score.log_r_ext:.3f}"
            + (f", incomplete: {lines}" if score.incomplete else "")
        )

    def _publish_status(
        self, stamp: int, stage: int, stages: int, success: int, program_hash: str, reason: str
    ) -> None:
        message = TaskStatus()
        fill_header(message, stamp)
        message.episode_id = self._identity.episode_id
        message.stage, message.stages, message.success = stage, stages, success
        message.cost_program_hash, message.reason = program_hash, reason
        self._status.publish(message)

    def _publish_costs(self, judgement: Judgement, stages: int) -> None:
        message = StageCosts()
        fill_header(message, judgement.stamp)
        message.episode_id = self._identity.episode_id
        message.step, message.stage, message.stages = judgement.step, judgement.live.stage, stages
        message.names, message.costs = list(judgement.live.names), list(judgement.live.costs)
        self._costs.publish(message)

    def _publish_score(self, score: Score, stamp: int) -> None:
        message = EpisodeScore()
        fill_header(message, stamp)
        for name in ("episode_id", "task", "initial_state", "objective", "log_r_ext", "stages_reached", "r_self"):
            setattr(message, name, getattr(score, name))
        for name in ("r_self_per_token", "success", "reward", "incomplete", "cost_program_hash", "inputs_hash"):
            setattr(message, name, getattr(score, name))
        message.stage_costs = list(score.stage_costs)
        message.json = score.to_json()
        self._scores.publish(message)


def _deep(qos: QoSProfile) -> QoSProfile:
    """The same with room for a second of samples: best effort keeps one, and a busy moment would overwrite it."""
    if qos.reliability == ReliabilityPolicy.BEST_EFFORT:
        return QoSProfile(history=qos.history, depth=100, reliability=qos.reliability, durability=qos.durability)
    return qos


def _lambdas(text: str) -> Lambdas:
    if text in PRESETS:
        return PRESETS[text]
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise RewardError(f"parameter lambdas: {text!r} is none of {', '.join(PRESETS)} and not 'a,b,c'") from None
    return Lambdas(a, b, c)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (status 0); one line and status 1 where it cannot start."""
    rclpy.init(args=arguments)
    node = None
    try:
        node = RewardNode()
        spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (RewardError, ParameterException) as error:
        print(f"grape_reward: {error}", file=sys.stderr)
        return 1
    except RuntimeError:
        # A signal that comes while a message is being taken surfaces as one, with the context already shut down.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
