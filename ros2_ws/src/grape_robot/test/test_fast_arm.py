"""What comes at 1 kHz, best effort: it is received as the gate receives it, and the gate lives on it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from control_msgs.action import GripperCommand
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import EpisodeIdentity, GateStatus, Heartbeat, PolicyStep
from rclpy.action import ActionServer
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from grape_episode import topics
from grape_episode.ros import EVENT, LATCHED, robot_state, set_stamp, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.ros import Newest

pytestmark = [pytest.mark.ros, pytest.mark.alone]

HERE = Path(__file__).parent
PROFILE = HERE.parents[3] / "launch" / "params" / "gate_supervised.yaml"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, int]]:
    domain = free_domain()
    context = rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    log = tmp_path_factory.mktemp("fast") / "arm.log"
    with NodeProcess("fast_arm_node", domain, log, environment={"PYTHONPATH": path}):
        yield node, domain
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


class Counting(Newest[PoseStamped]):
    """The gate's own subscription, with a count."""

    count = 0

    def _on_bytes(self, data: bytes) -> None:
        self.count += 1
        super()._on_bytes(data)


def test_a_pose_at_1_khz_is_received_and_the_newest_is_fresh(rig: tuple[Node, int]) -> None:
    newest = Counting(rig[0], PoseStamped, topics.CURRENT_POSE, robot_state(lock_step=False))
    wait_for(lambda: newest.count, "the first pose", 60.0)
    first, begin, ages = newest.count, time.monotonic(), []
    while newest.count - first < 2000:
        assert time.monotonic() - begin < 20.0, f"{newest.count - first} poses within 20 s"
        read = newest.read()
        assert read is not None
        ages.append(1e-9 * (time.time_ns() - stamp_ns(read[0].header.stamp)))
        time.sleep(0.02)  # as the gate's timer reads it
    rate = (newest.count - first) / (time.monotonic() - begin)
    print(f"{rate:.0f} poses a second, the newest {1000 * np.median(ages):.1f} ms old in the median")
    assert rate > 200.0 and np.median(ages) < 0.05


def grip(handle) -> GripperCommand.Result:
    handle.succeed()
    return GripperCommand.Result()


def test_the_gate_follows_an_arm_that_speaks_at_1_khz(rig: tuple[Node, int], tmp_path: Path) -> None:
    """Supervised's clock and ages; of the rest what this arm has. Its gripper is of the older type."""
    node, domain = rig
    profile = yaml.safe_load(PROFILE.read_text())
    profile.update(watch_joints=False, watch_wrench=False, watch_robot_mode=False, controller="", keep_out_links=False)
    # what is tested is whether poses arrive: a busy machine may be late with all else
    profile.update(state_timeout=0.5, hold_margin=2.0, stop_margin=3.0, heartbeat_timeout=2.0, age_margin=2.0)
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(profile))
    heard: list[GateStatus] = []
    sent: list[PoseStamped] = []
    listen, create = node.create_subscription, node.create_publisher
    listen(GateStatus, topics.GATE_STATUS, heard.append, EVENT)
    listen(PoseStamped, topics.TARGET_POSE, sent.append, EVENT)
    gripper = ActionServer(node, GripperCommand, topics.GRIPPER_ACTION, grip)
    episode, steps, beats = (
        create(EpisodeIdentity, topics.EPISODE, LATCHED),
        create(PolicyStep, topics.POLICY_STEP, EVENT),
        create(Heartbeat, topics.HEARTBEAT, EVENT),
    )

    def verdicts() -> list[GateStatus]:
        return [message for message in list(heard) if message.verdict != GateStatus.NONE]

    gate = NodeProcess("grape_robot.gate_node", domain, tmp_path / "gate.log", {"profile": tmp_path / "gate.yaml"})
    with gate:
        wait_for(lambda: heard, "the gate", 90.0)
        for publisher in (episode, steps, beats):
            wait_for(publisher.get_subscription_count, f"the gate on {publisher.topic}")
        beating = node.create_timer(0.05, lambda: beats.publish(Heartbeat(source="policy", episode_id="e")))
        episode.publish(EpisodeIdentity(episode_id="e", control_period=0.2))
        wait_for(lambda: heard[-1].state == GateStatus.ACTIVE, "the gate to be armed")
        due = time.monotonic()
        for index in range(8):
            message = PolicyStep(episode_id="e", step=index, rotation="euler_xyz", action=[0.005, 0, 0, 0, 0, 0, 1.0])
            message.header.frame_id = topics.BASE_FRAME
            set_stamp(message.header.stamp, time.time_ns())
            steps.publish(message)
            due += 0.2
            time.sleep(max(0.0, due - time.monotonic()))  # the pace of a policy
        wait_for(lambda: len(verdicts()) >= 8, "a verdict on every step")
        node.destroy_timer(beating)
    # the first heartbeat may come after the first step
    refused = [m.reason for m in verdicts() if m.verdict != GateStatus.ACCEPTED and m.check != "heartbeat"]
    accepted = [m for m in verdicts() if m.verdict == GateStatus.ACCEPTED]
    assert not refused and len(accepted) >= 6, refused
    assert len(sent) > 20, "a stream of set points"
    gripper.destroy()
