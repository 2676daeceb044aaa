"""The recorder over real topics, in a process of its own."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from grape_interfaces.msg import EpisodeRecord
from grape_interfaces.srv import PrepareRecording
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message

from grape_episode import ros, topics
from grape_episode.bag import BagScan
from grape_episode.episode import CutOffError, Series, differences
from grape_episode.reader import bag_file, read_episode
from grape_episode.recover import recover
from grape_episode.synthetic import episode_messages, make_episode
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_episode.typestore import typestore

pytestmark = pytest.mark.ros
MODULE = "grape_episode.recorder_node"


class World:
    """Everybody whom the recorder listens to, as one node."""

    def __init__(self, domain: int) -> None:
        self.domain, self.context = domain, Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("world", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.records: list[EpisodeRecord] = []
        self.node.create_subscription(EpisodeRecord, topics.RECORD, self.records.append, ros.EVENT)
        self.client = self.node.create_client(PrepareRecording, topics.PREPARE_RECORDING)
        self.outputs = {}
        for topic, name in topics.DATA_TYPES.items():
            qos = ros.LATCHED if topic == topics.EPISODE else ros.EVENT
            if topic in (topics.CURRENT_POSE, topics.WRENCH):
                qos = ros.robot_state(lock_step=True)
            self.outputs[topic] = self.node.create_publisher(ros.message_class(name), topic, qos)

    def spin_until(self, condition, what, deadline=20.0):
        def step():
            self.executor.spin_once(timeout_sec=0.01)
            return condition()

        return wait_for(step, what, deadline, poll=0.0)

    def prepare(self, episode) -> PrepareRecording.Response:
        assert self.client.wait_for_service(20.0)
        _, _, message = next(episode_messages(episode))
        request = PrepareRecording.Request()
        data = bytes(typestore().serialize_cdr(message, topics.DATA_TYPES[topics.EPISODE]))
        request.identity = deserialize_message(data, ros.message_class(topics.DATA_TYPES[topics.EPISODE]))
        future = self.client.call_async(request)
        reply = self.spin_until(lambda: future.done() and future.result(), "the reply of PrepareRecording")
        for topic, output in self.outputs.items():
            if topic not in topics.RAW_CAMERA:
                wait_for(output.get_subscription_count, f"the recorder to listen to {topic}")
        return reply

    def play(self, episode, leave_out=lambda topic, stamp: False) -> None:
        for topic, stamp, message in episode_messages(episode):
            if not leave_out(topic, stamp):
                self.outputs[topic].publish(bytes(typestore().serialize_cdr(message, topics.DATA_TYPES[topic])))

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope="module")
def domain():
    return free_domain()


@pytest.fixture(scope="module")
def world(domain):
    world = World(domain)
    yield world
    world.close()


@pytest.fixture(scope="module")
def recorder(domain, world, tmp_path_factory):
    root = tmp_path_factory.mktemp("bags")
    params = {"root": root, "disk_floor_mb": 1, "lock_step": True, "drain_seconds": 0.5, "flush_seconds": 0.4}
    params["use_sim_time"] = True  # with nobody on /clock: time stands still, as in lock-step after an episode
    with NodeProcess(MODULE, domain, root / "recorder.log", params) as process:
        process.root = root
        assert world.client.wait_for_service(20.0), process.output
        yield process


def next_record(world, episode) -> EpisodeRecord:
    def found():
        return [r for r in world.records if r.episode_id == episode.identity.episode_id]

    return world.spin_until(found, f"the record of {episode.identity.episode_id}")[0]


def test_an_episode_over_topics_comes_back_bit_for_bit(world, recorder):
    episode = make_episode(seed=1, steps=8, variant="obstacle")
    reply = world.prepare(episode)
    assert reply.accepted, reply.reason
    world.play(episode)
    record = next_record(world, episode)
    assert record.complete, record.problems
    assert record.path == reply.path == str(recorder.root / episode.identity.episode_id)
    back = read_episode(record.path)
    assert differences(replace(episode, path=back.path), back) == []
    assert record.bytes == sum(f.stat().st_size for f in back.path.iterdir())


def test_what_a_person_did_is_recorded_and_nobody_has_to(world, recorder):
    moves = make_episode(seed=6, steps=4).tcp.stamps[1:3]
    episode = make_episode(seed=6, steps=4)
    episode = replace(episode, operator=Series(moves, np.ones((2, 7))))
    assert world.prepare(episode).accepted
    for topic in (topics.JOY, topics.ARM_STATUS, topics.KEEP_OUT):
        world.outputs[topic].publish(ros.message_class(topics.DATA_TYPES[topic])())
    world.play(episode)
    record = next_record(world, episode)
    assert record.complete, record.problems
    back = read_episode(record.path)
    assert differences(replace(episode, path=back.path), back) == [] and back.driven
    scan = BagScan(bag_file(back.path))
    recorded = [found.topic for found in scan.records()]
    for topic, times in ((topics.OPERATOR_STEP, 2), (topics.JOY, 1), (topics.ARM_STATUS, 1), (topics.KEEP_OUT, 1)):
        assert recorded.count(topic) == times


def test_the_steps_may_come_after_the_outcome(world, recorder):
    episode = make_episode(seed=2, steps=3)
    assert world.prepare(episode).accepted
    world.play(episode, lambda topic, _: topic == topics.POLICY_STEP)
    world.play(episode, lambda topic, _: topic != topics.POLICY_STEP)
    assert next_record(world, episode).complete
    assert read_episode(recorder.root / episode.identity.episode_id).complete


def test_a_missing_image_makes_it_incomplete_by_name(world, recorder):
    episode = make_episode(seed=3, steps=4)
    assert world.prepare(episode).accepted
    world.play(episode, lambda topic, stamp: topic == topics.MODEL_INPUT and stamp == episode.steps[2].stamp)
    record = next_record(world, episode)
    assert not record.complete
    assert list(record.problems) == ["no image for step 2"]
    assert list(read_episode(record.path).problems) == ["no image for step 2"]


def test_the_next_episode_ends_one_without_an_outcome(world, recorder):
    lost, following = make_episode(seed=4, steps=3), make_episode(seed=5, steps=3)
    assert world.prepare(lost).accepted
    world.play(lost, lambda topic, _: topic == topics.OUTCOME)
    assert world.prepare(following).accepted
    record = next_record(world, lost)
    assert not record.complete
    assert any("no outcome" in line for line in record.problems), record.problems
    assert any("next episode began" in line for line in read_episode(record.path).problems)
    world.play(following)
    assert next_record(world, following).complete


@pytest.mark.parametrize(("name", "reason"), [("../evil", "episode_id"), ("", "episode_id"), ("twice", "already")])
def test_unusable_names_are_refused(world, recorder, name, reason):
    (recorder.root / "twice").mkdir(exist_ok=True)
    reply = world.prepare(_named(name))
    assert not reply.accepted
    assert reason in reply.reason
    assert recorder.running()


def _named(name):
    episode = make_episode(steps=1)
    return replace(episode, identity=replace(episode.identity, episode_id=name))


@pytest.fixture
def other_world():
    world = World(free_domain())
    yield world
    world.close()


def test_killed_while_recording_it_loses_at_most_the_flush_interval(other_world, tmp_path):
    world, episode = other_world, make_episode(seed=6, steps=5)
    params = {"root": tmp_path, "disk_floor_mb": 1, "lock_step": True, "flush_seconds": 0.4}
    with NodeProcess(MODULE, world.domain, tmp_path / "log", params) as process:
        assert world.prepare(episode).accepted
        world.play(episode, lambda topic, _: topic == topics.OUTCOME)
        file = next((tmp_path / episode.identity.episode_id).glob("*.mcap"))
        size = file.stat().st_size
        started = time.monotonic()
        wait_for(lambda: file.stat().st_size > size + 5 * 3000, "the flush", 5)
        assert time.monotonic() - started < 1.0
        process.kill()
    before = file.read_bytes()
    with pytest.raises(CutOffError, match="grape recover"):
        read_episode(file.parent)
    done = recover(file.parent, tmp_path / "copy")
    saved = read_episode(done.path)
    assert file.read_bytes() == before
    assert [step.index for step in saved.steps] == [0, 1, 2, 3, 4]
    assert differences(saved.steps, episode.steps) == []
    assert saved.problems == ("no outcome: the recording ended before the episode did",)


def test_stopped_while_recording_it_ends_the_bag_in_order(other_world, tmp_path):
    world, episode = other_world, make_episode(seed=7, steps=2)
    params = {"root": tmp_path, "disk_floor_mb": 1, "lock_step": True}
    with NodeProcess(MODULE, world.domain, tmp_path / "log", params) as process:
        assert world.prepare(episode).accepted
        process.process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    problems = read_episode(tmp_path / episode.identity.episode_id).problems
    assert any("the recorder was stopped" in line for line in problems)


def test_without_room_it_does_not_start(tmp_path):
    with NodeProcess(MODULE, free_domain(), tmp_path / "log", {"root": tmp_path, "disk_floor_mb": 10**9}) as process:
        assert process.wait(20) == 1
    assert "below the floor" in process.output and str(tmp_path) in process.output
    assert len(process.output.strip().splitlines()) == 1
