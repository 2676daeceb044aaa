"""The robot's topics as the simulated world fills them: messages of an observation, and the gripper's action server."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
from control_msgs.action import GripperCommand, ParallelGripperCommand
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import Point, PoseStamped, WrenchStamped
from grape_interfaces.msg import KeepOutBoxes, Keypoints, WorldStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import (
    CAMERA,
    CLOCK,
    EVENT,
    JOINTS,
    image_to_msg,
    pose_from_msg,
    pose_to_msg,
    robot_state,
    set_stamp,
)
from grape_sim.franka import FrankaArm
from grape_sim.world import Observation

CLOCK_TOPIC = "/clock"
GRIPPER_TYPES = {"GripperCommand": GripperCommand, "ParallelGripperCommand": ParallelGripperCommand}
JOINT_NAMES = [*topics.ARM_JOINTS, topics.KNUCKLE_JOINT]
REACHED = 0.02
"""Knuckle angle, rad, within which a goal counts as reached."""
STALLED_AFTER = 0.3
"""Seconds without motion after which the gripper counts as stalled."""


def depth_image(metres: np.ndarray) -> np.ndarray:
    """(H, W) float metres to (H, W) uint16 millimetres, as RealSense cameras send it; 0: unknown or out of range."""
    millimetres = np.rint(np.nan_to_num(metres, nan=0.0, posinf=0.0, neginf=0.0) * 1000.0)
    return np.where((millimetres < 0) | (millimetres > 65535), 0, millimetres).astype(np.uint16)


class RobotTopics:
    """Publishes observations on the lab robot's topics, with its types and qualities of service."""

    def __init__(self, node: Node, lock_step: bool, depth: bool) -> None:
        create = node.create_publisher
        self._clock = create(Clock, CLOCK_TOPIC, CLOCK)
        self._joints = create(JointState, topics.JOINT_STATES, JOINTS)
        self._pose = create(PoseStamped, topics.CURRENT_POSE, robot_state(lock_step))
        self._wrench = create(WrenchStamped, topics.WRENCH, robot_state(lock_step))
        self._state = create(FrankaRobotState, topics.ROBOT_STATE, JOINTS)
        self._keypoints = create(Keypoints, topics.KEYPOINTS, EVENT)
        self._status = create(WorldStatus, topics.WORLD_STATUS, EVENT)
        self._keep_out = create(KeepOutBoxes, topics.KEEP_OUT, EVENT)
        self._depth = create(Image, topics.DEPTH, CAMERA) if depth else None
        self._info = create(CameraInfo, topics.CAMERA_INFO, CAMERA)
        self._color = create(Image, topics.COLOR, CAMERA)
        self._last_knuckle: tuple[int, float] | None = None

    def clock(self, stamp: int) -> None:
        """``stamp`` ns."""
        message = Clock()
        set_stamp(message.clock, stamp)
        self._clock.publish(message)

    def joints(self, observation: Observation, stamp: int) -> None:
        """Angles (8,) rad and velocities (8,) rad/s of arm and knuckle; the knuckle's by difference."""
        velocity = 0.0
        if self._last_knuckle is not None and stamp > self._last_knuckle[0]:
            velocity = (observation.knuckle - self._last_knuckle[1]) / ((stamp - self._last_knuckle[0]) * 1e-9)
        self._last_knuckle = stamp, observation.knuckle
        message = JointState(header=_header(stamp, topics.BASE_FRAME), name=JOINT_NAMES)
        message.position = [*map(float, observation.joints), float(observation.knuckle)]
        message.velocity = [*map(float, observation.joint_velocities), float(velocity)]
        self._joints.publish(message)

    def pose(self, observation: Observation, stamp: int) -> None:
        """TCP and external wrench, base frame."""
        header = _header(stamp, topics.BASE_FRAME)
        self._pose.publish(PoseStamped(header=header, pose=pose_to_msg(observation.tcp)))
        self._wrench.publish(_wrench(observation, header))

    def robot_state(self, observation: Observation, stamp: int, arm: FrankaArm) -> None:
        """Mode and errors of the arm, with joints, TCP and wrench as the other topics have them."""
        header = _header(stamp, topics.BASE_FRAME)
        message = FrankaRobotState(header=header, robot_mode=arm.mode, time=observation.time)
        joints = JointState(header=header, name=list(topics.ARM_JOINTS))
        joints.position = [float(angle) for angle in observation.joints]
        joints.velocity = [float(speed) for speed in observation.joint_velocities]
        message.measured_joint_state = joints
        message.o_t_ee = PoseStamped(header=header, pose=pose_to_msg(observation.tcp))
        message.o_f_ext_hat_k = _wrench(observation, header)
        message.control_command_success_rate = 1.0 if arm.follows else 0.0
        for name in arm.errors:
            setattr(message.current_errors, name, True)
            setattr(message.last_motion_errors, name, True)
        self._state.publish(message)

    def keep_outs(self, observation: Observation, stamp: int) -> None:
        """The boxes of what moves; a message without any says that there is nothing, silence that nobody looks."""
        boxes = observation.keep_outs
        message = KeepOutBoxes(header=_header(stamp, topics.BASE_FRAME), names=[box.name for box in boxes])
        message.low, message.high = (
            [Point(x=x, y=y, z=z) for x, y, z in corners]
            for corners in ([box.low for box in boxes], [box.high for box in boxes])
        )
        self._keep_out.publish(message)

    def judgement(self, observation: Observation, stamp: int, episode_id: str) -> None:
        """Keypoints, and what the world itself says of the episode."""
        header = _header(stamp, topics.BASE_FRAME)
        points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in observation.keypoints]
        names = list(observation.keypoint_names)
        self._keypoints.publish(Keypoints(header=header, names=names, points=points, confidence=[1.0] * len(names)))
        status = observation.status
        message = WorldStatus(header=header, episode_id=episode_id)
        message.success, message.grasped = bool(status.success), bool(status.grasped)
        message.collision, message.collisions = bool(status.collision), int(status.collisions)
        message.contact_force, message.clearance = float(status.contact_force), float(status.clearance)
        self._status.publish(message)

    def camera(self, observation: Observation, stamp: int, matrix: np.ndarray) -> None:
        """Depth (where asked for), camera_info with ``matrix`` (3, 3) in pixels, and colour last."""
        if observation.color is None:
            raise ValueError("the observation has no colour image")
        if self._depth is not None and observation.depth is not None:
            self._depth.publish(image_to_msg(depth_image(observation.depth), stamp, topics.CAMERA_FRAME))
        height, width = observation.color.shape[:2]
        info = CameraInfo(header=_header(stamp, topics.CAMERA_FRAME), height=height, width=width)
        info.distortion_model, info.d = "plumb_bob", [0.0] * 5
        info.k = [float(value) for value in matrix.reshape(9)]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [float(value) for value in np.hstack([matrix, np.zeros((3, 1))]).reshape(12)]
        self._info.publish(info)
        self._color.publish(image_to_msg(observation.color, stamp, topics.CAMERA_FRAME))


def _header(stamp: int, frame: str) -> Header:
    header = Header(frame_id=frame)
    set_stamp(header.stamp, stamp)
    return header


def _wrench(observation: Observation, header: Header) -> WrenchStamped:
    message = WrenchStamped(header=header)
    force, torque = message.wrench.force, message.wrench.torque
    force.x, force.y, force.z, torque.x, torque.y, torque.z = map(float, observation.wrench)
    return message


def target_of(message: PoseStamped) -> Pose | None:
    """The target behind a message; None for one in another frame or that is no pose."""
    target = pose_from_msg(message.pose)
    norm = float(np.linalg.norm(target.quaternion))
    good = np.isfinite(target.position).all() and math.isfinite(norm) and norm > 1e-6
    return target if good and message.header.frame_id == topics.BASE_FRAME else None


class GripperServer:
    """The gripper controller's action, of either type. Goals are knuckle angles, radians.

    ``on_goal(gripper)``, 0 closed to 1 open, is called before the acceptance is answered. A new goal aborts the last
    one. Call ``update`` with every observation: it ends the goal when it is reached or stalled."""

    def __init__(self, node: Node, kind: str, on_goal: Callable[[float], None]) -> None:
        self._type = GRIPPER_TYPES[kind]
        self._on_goal = on_goal
        self._log = node.get_logger()
        self._lock = threading.Lock()
        self._active: ServerGoalHandle | None = None
        self._goal = 0.0
        self._knuckle, self._moved = math.nan, 0.0
        self._server = ActionServer(
            node,
            self._type,
            topics.GRIPPER_ACTION,
            execute_callback=lambda handle: self._type.Result(),
            goal_callback=self._accept,
            handle_accepted_callback=self._start,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    def update(self, knuckle: float, time: float) -> None:
        """``knuckle`` rad measured at ``time`` s of the world."""
        with self._lock:
            if not abs(knuckle - self._knuckle) < 1e-3:
                self._knuckle, self._moved = knuckle, time
            handle = self._active
            if handle is None:
                return
            reached = abs(knuckle - self._goal) < REACHED
            stalled = time - self._moved > STALLED_AFTER
            if not (reached or stalled or handle.is_cancel_requested):
                return
            self._active = None
        self._end(handle, knuckle, reached, stalled and not reached)

    def clear(self) -> None:
        """The world was reset: what was under way is aborted."""
        with self._lock:
            handle, self._active = self._active, None
            self._knuckle = math.nan
        if handle is not None:
            self._end(handle, 0.0, False, False, abort=True)

    def _position(self, goal) -> float:
        """The commanded knuckle angle; raises ValueError naming what is wrong."""
        if self._type is GripperCommand:
            angle = goal.command.position
        else:
            names, positions = list(goal.command.name), list(goal.command.position)
            if names != [topics.KNUCKLE_JOINT] or len(positions) != 1:
                raise ValueError(f"one position for {topics.KNUCKLE_JOINT} is needed, not {positions} for {names}")
            angle = positions[0]
        if not -1e-6 <= angle <= topics.KNUCKLE_CLOSED + 1e-6:
            raise ValueError(f"position {angle} rad, limits 0 to {topics.KNUCKLE_CLOSED}")
        return float(angle)

    def _accept(self, goal) -> GoalResponse:
        try:
            angle = self._position(goal)
        except ValueError as error:
            self._log.warning(f"{topics.GRIPPER_ACTION}: {error}")
            return GoalResponse.REJECT
        with self._lock:
            last, self._active = self._active, None
            self._goal, self._knuckle = angle, math.nan
        if last is not None:
            self._end(last, angle, False, False, abort=True)
        self._on_goal(1.0 - angle / topics.KNUCKLE_CLOSED)
        return GoalResponse.ACCEPT

    def _start(self, handle: ServerGoalHandle) -> None:
        with self._lock:
            self._active = handle

    def _end(self, handle: ServerGoalHandle, knuckle: float, reached: bool, stalled: bool, abort: bool = False) -> None:
        def finish(goal: ServerGoalHandle):
            if goal.is_cancel_requested:
                goal.canceled()
            elif abort:
                goal.abort()
            else:
                goal.succeed()
            result = self._type.Result(stalled=stalled, reached_goal=reached)
            if self._type is GripperCommand:
                result.position = knuckle
            else:
                result.state = JointState(name=[topics.KNUCKLE_JOINT], position=[knuckle])
            return result

        # executed only now: an executor that awaited the motion meanwhile would spin
        handle.execute(finish)
