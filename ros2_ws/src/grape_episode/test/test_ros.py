from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from grape_interfaces.action import RunEpisode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.action import ActionClient, ActionServer
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSCompatibility, ReliabilityPolicy, qos_check_compatible
from sensor_msgs.msg import Image

from grape_episode import ros, topics
from grape_episode.geometry import Pose
from grape_episode.testing import free_domain, wait_for


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive_as_integers(nanoseconds):
    stamp = Time()
    ros.set_stamp(stamp, nanoseconds)
    assert 0 <= stamp.nanosec < 10**9
    assert ros.stamp_ns(stamp) == nanoseconds == stamp.sec * 10**9 + stamp.nanosec


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
images = st.one_of(
    shapes.flatmap(lambda shape: hnp.arrays(np.uint8, (*shape, 3))),
    shapes.flatmap(lambda shape: hnp.arrays(np.uint16, shape)),
    shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(0, 10, width=32))),
)


@settings(deadline=None)
@given(images, st.booleans())
def test_images_come_back_as_they_were(image, backwards):
    image = image[::-1] if backwards else image  # negative strides
    message = ros.image_to_msg(image, 1_500_000_000, topics.CAMERA_FRAME)
    assert (message.height, message.width) == image.shape[:2]
    assert message.step * message.height == len(message.data)
    assert ros.stamp_ns(message.header.stamp) == 1_500_000_000
    back = ros.image_from_msg(message)
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)


def test_padded_rows_and_bgr():
    message = Image(height=2, width=1, encoding="bgr8", step=5, data=bytes([1, 2, 3, 0, 0, 4, 5, 6, 0, 0]))
    assert ros.image_from_msg(message).tolist() == [[[3, 2, 1]], [[6, 5, 4]]]


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'yuv422'"):
        ros.image_from_msg(Image(encoding="yuv422"))
    with pytest.raises(ValueError, match="2x2 rgb8 with step 6 carries 5 bytes"):
        ros.image_from_msg(Image(height=2, width=2, encoding="rgb8", step=6, data=bytes(5)))
    with pytest.raises(ValueError, match="float64"):
        ros.image_to_msg(np.zeros((2, 2)), 0, "x")


def test_poses_there_and_back():
    pose = Pose([1, 2, 3], [0.5, -0.5, 0.5, 0.5])
    back = ros.pose_from_msg(ros.pose_to_msg(pose))
    assert back.position.tolist() == [1, 2, 3]
    assert back.quaternion.tolist() == [0.5, -0.5, 0.5, 0.5]


def test_qos_is_what_the_lab_robot_speaks():
    assert ros.COMMAND.reliability == ReliabilityPolicy.RELIABLE and ros.COMMAND.depth == 1
    assert ros.robot_state(False).reliability == ReliabilityPolicy.BEST_EFFORT and ros.robot_state(False).depth == 1
    assert ros.robot_state(True).reliability == ReliabilityPolicy.RELIABLE
    assert ros.LATCHED.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert all(qos.history == HistoryPolicy.KEEP_LAST for qos in (ros.EVENT, ros.CAMERA, ros.CLOCK, ros.JOINTS))


@pytest.mark.parametrize("lock_step", [True, False])
def test_the_recorder_hears_every_publisher(lock_step):
    offers = {
        topics.CURRENT_POSE: ros.robot_state(lock_step),
        topics.WRENCH: ros.robot_state(lock_step),
        topics.TARGET_POSE: ros.COMMAND,
        topics.EPISODE: ros.LATCHED,
        topics.COLOR: ros.CAMERA,
        topics.DEPTH: ros.CAMERA,
        topics.CAMERA_INFO: ros.CAMERA,
        topics.JOINT_STATES: ros.JOINTS,
        topics.JOY: ros.JOY,
    }
    for topic in topics.DATA_TYPES:
        verdict, reason = qos_check_compatible(offers.get(topic, ros.EVENT), ros.recorder_qos(topic, lock_step))
        assert verdict != QoSCompatibility.ERROR, f"{topic}: {reason}"
    # the check can fail: a reliable subscription does not hear a best-effort publisher
    verdict, _ = qos_check_compatible(ros.robot_state(False), ros.recorder_qos(topics.WRENCH, lock_step=True))
    assert verdict == QoSCompatibility.ERROR


@pytest.fixture(scope="module")
def context():
    context = Context()
    rclpy.init(context=context, domain_id=free_domain())
    yield context
    rclpy.shutdown(context=context)


@pytest.mark.ros
def test_foreign_publishers_and_subscribers_are_named(context):
    gate, stranger = (
        rclpy.create_node(name, context=context, namespace=ns) for name, ns in (("gate", ""), ("x", "/y"))
    )
    try:
        gate.create_publisher(PoseStamped, topics.TARGET_POSE, ros.COMMAND)
        assert ros.foreign_publishers(gate, topics.TARGET_POSE) == []
        stranger.create_publisher(PoseStamped, topics.TARGET_POSE, ros.COMMAND)
        stranger.create_subscription(PoseStamped, topics.CURRENT_POSE, lambda _: None, ros.COMMAND)
        found = wait_for(lambda: ros.foreign_publishers(gate, topics.TARGET_POSE), "the stranger to be seen")
        assert found == ["/y/x"]
        assert ros.foreign_publishers(gate, topics.TARGET_POSE, ours=["/y/x"]) == []
        assert ros.foreign_publishers(stranger, topics.TARGET_POSE) == ["/gate"]
        assert ros.foreign_subscribers(gate, topics.CURRENT_POSE) == ["/y/x"]
        assert ros.foreign_subscribers(stranger, topics.CURRENT_POSE) == []
    finally:
        gate.destroy_node()
        stranger.destroy_node()


@pytest.mark.ros
def test_a_publisher_of_our_own_name_is_no_exception(context):
    gate, stranger = (rclpy.create_node(name, context=context) for name in ("gate", "controller"))
    try:
        gate.create_publisher(PoseStamped, "/shared", ros.COMMAND)
        wait_for(lambda: gate.count_publishers("/shared") == 1, "our publisher")
        assert ros.other_publishers(gate, "/shared", own=1) == []
        assert ros.other_publishers(gate, "/shared", own=0) == ["/gate"]
        stranger.create_publisher(PoseStamped, "/shared", ros.COMMAND)
        wait_for(lambda: gate.count_publishers("/shared") == 2, "their publisher")
        assert ros.other_publishers(gate, "/shared", own=1) == ["/controller"]
    finally:
        gate.destroy_node()
        stranger.destroy_node()


class Info:
    def __init__(self, name):
        self.node_name, self.node_namespace = name, "/"


class Graph:
    """A node to whom discovery tells a name only at the third look."""

    looks = 0

    def get_fully_qualified_name(self):
        return "/me"

    def get_publishers_info_by_topic(self, topic):
        self.looks += 1
        return [Info("me"), Info("late" if self.looks > 2 else "_NODE_NAME_UNKNOWN_")]


def test_a_name_that_comes_late_is_waited_for(monkeypatch):
    assert ros.foreign_publishers(Graph(), "/t") == ["/late"]
    assert ros.foreign_publishers(Graph(), "/t", ours=["/late"]) == []
    monkeypatch.setattr(ros, "_NAME_WAIT", 0.0)
    assert ros.foreign_publishers(Graph(), "/t", ours=["/late"]) == ["(a participant without a name)"]


@pytest.mark.ros
def test_parameters_are_declared_with_type_and_bounds(context):
    node = rclpy.create_node("parameters", context=context)
    try:
        assert ros.declare(node, "speed", 0.25, "m/s", (0.0, 1.0)) == 0.25
        described = node.describe_parameter("speed")
        assert described.description == "m/s" and described.read_only
        assert described.floating_point_range[0].to_value == 1.0
        assert ros.declare(node, "count", 3, "how many", (1, 5)) == 3
        with pytest.raises(InvalidParameterValueException):
            ros.declare(node, "wrong", 9, "too many", (1, 5))
    finally:
        node.destroy_node()


def test_messages_are_found_by_name():
    assert ros.message_class("geometry_msgs/msg/PoseStamped") is PoseStamped
    with pytest.raises(ImportError):
        ros.message_class("nobody_msgs/msg/X")


class Slow(dict):
    """Lets the answer to a request overtake the note that it was sent."""

    def __contains__(self, key):
        time.sleep(0.5)
        return super().__contains__(key)


@pytest.mark.ros
def test_an_answer_that_is_faster_than_its_note_is_not_lost(context):
    """rclpy drops the answer to a goal that is sent in another thread than the executor's, if it comes at once."""
    server_node, client_node = (rclpy.create_node(name, context=context) for name in ("server", "client"))
    executors = [SingleThreadedExecutor(context=context) for _ in range(2)]
    server = ActionServer(server_node, RunEpisode, "/race", lambda handle: RunEpisode.Result())
    client = ActionClient(client_node, RunEpisode, "/race")
    client._pending_goal_requests = Slow()
    threads = []
    for executor, node in zip(executors, (server_node, client_node), strict=True):
        executor.add_node(node)
        threads.append(threading.Thread(target=executor.spin, daemon=True))
        threads[-1].start()
    try:
        assert client.wait_for_server(20.0)
        lost = client.send_goal_async(RunEpisode.Goal())  # what every client of two threads would write
        assert ros.ask(executors[1], lambda: client.send_goal_async(RunEpisode.Goal())).result(20.0) is not None
        assert not lost.done(), "rclpy has mended its race: ros.ask is not needed any more"
    finally:
        for executor in executors:
            executor.shutdown()
        for thread in threads:
            thread.join(5.0)
        client.destroy()
        server.destroy()
        server_node.destroy_node()
        client_node.destroy_node()


def test_an_error_in_sending_comes_back():
    def fail():
        raise TypeError("no goal")

    context = Context()
    rclpy.init(context=context, domain_id=free_domain())
    executor = SingleThreadedExecutor(context=context)
    answer = ros.ask(executor, fail)
    executor.spin_once(timeout_sec=5.0)
    with pytest.raises(TypeError, match="no goal"):
        answer.result(5.0)
    executor.shutdown()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("rclpys_own", [False, True])
def test_a_callback_is_handed_to_the_threads_once(context, rclpys_own):
    """rclpy's own hands it over again at every wake-up until a thread has begun with it: 9,000 times a second under a
    camera and a robot's state. When that ends, ThreadedExecutor can go."""
    threads = (MultiThreadedExecutor if rclpys_own else ros.ThreadedExecutor)(2, context=context)
    node = rclpy.create_node("busy", context=context)
    threads.add_node(node)
    handed, ran, free = [0], [], threading.Event()
    submit = threads._executor.submit

    def count(*task):
        handed[0] += 1
        return submit(*task)

    threads._executor.submit = count
    spinner = threading.Thread(target=threads.spin, daemon=True)
    spinner.start()
    try:
        for number in range(3):  # the third has no thread before one of the others ends
            threads.create_task(lambda number=number: (free.wait(10.0), ran.append(number)))
        wait_for(lambda: handed[0] >= 3, "all to be handed over")
        for _ in range(50):
            threads.wake()
            free.wait(0.004)
        assert handed[0] > 20 if rclpys_own else handed[0] == 3, handed
        free.set()
        wait_for(lambda: sorted(ran) == [0, 1, 2], "all to have run, each once")
    finally:
        free.set()
        threads.shutdown()
        spinner.join(5.0)


def test_what_a_callback_raises_ends_the_spinning(context):
    threads = ros.ThreadedExecutor(2, context=context)
    node = rclpy.create_node("raising", context=context)
    threads.add_node(node)
    node.create_timer(0.01, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        threads.spin()
    threads.shutdown()
