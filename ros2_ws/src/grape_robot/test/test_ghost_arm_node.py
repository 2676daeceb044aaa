"""A dry run without an arm: the gate under profile `real`, the ghost, and a policy and an operator played here."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import ArmStatus, EpisodeIdentity, GateStatus, Heartbeat, PolicyStep
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Joy

from grape_episode import topics
from grape_episode.ros import EVENT, LATCHED, robot_state
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.profile import load_profile

pytestmark = pytest.mark.ros

PROFILE = Path(__file__).parents[4] / "launch" / "params" / "gate_real.yaml"
EPISODE = "dry-1"
STEP = 0.01
"""Metres of a step."""


class Lab(Node):
    """The policy (heartbeat and, once ``acting``, a step each control period) and an operator who holds the button."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("lab", context=context, use_global_arguments=False)
        self.profile = load_profile(PROFILE)
        self.poses: list[PoseStamped] = []
        self.status: list[ArmStatus] = []
        self.verdicts: list[GateStatus] = []
        self.acting = False
        self._next = 0
        self._joy = self.create_publisher(Joy, topics.JOY, 10)
        self._beat = self.create_publisher(Heartbeat, topics.HEARTBEAT, EVENT)
        self._step = self.create_publisher(PolicyStep, topics.POLICY_STEP, EVENT)
        self.announce = self.create_publisher(EpisodeIdentity, topics.EPISODE, LATCHED)
        self.create_subscription(PoseStamped, topics.CURRENT_POSE, self.poses.append, robot_state(False))
        self.create_subscription(ArmStatus, topics.ARM_STATUS, self.status.append, EVENT)
        self.create_subscription(GateStatus, topics.GATE_STATUS, self._on_verdict, EVENT)
        self.create_timer(0.02, self._on_operator)
        self.create_timer(self.profile.control_period, self._on_period)

    def _on_verdict(self, message: GateStatus) -> None:
        if message.verdict != GateStatus.NONE:
            self.verdicts.append(message)

    def _on_operator(self) -> None:
        now = self.get_clock().now().to_msg()
        joy = Joy(axes=[0.0] * 6, buttons=[0] * 15)
        joy.header.stamp = now
        joy.buttons[self.profile.dead_man.button] = 1
        self._joy.publish(joy)
        beat = Heartbeat(source="lab", episode_id=EPISODE if self.acting else "")
        beat.header.stamp = now
        self._beat.publish(beat)

    def _on_period(self) -> None:
        if not self.acting:
            return
        step = PolicyStep(episode_id=EPISODE, step=self._next, rotation="euler_xyz")
        step.header.stamp, step.header.frame_id = self.get_clock().now().to_msg(), self.profile.frame
        step.action = [STEP, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        self._next += 1
        self._step.publish(step)


@pytest.fixture
def lab():
    context, domain = rclpy.Context(), free_domain()
    context.init(domain_id=domain)
    node = Lab(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin():
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    yield node, domain
    executor.shutdown()
    context.try_shutdown()
    thread.join()


def gate(domain, folder, dry_run):
    parameters = {"profile": PROFILE, "dry_run": dry_run}
    return NodeProcess("grape_robot.gate_node", domain, folder / "gate.log", parameters)


def ghost(domain, folder):
    return NodeProcess("grape_robot.ghost_arm_node", domain, folder / "ghost.log", {"discovery_seconds": 1.0})


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(lab, tmp_path):
    node, domain = lab
    with gate(domain, tmp_path, True), ghost(domain, tmp_path) as there:
        wait_for(lambda: node.poses and node.status and node.status[-1].controller_active, "an arm's state", 60.0)
        node.announce.publish(
            EpisodeIdentity(episode_id=EPISODE, control_period=node.profile.control_period, lock_step=False)
        )
        wait_for(lambda: node.status[-1].episode_id == EPISODE, "the gate to be armed")
        start = node.poses[-1].pose.position.x
        node.acting = True
        wait_for(lambda: len(node.verdicts) >= 5, "verdicts", 30.0)
        accepted = [message for message in node.verdicts if message.verdict == GateStatus.ACCEPTED]
        assert len(accepted) >= 4, [f"{m.check}: {m.reason}" for m in node.verdicts]
        # the set point is shown, and the ghost goes there: a rollout, not five times the first step
        wait_for(lambda: node.poses[-1].pose.position.x > start + 3 * STEP, "the ghost to follow")
        assert node.status[-1].setpoint.position.x > start + 3 * STEP
        assert node.status[-1].dry_run
        assert node.count_publishers(topics.TARGET_POSE) == 0

        # an arm is switched on
        node.acting = False
        arm = node.create_publisher(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        wait_for(lambda: "silent from now on" in there.output, "the ghost to fall silent")
        assert f"{topics.CURRENT_POSE} is published by /lab" in there.output
        wait_for(lambda: node.count_publishers(topics.WRENCH) == 0, "its topics to be gone")
        node.destroy_publisher(arm)


def test_before_a_gate_that_is_not_in_a_dry_run_it_says_nothing(lab, tmp_path):
    node, domain = lab
    with gate(domain, tmp_path, False), ghost(domain, tmp_path) as there:
        wait_for(
            lambda: "silent from now on: the gate is not in a dry run" in there.output, "the ghost to see it", 60.0
        )
        assert not node.poses
        assert node.count_publishers(topics.CURRENT_POSE) == 0
