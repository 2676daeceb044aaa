"""What the gate says to the arm: target poses to crisp's controller, goals to the Robotiq's, and who else does."""

from __future__ import annotations

from collections.abc import Callable

from control_msgs.action import GripperCommand, ParallelGripperCommand
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.action.graph import get_action_server_names_and_types_by_node
from rclpy.node import Node

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import COMMAND, pose_to_msg, set_stamp

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
