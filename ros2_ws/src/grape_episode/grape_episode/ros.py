"""What every node of the project shares of rclpy: named QoS, messages to arrays, the foreign-node check."""

from __future__ import annotations

import concurrent.futures
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Pose as PoseMsg
from numpy.typing import NDArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.context import Context
from rclpy.executors import (
    ConditionReachedException,
    Executor,
    ExternalShutdownException,
    MultiThreadedExecutor,
    ShutdownException,
    TimeoutException,
)
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future, Task
from sensor_msgs.msg import Image

from grape_episode import topics
from grape_episode.geometry import Pose


class ForeignNodeError(RuntimeError):
    """Somebody who is not of this house already speaks on a topic that must be ours alone."""


def _qos(reliability: ReliabilityPolicy, depth: int, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


COMMAND = _qos(ReliabilityPolicy.RELIABLE, 1, DurabilityPolicy.VOLATILE)
"""Target poses, as crisp subscribes them."""
EVENT = _qos(ReliabilityPolicy.RELIABLE, 100, DurabilityPolicy.VOLATILE)
"""Steps, verdicts, commits, keypoints, statuses: nothing may be lost."""
LATCHED = _qos(ReliabilityPolicy.RELIABLE, 1, DurabilityPolicy.TRANSIENT_LOCAL)
"""The episode announced last: late joiners get it."""
CAMERA = _qos(ReliabilityPolicy.RELIABLE, 5, DurabilityPolicy.VOLATILE)
"""Images, as realsense2_camera publishes them."""
CLOCK = _qos(ReliabilityPolicy.RELIABLE, 10, DurabilityPolicy.VOLATILE)
JOINTS = _qos(ReliabilityPolicy.RELIABLE, 10, DurabilityPolicy.VOLATILE)
JOY = _qos(ReliabilityPolicy.BEST_EFFORT, 10, DurabilityPolicy.VOLATILE)
"""How the gamepad's messages are heard: joystick drivers differ in what they offer, and only the newest counts."""


def recorder_qos(topic: str, lock_step: bool) -> QoSProfile:
    """How the recorder subscribes: never more demanding than the publisher, and deep enough to hold a burst."""
    if topic in (topics.CURRENT_POSE, topics.WRENCH) and not lock_step:
        return _qos(ReliabilityPolicy.BEST_EFFORT, 1000, DurabilityPolicy.VOLATILE)
    if topic == topics.EPISODE:
        return LATCHED
    # may be offered best effort; nothing is computed from them
    if topic in (topics.HEARTBEAT, topics.JOY, topics.KEEP_OUT):
        return _qos(ReliabilityPolicy.BEST_EFFORT, 100, DurabilityPolicy.VOLATILE)
    return CAMERA if topic in (*topics.RAW_CAMERA, topics.CAMERA_INFO) else EVENT


def robot_state(lock_step: bool) -> QoSProfile:
    """Pose and wrench: best effort, depth 1, as franka_ros2 publishes; reliable in lock-step, where a lost
    sample would stop the world."""
    if lock_step:
        return EVENT
    return _qos(ReliabilityPolicy.BEST_EFFORT, 1, DurabilityPolicy.VOLATILE)


def stamp_ns(stamp) -> int:
    """builtin_interfaces/Time to integer nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def set_stamp(stamp, nanoseconds: int) -> None:
    """Integer nanoseconds into a builtin_interfaces/Time."""
    stamp.sec, stamp.nanosec = divmod(int(nanoseconds), 1_000_000_000)


def pose_from_msg(message: PoseMsg) -> Pose:
    p, q = message.position, message.orientation
    return Pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


def pose_to_msg(pose: Pose) -> PoseMsg:
    message = PoseMsg()
    message.position.x, message.position.y, message.position.z = map(float, pose.position)
    o = message.orientation
    o.x, o.y, o.z, o.w = map(float, pose.quaternion)
    return message


def image_to_msg(image: NDArray, stamp: int, frame_id: str) -> Image:
    """(H, W, 3) uint8 RGB -> rgb8; (H, W) float32 metres -> 32FC1; (H, W) uint16 millimetres -> 16UC1."""
    encodings = {("uint8", 3): "rgb8", ("float32", 2): "32FC1", ("uint16", 2): "16UC1"}
    try:
        encoding = encodings[(image.dtype.name, image.ndim)]
    except KeyError:
        raise ValueError(f"no image encoding for {image.dtype} of shape {image.shape}") from None
    message = Image()
    set_stamp(message.header.stamp, stamp)
    message.header.frame_id = frame_id
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.step = image.nbytes // max(1, message.height)
    # bytes are two orders of magnitude faster to assign than an ndarray
    message.data = np.ascontiguousarray(image).tobytes()
    return message


def image_from_msg(message: Image) -> NDArray:
    """The array behind an rgb8, bgr8, 32FC1 or 16UC1 image; bgr8 comes back as RGB.

    Raises ValueError naming the encoding, or the sizes that do not fit."""
    kinds = {"rgb8": (np.uint8, 3), "bgr8": (np.uint8, 3), "32FC1": (np.float32, 1), "16UC1": (np.uint16, 1)}
    if message.encoding not in kinds:
        raise ValueError(f"image encoding {message.encoding!r}: expected one of {', '.join(kinds)}")
    dtype, channels = kinds[message.encoding]
    row = message.width * channels * np.dtype(dtype).itemsize
    if message.step < row or len(message.data) < message.step * message.height:
        raise ValueError(
            f"image {message.width}x{message.height} {message.encoding} with step {message.step} "
            f"carries {len(message.data)} bytes"
        )
    raw = np.frombuffer(message.data, dtype=np.uint8, count=message.step * message.height)
    rows = np.ascontiguousarray(raw.reshape(message.height, message.step)[:, :row])
    image = rows.view(dtype).reshape(message.height, message.width, channels)
    if message.encoding == "bgr8":
        return np.ascontiguousarray(image[..., ::-1])
    return image[..., 0] if channels == 1 else image


def message_class(type_name: str) -> Any:
    """rclpy's class of ``package/msg/Name``. Raises ImportError or AttributeError where it is not built."""
    package, _, name = type_name.split("/")
    return getattr(import_module(f"{package}.msg"), name)


def declare(
    node: Node,
    name: str,
    default: Any,
    description: str,
    bounds: tuple[float, float] | None = None,
    read_only: bool = True,
) -> Any:
    """Declares a parameter with its type (the default's), description and, for numbers, inclusive ``bounds``;
    returns its value. rclpy raises InvalidParameterTypeException or InvalidParameterValueException."""
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if bounds is not None and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(bounds[0]), to_value=float(bounds[1]))]
    elif bounds is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=1)]
    return node.declare_parameter(name, default, descriptor).value


def spin(node: Node) -> None:
    """``rclpy.spin`` until ROS is shut down; a signal may do that between two steps of the executor, which then
    fails for want of a context."""
    try:
        rclpy.spin(node)
    except Exception:
        if rclpy.ok():
            raise


def run_node(make: Callable[[], Node], arguments: list[str] | None = None, domain_id: int | None = None) -> int:
    """Runs one node until it is interrupted or raises SystemExit; the exit status. A node that cannot start prints one
    line. Where it has a ``close`` method, that is called last, when nothing can be published any more."""
    try:
        rclpy.init(args=arguments, domain_id=domain_id)
        node = make()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    status = 0
    try:
        spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        if hasattr(node, "close"):
            node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return status


class ThreadedExecutor(MultiThreadedExecutor):
    """rclpy's MultiThreadedExecutor, which lets the threads of its pool begin.

    rclpy's hands a callback to its pool again at every wake-up until a thread has begun with it. That thread waits for
    the interpreter, which the loop keeps for its switch interval of 5 ms: under a camera and a robot's state, thousands
    of hand-overs a second, and timers that are late by half a second. This one hands a callback over once and waits
    until it has begun, at most ``PATIENCE`` seconds: all threads may be busy."""

    PATIENCE = 0.01

    def __init__(self, threads: int, *, context: Context | None = None) -> None:
        super().__init__(threads, context=context)
        self._handed: dict[Task, threading.Event] = {}

    def _spin_once_impl(self, timeout_sec: Any = None, wait_condition: Callable[[], bool] = lambda: False) -> None:
        try:
            task, _, _ = self.wait_for_ready_callbacks(timeout_sec, None, wait_condition)
        except (ShutdownException, ExternalShutdownException, TimeoutException, ConditionReachedException):
            return
        begun = self._handed.get(task)
        if begun is None:
            begun = self._handed[task] = threading.Event()
            self._executor.submit(self._run, task, begun)
            self._futures.append(task)
        begun.wait(self.PATIENCE)
        done = [future for future in self._futures if future.done()]
        self._futures = [future for future in self._futures if not future.done()]
        for future in done:
            future.result()  # raises what the callback has raised

    def _run(self, task: Task, begun: threading.Event) -> None:
        begun.set()
        try:
            task()
        finally:
            del self._handed[task]


SIGNAL_POLL = 0.1


def until_signalled() -> SimpleQueue[int]:
    """From now on SIGINT and SIGTERM put status 0 there. In the main thread, before ``rclpy.init``."""
    ended: SimpleQueue[int] = SimpleQueue()  # its put may be called in a signal handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.put(0))
    return ended


def serve(node: Node, threads: int, ended: SimpleQueue[int], leave: Callable[[], object]) -> int:
    """Spins a node in ``threads`` threads until something is in ``ended``, then calls ``leave`` while it still spins,
    and shuts ROS down. Returns the exit status: 1 where a callback has raised."""
    executor = ThreadedExecutor(threads)
    executor.add_node(node)

    def spin_threads() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:
            traceback.print_exc()
            ended.put(1)

    spinner = threading.Thread(target=spin_threads, name="executor", daemon=True)
    spinner.start()
    status = None
    while status is None:  # a signal that another thread took is handled only when the main thread runs
        with suppress(Empty):
            status = ended.get(timeout=SIGNAL_POLL)
    leave()
    executor.shutdown()
    spinner.join(5.0)  # a thread inside ROS at the interpreter's end aborts the process
    rclpy.try_shutdown()
    return status


def ask(executor: Executor, send: Callable[[], Future]) -> concurrent.futures.Future[Any]:
    """Calls ``send`` (``send_goal_async``, ``get_result_async``, ...) in the executor's own thread; what is returned
    completes with its answer and may be waited for in any other thread.

    rclpy's ActionClient notes a request only after it has sent it: called from another thread than the executor's, the
    answer may be there before the note, and is then dropped. ``executor``: a single-threaded one."""
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def settle(inner: Future) -> None:
        error = inner.exception()
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(inner.result())

    def start() -> None:
        try:
            send().add_done_callback(settle)
        except Exception as error:
            answer.set_exception(error)

    executor.create_task(start)
    return answer


_NAMELESS = "_NODE_NAME_UNKNOWN_"
UNNAMED = "(a participant without a name)"
"""Stands for a node whose name discovery has not told within ``_NAME_WAIT`` seconds."""
_NAME_WAIT = 1.0


def _foreign(look: Callable[[], Iterable[Any]], node: Node, ours: Iterable[str]) -> list[str]:
    # discovery shows an endpoint a moment before the name of its node, which may be one of ours
    end = time.monotonic() + _NAME_WAIT
    infos = list(look())
    while any(info.node_name == _NAMELESS for info in infos) and time.monotonic() < end:
        time.sleep(0.02)
        infos = list(look())
    names = {f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos if info.node_name != _NAMELESS}
    names -= {node.get_fully_qualified_name(), *ours}
    nameless = [UNNAMED] if any(info.node_name == _NAMELESS for info in infos) else []
    return sorted(names) + nameless


def foreign_subscribers(node: Node, topic: str, ours: Iterable[str] = ()) -> list[str]:
    """Full names of the nodes that subscribe ``topic``, save ``node`` itself and those named in ``ours``."""
    return _foreign(lambda: node.get_subscriptions_info_by_topic(topic), node, ours)


def foreign_publishers(node: Node, topic: str, ours: Iterable[str] = ()) -> list[str]:
    """Full names of the nodes that publish ``topic``, save ``node`` itself and those named in ``ours``. Waits up to a
    second where discovery has not yet told a node's name."""
    return _foreign(lambda: node.get_publishers_info_by_topic(topic), node, ours)


def other_publishers(node: Node, topic: str, own: int) -> list[str]:
    """Full names of those who publish ``topic`` beside ``node``, which itself has ``own`` publishers there.

    A second node of the same name counts too."""
    name = node.get_fully_qualified_name()
    infos = node.get_publishers_info_by_topic(topic)
    same = sum(f"{info.node_namespace.rstrip('/')}/{info.node_name}" == name for info in infos)
    return foreign_publishers(node, topic) + [name] * max(0, same - own)


def refuse_foreign(look: Callable[[], str], seconds: float) -> None:
    """Looks for ``seconds`` at who is in the graph: ``look`` says in one line who should not be, or nothing.

    Raises ForeignNodeError with that line, ExternalShutdownException when told to end meanwhile."""
    start = time.monotonic()
    while True:
        elapsed = time.monotonic() - start
        reason = look()
        # an endpoint can be discovered before the name of its node
        if elapsed >= seconds and (UNNAMED not in reason or elapsed >= 2.0 * seconds):
            break
        if not rclpy.ok():
            raise ExternalShutdownException
        time.sleep(0.05)
    if reason:
        raise ForeignNodeError(reason)
