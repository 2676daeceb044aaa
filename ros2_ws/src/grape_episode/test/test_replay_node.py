"""Replay over real topics, in a process of its own."""

from __future__ import annotations

import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock

from grape_episode import ros, topics
from grape_episode.reader import header_stamp
from grape_episode.replay import replayed
from grape_episode.synthetic import make_episode, write_episode
from grape_episode.testing import NodeProcess, free_domain, wait_for

pytestmark = pytest.mark.ros
MODULE = "grape_episode.replay_node"
EPISODE = make_episode(seed=11, steps=5)
PLAYED = {
    topics.EPISODE: 1,
    topics.CURRENT_POSE: 6,
    topics.JOINT_STATES: 6,
    topics.WRENCH: 6,
    topics.KEYPOINTS: 6,
    topics.MODEL_INPUT: 5,
    replayed(topics.POLICY_STEP): 5,
    topics.GATE_STATUS: 5,
    topics.WORLD_STATUS: 1,
    topics.OUTCOME: 1,
}


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_episode(EPISODE, tmp_path_factory.mktemp("bags") / "whole")


class Listener:
    """Subscribes what a replay may, and what it must not, publish."""

    def __init__(self, domain: int) -> None:
        self.domain, self.context = domain, Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[bytes]] = {}
        self.clock: list[int] = []
        for topic, name in topics.DATA_TYPES.items():
            if topic != topics.TARGET_POSE:  # whoever subscribes that is a controller
                self._listen(topic, name)
            if topic in topics.COMMANDS:
                self._listen(replayed(topic), name)
        self.node.create_subscription(
            Clock, topics.CLOCK, lambda message: self.clock.append(ros.stamp_ns(message.clock)), ros.EVENT
        )

    def _listen(self, topic: str, name: str) -> None:
        heard = self.heard.setdefault(topic, [])
        qos = ros.LATCHED if topic == topics.EPISODE else ros.EVENT
        self.node.create_subscription(ros.message_class(name), topic, heard.append, qos, raw=True)

    def play(self, bag, tmp_path, **params) -> tuple[int, str]:
        params = {"discovery_seconds": 0.1, **params}
        for heard in (*self.heard.values(), self.clock):
            heard.clear()
        with NodeProcess(MODULE, self.domain, tmp_path / "log", {"bag": bag, **params}) as process:

            def step():
                self.executor.spin_once(timeout_sec=0.01)
                return not process.running()

            wait_for(step, "the end of the replay", 30, poll=0.0)
        for _ in range(200):
            self.executor.spin_once(timeout_sec=0.0)
        return process.process.returncode, process.output


@pytest.fixture(scope="module")
def listener():
    listener = Listener(free_domain())
    yield listener
    listener.executor.shutdown()
    listener.node.destroy_node()
    rclpy.shutdown(context=listener.context)


def test_everything_but_commands_is_played_on_its_topic(listener, bag, tmp_path):
    status, output = listener.play(bag, tmp_path, rate=0.0, wait_for=",".join(PLAYED))
    assert status == 0, output
    assert {topic: len(messages) for topic, messages in listener.heard.items() if messages} == PLAYED
    stamps = [header_stamp(data) for data in listener.heard[topics.CURRENT_POSE]]
    assert stamps == EPISODE.tcp.stamps.tolist()


def test_it_keeps_the_recorded_pace_and_the_clock_never_goes_back(listener, bag, tmp_path):
    started = time.monotonic()
    names = ",".join(topic for topic in PLAYED if topic not in map(replayed, topics.COMMANDS))
    status, output = listener.play(bag, tmp_path, rate=2.0, commands="skip", wait_for=names)
    assert status == 0, output
    assert time.monotonic() - started > 1.0 / 2
    assert not any(listener.heard[name] for name in (topics.POLICY_STEP, replayed(topics.POLICY_STEP)))
    assert len(listener.heard[topics.MODEL_INPUT]) == 5
    assert listener.clock == sorted(listener.clock)
    assert listener.clock[-1] - listener.clock[0] >= 1_000_000_000
    assert len(listener.clock) > 20


def test_a_simulator_in_the_graph_is_refused_by_name(listener, bag, tmp_path):
    node = rclpy.create_node("some_world", context=listener.context)
    node.create_publisher(Clock, topics.CLOCK, ros.CLOCK)
    try:
        status, output = listener.play(bag, tmp_path, discovery_seconds=10.0)
    finally:
        node.destroy_node()
    assert status == 1
    assert "/clock is published by /some_world" in output
    assert len(output.strip().splitlines()) == 1
    assert not any(listener.heard.values())


def test_a_controller_in_the_graph_is_refused_by_name(listener, bag, tmp_path):
    node = rclpy.create_node("arm", context=listener.context)
    node.create_subscription(ros.message_class(topics.POSE_TYPE), topics.TARGET_POSE, lambda _: None, ros.COMMAND)
    try:
        status, output = listener.play(bag, tmp_path, discovery_seconds=10.0)
    finally:
        node.destroy_node()
    assert status == 1
    assert "/target_pose is obeyed by /arm" in output


def test_a_gate_that_appears_later_stops_it(listener, bag, tmp_path):
    with NodeProcess(MODULE, listener.domain, tmp_path / "log", _later(bag)) as process:
        heard = listener.heard[topics.CURRENT_POSE]
        heard.clear()
        wait_for(lambda: listener.executor.spin_once(timeout_sec=0.01) or heard, "the replay to begin", 20, 0.0)
        node = rclpy.create_node("grape_gate", context=listener.context)
        try:
            assert process.wait(20) == 1
        finally:
            node.destroy_node()
    assert "/grape_gate is running" in process.output


def _later(bag) -> dict[str, object]:
    return {"bag": bag, "rate": 0.01, "discovery_seconds": 0.1, "wait_for": topics.CURRENT_POSE}


def test_a_bag_that_was_cut_off_ends_in_one_line(bag, tmp_path):
    file = tmp_path / "cut.mcap"
    file.write_bytes(next(bag.glob("*.mcap")).read_bytes()[:-20])
    with NodeProcess(MODULE, free_domain(), tmp_path / "log", {"bag": file}) as process:
        assert process.wait(30) == 1
    assert "grape recover" in process.output and str(file) in process.output
    assert len(process.output.strip().splitlines()) == 1
