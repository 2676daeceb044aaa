"""The reward node: judges every observation, prices every step, scores every episode, live or from a replayed bag."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, WrenchStamped
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, Keypoints, OperatorStep, PolicyStep, TaskStatus
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.episode import HOMING
from grape_episode.messages import identity_of, outcome_of, stamp_of
from grape_episode.ros import CAMERA, EVENT, LATCHED, robot_state, spin
from grape_reward.errors import RewardError
from grape_reward.frames import FrameTracker
from grape_reward.images import color_of, depth_of
from grape_reward.live import LiveEpisode
from grape_reward.result import Score, unscorable
from grape_reward.ros import Voice, declared, deep, wrench_needed
from grape_reward.timeline import WRENCH

EARLY_SECONDS = 2.0
"""Topics are not ordered among each other: what arrived this long before the announcement may belong to its episode."""


class RewardNode(Node):
    """Parameters: see ``ros2 param describe /grape_reward``. Raises RewardError for parameters that make no sense."""

    def __init__(self) -> None:
        super().__init__("grape_reward")
        self._told = told = declared(self)
        self._episode: LiveEpisode | None = None
        self._tracker: FrameTracker | None = None
        self._identity: Any = None
        self._refusal = ""
        self._refused_at: int | None = None
        self._ended_at = 0
        self._deadline: float | None = None
        self._early: deque[tuple[float, int, Callable[[], None]]] = deque(maxlen=2000)
        self._voice = Voice(self, keypoints=told.tracking is not None)
        state = deep(robot_state(told.lock_step))
        self._subscribe(EpisodeIdentity, topics.EPISODE, self._on_identity, LATCHED)
        self._subscribe(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        self._subscribe(PolicyStep, told.step_topic, self._on_step, EVENT)
        self._subscribe(OperatorStep, topics.OPERATOR_STEP, self._on_operator, EVENT)
        self._subscribe(JointState, topics.JOINT_STATES, self._on_joints, EVENT)
        self._subscribe(PoseStamped, topics.CURRENT_POSE, self._on_pose, state)
        if told.tracking is None:
            self._subscribe(Keypoints, topics.KEYPOINTS, self._on_keypoints, EVENT)
        else:
            self._subscribe(Image, topics.COLOR, lambda image: self._on_image("color", image), CAMERA)
            self._subscribe(Image, topics.DEPTH, lambda image: self._on_image("depth", image), CAMERA)
        if wrench_needed(self, told.tasks):
            self._subscribe(WrenchStamped, topics.WRENCH, self._on_wrench, deep(robot_state(told.lock_step), 1000))
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
        # The clock may lag behind the world: its last observation for the episode before is then later than the new
        # announcement. A replay may go back in time.
        before = self._identity
        since = self._ended_at if before is not None and before.stamp < identity.stamp else 0
        self._identity, self._refusal, self._refused_at = identity, "", None
        told = self._told
        try:
            episode = LiveEpisode(identity, told.objective, told.lambdas, told.tasks, told.unapproved, since)
            self._tracker = None if told.tracking is None else told.tracking.tracker(identity, episode.task)
            self._episode = episode
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

    def _on_operator(self, message: OperatorStep) -> None:
        if self._episode is not None and message.kind == OperatorStep.MOVE and message.source != HOMING:
            self._episode.drive(stamp_of(message))

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        if not self._current(message.episode_id):
            self._keep(stamp_of(message), lambda: self._on_outcome(message))
        elif self._episode is not None and not self._episode.ended:
            self._episode.end(outcome_of(message))
            self._ended_at = self._episode.outcome_stamp
            self._wait_on()
            self._advance()
        elif self._refusal:
            identity = self._identity
            objective = self._told.objective or identity.objective
            args = (identity.episode_id, identity.task, identity.initial_state, objective, self._refusal)
            self._refused_at = stamp_of(message)
            self._voice.score(unscorable(*args), self._refused_at)

    def _on_keypoints(self, message: Keypoints) -> None:
        points = np.array([(p.x, p.y, p.z) for p in message.points], np.float64).reshape(-1, 3)
        stamp, confidence = stamp_of(message), np.array(message.confidence, np.float64)
        self._refuse_at(stamp)
        if len(message.names) != len(points) or len(confidence) not in (0, len(points)):
            told = f"{len(points)} points, {len(message.names)} names, {len(confidence)} confidences"
            self._trouble(f"{topics.KEYPOINTS}: {told}")
            points = points * np.nan
            confidence = np.zeros(0)
        self._feed(stamp, lambda episode: episode.keypoints(stamp, list(message.names), points, confidence))

    def _on_image(self, kind: str, message: Image) -> None:
        if kind == "color":
            self._refuse_at(stamp_of(message))
        stamp = stamp_of(message)
        try:
            image = color_of(message, topics.COLOR) if kind == "color" else depth_of(message, topics.DEPTH)
        except RewardError as error:
            self._trouble(str(error))
            return

        def follow(episode: LiveEpisode) -> None:
            if self._tracker is not None:
                self._tracker.image(kind, stamp, image)

        self._feed(stamp, follow)

    def _on_wrench(self, message: WrenchStamped) -> None:
        f, t = message.wrench.force, message.wrench.torque
        self._sample(WRENCH, stamp_of(message), np.array([f.x, f.y, f.z, t.x, t.y, t.z]))

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
        def take(episode: LiveEpisode) -> None:
            episode.sample(topic, stamp, value)
            if self._tracker is not None:
                self._tracker.state(topic, stamp, value)

        self._feed(stamp, take)

    def _feed(self, stamp: int, take: Callable[[LiveEpisode], None]) -> None:
        """What was measured at ``stamp``, to the episode at hand."""
        if self._episode is None:
            self._keep(stamp, lambda: self._feed(stamp, take))
            return
        if self._episode.ended and stamp > self._episode.outcome_stamp:
            # It may belong to the next episode, whose announcement has yet to arrive.
            self._keep(stamp, lambda: self._feed(stamp, take))
        else:
            self._wait_on()
        take(self._episode)
        self._track()
        self._advance()

    def _track(self) -> None:
        if self._tracker is None or self._episode is None:
            return
        try:
            found = self._tracker.pop()
        except RewardError as error:
            self._tracker = None
            self._trouble(f"tracking ended: {error}")
            return
        for tracked in found:
            self._voice.keypoints(tracked)
            # as it will be read from a bag
            confidence = tracked.confidence.astype(np.float32).astype(np.float64)
            self._episode.keypoints(tracked.stamp, tracked.names, tracked.keypoints, confidence)

    def _on_lost(self, topic: str) -> None:
        self._trouble(f"{topic}: messages were lost on the way")

    def _trouble(self, problem: str) -> None:
        """Something that the bag may not show: the score must not be used."""
        self.get_logger().warning(problem)
        if self._episode is not None:
            self._episode.trouble(problem)

    def _refuse_at(self, stamp: int) -> None:
        """An observation of an episode that cannot be judged: whoever waits for a status is told why."""
        last = stamp if self._refused_at is None else self._refused_at
        if self._refusal and self._identity.stamp < stamp <= last:
            self._voice.status(self._identity.episode_id, stamp, 0, 0, TaskStatus.UNKNOWN, "", self._refusal)

    def _wait_on(self) -> None:
        """Something of the episode has arrived: after its outcome, wait anew for the rest."""
        if self._episode is not None and self._episode.ended:
            self._deadline = time.monotonic() + self._told.drain_seconds

    def _on_timer(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._finish()

    # --- what leaves ---

    def _current(self, episode_id: str) -> bool:
        """Whether an episode of that id is under way; one that was scored may be replayed."""
        under_way = self._episode is not None or (bool(self._refusal) and self._refused_at is None)
        return under_way and episode_id == self._identity.episode_id

    def _keep(self, stamp: int, again: Callable[[], None]) -> None:
        now = time.monotonic()
        while self._early and self._early[0][0] < now - EARLY_SECONDS:
            self._early.popleft()  # images among them: a few seconds of them fill the memory
        self._early.append((now, stamp, again))

    def _advance(self) -> None:
        episode = self._episode
        if episode is None:
            return
        standing, costs, score = episode.advance()
        name, stages = episode.identity.episode_id, len(episode.task.stages)
        for judgement in standing:
            live = judgement.live
            told = (live.stage, stages, live.success, episode.task.program_hash, live.reason)
            self._voice.status(name, judgement.stamp, *told)
        for judgement in costs:
            self._voice.costs(name, judgement, stages)
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
        self._episode, self._tracker, self._deadline = None, None, None
        self._voice.score(score, episode.outcome_stamp)
        lines = "; ".join(score.problems[:3])
        self.get_logger().info(
            f"{score.episode_id}: success {score.success}, log R_ext {score.log_r_ext:.3f}"
            + (f", incomplete: {lines}" if score.incomplete else "")
        )


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
