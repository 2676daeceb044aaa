"""The world of policy_node_timing.py: a camera, a robot's state and a gate, as fast as a lab's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, GateStatus, Heartbeat, PolicyStep
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.ros import CAMERA, EVENT, JOINTS, LATCHED, ask, image_to_msg, robot_state, set_stamp, stamp_ns
from grape_episode.testing import wait_for


class TimingWorld:
    """Camera, robot state and a gate that accepts everything, in real time; spins in a thread of its own."""

    def __init__(self, domain: int, frames: list[np.ndarray]) -> None:
        self._frames, self._sent, self._episode = frames, 0, ""
        self.beats: list[int] = []
        self.steps: list[PolicyStep] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        node = self.node = Node("timing_world", context=self.context)
        self._color = node.create_publisher(Image, topics.COLOR, CAMERA)
        self._pose = node.create_publisher(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        self._joints = node.create_publisher(JointState, topics.JOINT_STATES, JOINTS)
        self._gate = node.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
        node.create_subscription(Heartbeat, topics.HEARTBEAT, self._on_beat, EVENT)
        node.create_subscription(PolicyStep, topics.POLICY_STEP, self._on_step, EVENT)
        node.create_subscription(EpisodeIdentity, topics.EPISODE, self._on_identity, LATCHED)
        node.create_subscription(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        self.action = ActionClient(node, RunEpisode, topics.RUN_EPISODE)
        node.create_timer(1 / 30, self._observe)
        node.create_timer(0.01, self._move)
        node.create_timer(0.1, self._say_gate)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self.context.try_shutdown()

    def _now(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def _observe(self) -> None:
        self._sent += 1
        frame = self._frames[self._sent % len(self._frames)]
        self._color.publish(image_to_msg(frame, self._now(), topics.CAMERA_FRAME))

    def _move(self) -> None:
        pose, joints = PoseStamped(), JointState(name=[topics.KNUCKLE_JOINT], position=[0.1])
        pose.header.frame_id, pose.pose.orientation.w = topics.BASE_FRAME, 1.0
        for message in (pose, joints):
            set_stamp(message.header.stamp, self._now())
        self._pose.publish(pose)
        self._joints.publish(joints)

    def _say_gate(self, step: int = 0, verdict: int = GateStatus.NONE) -> None:
        state = GateStatus.ACTIVE if self._episode else GateStatus.IDLE
        self._gate.publish(GateStatus(episode_id=self._episode, step=step, verdict=verdict, state=state))

    def _on_beat(self, message: Heartbeat) -> None:
        self.beats.append(stamp_ns(message.header.stamp))

    def _on_step(self, message: PolicyStep) -> None:
        self.steps.append(message)
        self._say_gate(message.step, GateStatus.ACCEPTED)

    def _on_identity(self, message: EpisodeIdentity) -> None:
        self._episode = message.episode_id
        self._say_gate()

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        self._episode = ""

    def start_episode(self) -> Episode:
        """Have the policy act until it is cancelled."""
        goal = RunEpisode.Goal(task="carrot_on_plate", temperature=1.0, step_limit=1_000_000)
        wait_for(self.action.server_is_ready, "the action server")
        return Episode(self._executor, _finished(self._executor, lambda: self.action.send_goal_async(goal), "the goal"))


class Episode:
    """A goal that was accepted."""

    def __init__(self, executor: Executor, handle: Any) -> None:
        self._executor, self._handle = executor, handle

    def cancel(self) -> None:
        """Returns when the cancel is accepted."""
        _finished(self._executor, self._handle.cancel_goal_async, "the cancel")

    def wait(self) -> None:
        """Returns when the episode has ended."""
        _finished(self._executor, self._handle.get_result_async, "the result")


def _finished(executor: Executor, send: Callable[[], Any], what: str) -> Any:
    future = ask(executor, send)
    wait_for(future.done, what, 30.0)
    return future.result()
