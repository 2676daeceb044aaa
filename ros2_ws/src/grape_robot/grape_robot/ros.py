"""The bridges to the arm: target poses to crisp's controller, goals to the Robotiq's, and what the arm and its
controller manager say of themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from control_msgs.action import GripperCommand, ParallelGripperCommand
from controller_manager_msgs.srv import ListControllers
from franka_msgs.msg import Errors, FrankaRobotState
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.action.graph import get_action_server_names_and_types_by_node
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import COMMAND, pose_to_msg, robot_state, set_stamp, stamp_ns
from grape_robot.franka import ACTIVE, RobotMode, controller_state, raised

T = TypeVar("T")

GRIPPER_TYPES = {
    "control_msgs/action/GripperCommand": GripperCommand,
    "control_msgs/action/ParallelGripperCommand": ParallelGripperCommand,
}


class CrispTargetPose:
    """Target poses as crisp's cartesian_impedance_controller takes them: PoseStamped, reliable, depth 1."""

    def __init__(self, node: Node, frame: str, topic: str = topics.TARGET_POSE) -> None:
        self._frame = frame
        self._publisher = node.create_publisher(PoseStamped, topic, COMMAND)

    def send(self, target: Pose, stamp: int) -> None:
        """``target`` of the TCP in the frame given at construction; ``stamp`` ns of ROS time."""
        message = PoseStamped()
        message.header.frame_id = self._frame
        set_stamp(message.header.stamp, stamp)
        message.pose = pose_to_msg(target)
        self._publisher.publish(message)


class GripperBridge:
    """Goals to the gripper's controller, of whichever action type its server has.

    With the wrong type a client never finds its server, so the type is read from the graph first. One goal at a time;
    positions are angles of the Robotiq's knuckle joint."""

    def __init__(self, node: Node, effort: float, action: str = topics.GRIPPER_ACTION) -> None:
        self._node, self._effort, self._name = node, effort, action
        self._client: ActionClient | None = None
        self._type = ""
        self._goal: float | None = None
        self._done: Callable[[str], None] | None = None
        self._ticket = 0

    @property
    def busy(self) -> bool:
        """Whether a goal waits for its acceptance."""
        return self._done is not None

    def server_type(self) -> str | None:
        """The type of the action's server in the graph; None while there is none, or none that is known here."""
        for name, namespace in self._node.get_node_names_and_namespaces():
            try:
                served = get_action_server_names_and_types_by_node(self._node, name, namespace)
            except RuntimeError:  # the node left between the two calls
                continue
            for action, types in served:
                for known in types:
                    if action == self._name and known in GRIPPER_TYPES:
                        return known
        return None

    def send(self, goal: float, done: Callable[[str], None]) -> None:
        """``goal`` 0 closed to 1 open; ``done`` is called with "" once it is accepted, else with why not."""
        self._goal, self._done = goal, done
        self._ticket += 1
        self.poll()

    def poll(self) -> None:
        """Looks for the server where there is none yet, and sends what waits for it."""
        if self._client is None or not self._client.server_is_ready():
            self._connect()
        if self._goal is None or self._client is None or not self._client.server_is_ready():
            return
        request, ticket = self._request(self._goal), self._ticket
        self._goal = None
        self._client.send_goal_async(request).add_done_callback(lambda future: self._answered(ticket, future))

    def give_up(self, reason: str) -> None:
        """The goal that waits for its acceptance is answered with ``reason``; a late acceptance says nothing more."""
        self._ticket += 1
        self._goal = None
        self._finish(reason)

    def _connect(self) -> None:
        kind = self.server_type()
        if kind is None or (self._client is not None and kind == self._type):
            return
        if self._client is not None:
            self._client.destroy()
        self._type = kind
        self._client = ActionClient(self._node, GRIPPER_TYPES[kind], self._name)

    def _request(self, goal: float) -> GripperCommand.Goal | ParallelGripperCommand.Goal:
        angle = topics.KNUCKLE_CLOSED * (1.0 - goal)
        request = GRIPPER_TYPES[self._type].Goal()
        if isinstance(request, GripperCommand.Goal):
            request.command.position, request.command.max_effort = angle, self._effort
            return request
        request.command.name, request.command.position = [topics.KNUCKLE_JOINT], [angle]
        if self._effort > 0.0:
            request.command.effort = [self._effort]
        return request

    def _answered(self, ticket: int, future) -> None:
        if ticket != self._ticket:
            return
        if future.exception() is not None:
            self._finish(f"{self._name}: {future.exception()}")
        else:
            self._finish("" if future.result().accepted else f"{self._name} refused the goal")

    def _finish(self, reason: str) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(reason)


class Newest(Generic[T]):
    """The newest message of a topic, decoded when it is read.

    The arm's topics come at 1 kHz. Decoding each FrankaRobotState takes rclpy more than half a core, keeping the bytes
    of the newest a quarter; the last one before a silence is kept too."""

    def __init__(self, node: Node, kind: type[T], topic: str, qos: QoSProfile) -> None:
        self._kind = kind
        # each is replaced as a whole: it may be read in another thread than the executor's
        self._newest: tuple[bytes, float] | None = None
        self._read: tuple[bytes, T, float] | None = None
        node.create_subscription(kind, topic, self._on_bytes, qos, raw=True)

    def _on_bytes(self, data: bytes) -> None:
        self._newest = data, time.monotonic()

    def read(self) -> tuple[T, float] | None:
        """The message and when it was heard, seconds of the steady clock; None before the first one. As long as none
        is newer it is the same object."""
        newest, read = self._newest, self._read
        if newest is None:
            return None
        if read is None or read[0] is not newest[0]:
            read = self._read = newest[0], deserialize_message(newest[0], self._kind), newest[1]
        return read[1], read[2]


class RobotModeBridge:
    """The arm's mode and errors, from franka_robot_state_broadcaster. Best effort: that hears every kind of sender."""

    def __init__(self, node: Node, topic: str = topics.ROBOT_STATE) -> None:
        self._names = tuple(Errors.get_fields_and_field_types())
        self._newest = Newest(node, FrankaRobotState, topic, robot_state(lock_step=False))
        self._last: tuple[FrankaRobotState, RobotMode] | None = None

    @property
    def last(self) -> RobotMode | None:
        """The newest mode; None: never heard."""
        read, last = self._newest.read(), self._last
        if read is None:
            return None
        message, heard = read
        if last is None or last[0] is not message:
            errors = raised({name: getattr(message.current_errors, name) for name in self._names})
            mode = RobotMode(int(message.robot_mode), errors, stamp_ns(message.header.stamp), heard)
            last = self._last = message, mode
        return last[1]


class ControllerBridge:
    """Whether one controller is active, as the controller manager says when asked.

    Call ``poll`` from a timer: it asks every ``period`` seconds and never waits; an answer that has not come within
    ``patience`` seconds is given up and asked for anew."""

    def __init__(
        self,
        node: Node,
        controller: str,
        period: float = 0.15,
        patience: float = 0.5,
        manager: str = topics.CONTROLLER_MANAGER,
    ) -> None:
        self.controller = controller
        self.service = f"{manager}/list_controllers"
        self._client = node.create_client(ListControllers, self.service)
        self._period, self._patience = period, patience
        self._asked = float("-inf")
        self._future: Future | None = None
        self.state = ""
        """``active``, ``inactive`` or another of its states; ``not loaded``; "" before the first answer."""
        self.heard: float | None = None
        """When the question was asked that was answered last, seconds of the steady clock; None: never."""

    @property
    def active(self) -> bool | None:
        """By the last answer, however old it is; None: unknown."""
        return None if self.heard is None else self.state == ACTIVE

    @property
    def line(self) -> str:
        """What is known, in one line."""
        if self.heard is None:
            return f"{self.service} has not answered"
        return f"controller {self.controller} is {self.state}"

    def poll(self) -> None:
        now = time.monotonic()
        if self._future is not None:
            if now < self._asked + self._patience:
                return
            self._client.remove_pending_request(self._future)
            self._future = None
        if now < self._asked + self._period or not self._client.service_is_ready():
            return
        self._asked = now
        self._future = self._client.call_async(ListControllers.Request())
        self._future.add_done_callback(self._answered)

    def _answered(self, future: Future) -> None:
        if future is not self._future:
            return
        self._future = None
        if future.cancelled() or future.exception() is not None:
            return
        states = ((controller.name, controller.state) for controller in future.result().controller)
        self.state, self.heard = controller_state(states, self.controller), self._asked
