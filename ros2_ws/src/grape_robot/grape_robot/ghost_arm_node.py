"""A dry run with the arm powered off: tells the state of an arm that follows the gate's set point, in its place.

It speaks only while the gate says that it is in a dry run and nobody else tells the arm's state. As soon as one of the
two is no longer so it is silent, for good: a powered arm is never talked over."""

from __future__ import annotations

import math
import sys
import time

from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import PoseStamped, WrenchStamped
from grape_interfaces.msg import ArmStatus, GateStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.service import Service
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import (
    EVENT,
    JOINTS,
    declare,
    foreign_publishers,
    pose_from_msg,
    pose_to_msg,
    robot_state,
    run_node,
)
from grape_robot.arm_model import ArmModel
from grape_robot.franka import ACTIVE, MOVE
from grape_robot.ghost import HOME, follow, ghost_at

PERIOD = 0.02
GRAPH_PERIOD = 0.2
GATE_SILENCE = 0.5
"""Seconds without an ArmStatus after which nothing is known of a dry run."""
_STATE = (topics.CURRENT_POSE, topics.JOINT_STATES, topics.WRENCH, topics.ROBOT_STATE)
JOINT_NAMES = [*topics.ARM_JOINTS, topics.KNUCKLE_JOINT]


class GhostArmNode(Node):
    """See the module. Raises GhostError for joints that are none."""

    def __init__(self) -> None:
        super().__init__("grape_ghost_arm")
        joints = declare(self, "joints", list(HOME), "Where the arm stands at first, rad.")
        self._controller = declare(
            self, "controller", "cartesian_impedance_controller", "Controller that counts as active."
        )
        self._frame = declare(self, "frame", topics.BASE_FRAME, "Frame of the TCP: the gate profile's.")
        self._discovery = declare(
            self, "discovery_seconds", 3.0, "Look so long for an arm before speaking.", (0.1, 30.0)
        )
        self._ghost = ghost_at(joints)
        self._model = ArmModel()
        self._begun = time.monotonic()
        self._dry_heard = -math.inf
        self._setpoint: Pose | None = None
        self._gripper = math.nan
        self._outputs: dict[str, Publisher] = {}
        self._service: Service | None = None
        self._over = ""
        self.create_subscription(ArmStatus, topics.ARM_STATUS, self._on_arm_status, EVENT)
        self.create_subscription(GateStatus, topics.GATE_STATUS, self._on_gate_status, EVENT)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PERIOD, self._tick, clock=steady)
        self.create_timer(GRAPH_PERIOD, self._look, clock=steady)

    def _on_arm_status(self, message: ArmStatus) -> None:
        if not message.dry_run:
            self._end("the gate is not in a dry run")
            return
        self._dry_heard = time.monotonic()
        pose = pose_from_msg(message.setpoint)
        # the base's own origin stands for none: nothing was told to the arm yet
        self._setpoint = pose if pose.position.any() else None

    def _on_gate_status(self, message: GateStatus) -> None:
        self._gripper = message.gripper

    def _look(self) -> None:
        if self._over:
            return
        for topic in _STATE:
            if others := foreign_publishers(self, topic):
                self._end(f"{topic} is published by {', '.join(others)}")
                return
        dry = time.monotonic() - self._dry_heard < GATE_SILENCE
        if dry and not self._outputs and time.monotonic() - self._begun > self._discovery:
            self._speak()

    def _speak(self) -> None:
        best_effort = robot_state(lock_step=False)
        self._outputs = {
            topics.CURRENT_POSE: self.create_publisher(PoseStamped, topics.CURRENT_POSE, best_effort),
            topics.WRENCH: self.create_publisher(WrenchStamped, topics.WRENCH, best_effort),
            topics.JOINT_STATES: self.create_publisher(JointState, topics.JOINT_STATES, JOINTS),
            topics.ROBOT_STATE: self.create_publisher(FrankaRobotState, topics.ROBOT_STATE, best_effort),
        }
        name = f"{topics.CONTROLLER_MANAGER}/list_controllers"
        self._service = self.create_service(ListControllers, name, self._on_list)
        self.get_logger().warning("no arm tells its state: a ghost at its home does, and follows the gate's set point")

    def _on_list(
        self, request: ListControllers.Request, response: ListControllers.Response
    ) -> ListControllers.Response:
        response.controller = [ControllerState(name=self._controller, state=ACTIVE)]
        return response

    def _tick(self) -> None:
        if not self._outputs or time.monotonic() - self._dry_heard > GATE_SILENCE:
            return
        self._ghost, pose = follow(self._model, self._ghost, self._setpoint, self._gripper)
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame)
        state = FrankaRobotState(header=header, robot_mode=MOVE)
        joints = JointState(header=header, name=JOINT_NAMES, position=[*self._ghost.joints, self._ghost.knuckle])
        for topic, message in (
            (topics.CURRENT_POSE, PoseStamped(header=header, pose=pose_to_msg(pose))),
            (topics.WRENCH, WrenchStamped(header=header)),
            (topics.JOINT_STATES, joints),
            (topics.ROBOT_STATE, state),
        ):
            self._outputs[topic].publish(message)

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = reason
        for publisher in self._outputs.values():
            self.destroy_publisher(publisher)
        self._outputs = {}
        if self._service is not None:
            self.destroy_service(self._service)
        self.get_logger().warning(f"silent from now on: {reason}")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_node(GhostArmNode))


if __name__ == "__main__":
    main()
