"""A lab as its topics show it, for the fault matrix and the tests of profile `real`: an arm that follows its target,
a gripper, a camera, a gamepad in a hand, a controller manager. Every part of it can be made to fail.

It counts what reaches the arm: target poses and gripper goals. Real time on the machine's own clock; no /clock.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from control_msgs.action import GripperCommand, ParallelGripperCommand
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import PoseStamped, WrenchStamped
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import (
    ArmStatus,
    EpisodeOutcome,
    EpisodeRecord,
    GateStatus,
    Heartbeat,
    PolicyStep,
)
from grape_interfaces.srv import ResetWorld
from rclpy.action import ActionClient, ActionServer, GoalResponse
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState, Joy
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import (
    CAMERA,
    COMMAND,
    EVENT,
    JOINTS,
    ask,
    image_to_msg,
    pose_from_msg,
    pose_to_msg,
    robot_state,
    set_stamp,
)
from grape_episode.testing import wait_for
from grape_sim import kinematics

HOME = np.array([0.45, 0.0, 0.25, 1.0, 0.0, 0.0, 0.0])
STATE_PERIOD, CAMERA_PERIOD, JOINT_PERIOD, JOY_PERIOD = 0.01, 1 / 30, 1 / 30, 0.02
FOLLOWS = 0.3
"""Share of the way to its target that the arm makes in one STATE_PERIOD."""
GRIPPERS = {"GripperCommand": GripperCommand, "ParallelGripperCommand": ParallelGripperCommand}


@dataclass
class Faults:
    """What is broken at the moment."""

    camera: str = ""
    """``frozen``: the same frame again and again; ``gone``: no frames."""
    state_silent: bool = False
    skew: float = 0.0
    """Seconds that the clock of robot and camera has jumped by."""
    mode: int = FrankaRobotState.ROBOT_MODE_MOVE
    force: float = 0.0
    """Newtons along -z."""
    joy: bool = True
    held: bool = True
    controller: str = "active"


@dataclass
class Seen:
    """What was heard, with the time of its arrival on the steady clock, s."""

    targets: list[tuple[float, np.ndarray]] = field(default_factory=list)
    gate: list[tuple[float, GateStatus]] = field(default_factory=list)
    arm: list[tuple[float, ArmStatus]] = field(default_factory=list)
    steps: list[tuple[float, PolicyStep]] = field(default_factory=list)
    outcomes: list[tuple[float, EpisodeOutcome]] = field(default_factory=list)
    beats: list[tuple[float, Heartbeat]] = field(default_factory=list)
    records: list[EpisodeRecord] = field(default_factory=list)
    goals: list[float] = field(default_factory=list)


class Lab:
    """One lab in ``domain``; spins in a thread of its own. ``gripper``: its action's type, empty: none is served."""

    def __init__(self, domain: int, button: int = 0, gripper: str = "ParallelGripperCommand") -> None:
        self.faults, self.seen = Faults(), Seen()
        self._button, self._domain = button, domain
        self._pose, self._target = HOME.copy(), HOME.copy()
        self._angles = kinematics.inverse(_pose(HOME), kinematics.REST, iterations=200)
        self._knuckle = 0.0
        self._random = np.random.default_rng(0)
        self._frozen: Image | None = None
        self._controllers: list[str] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        node = self.node = Node("lab", context=self.context)
        create, listen, timer = node.create_publisher, node.create_subscription, node.create_timer
        self._color = create(Image, topics.COLOR, CAMERA)
        self._state = create(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        self._wrench = create(WrenchStamped, topics.WRENCH, robot_state(False))
        self._joints = create(JointState, topics.JOINT_STATES, JOINTS)
        self._mode = create(FrankaRobotState, topics.ROBOT_STATE, robot_state(False))
        self._joy = create(Joy, topics.JOY, JOINTS)
        self._said = FrankaRobotState()
        listen(PoseStamped, topics.TARGET_POSE, self._on_target, COMMAND)
        for kind, topic, held in (
            (GateStatus, topics.GATE_STATUS, self.seen.gate),
            (ArmStatus, topics.ARM_STATUS, self.seen.arm),
            (PolicyStep, topics.POLICY_STEP, self.seen.steps),
            (EpisodeOutcome, topics.OUTCOME, self.seen.outcomes),
            (Heartbeat, topics.HEARTBEAT, self.seen.beats),
        ):
            listen(kind, topic, lambda m, held=held: held.append((time.monotonic(), m)), EVENT)
        listen(EpisodeRecord, topics.RECORD, self.seen.records.append, EVENT)
        node.create_service(ResetWorld, topics.RESET_WORLD, self._on_reset)
        node.create_service(ListControllers, f"{topics.CONTROLLER_MANAGER}/list_controllers", self._on_list)
        self.action = ActionClient(node, RunEpisode, topics.RUN_EPISODE)
        self._gate_reset = node.create_client(Trigger, topics.RESET_GATE)
        timer(STATE_PERIOD, self._move)
        timer(CAMERA_PERIOD, self._see)
        timer(JOINT_PERIOD, self._feel)
        timer(JOY_PERIOD, self._hold)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._gripper: ActionServer | None = None
        self._kind = GRIPPERS.get(gripper)
        if self._kind is not None:
            self.serve_gripper()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.context.try_shutdown()

    def controller(self, name: str) -> None:
        """The controller manager knows a controller of this name."""
        self._controllers = [name]

    def heal(self) -> None:
        """Everything works again, the arm is at home, nothing has been heard."""
        self.faults = Faults()
        self._pose, self._target = HOME.copy(), HOME.copy()
        for heard in vars(self.seen).values():
            heard.clear()

    # -- for the benchmark's thread --------------------------------------------------------------------------------

    def run_in_node(self, act: Callable[[], Any]) -> Any:
        """``act()`` in the executor's thread; its result."""
        future = self._executor.create_task(act)
        wait_for(future.done, "the lab's executor")
        return future.result()

    def start_episode(self, **goal: Any) -> Any:
        """The handle of an accepted RunEpisode goal."""
        wanted = RunEpisode.Goal(task="carrot_on_plate", temperature=1.0, step_limit=1_000_000, **goal)
        wait_for(self.action.server_is_ready, "the policy's action", 30.0)
        handle = ask(self._executor, lambda: self.action.send_goal_async(wanted)).result(30.0)
        if not handle.accepted:
            raise RuntimeError("the policy refused the episode")
        return handle

    def result(self, handle: Any, deadline: float = 30.0) -> RunEpisode.Result:
        return ask(self._executor, handle.get_result_async).result(deadline).result

    def cancel(self, handle: Any) -> None:
        ask(self._executor, handle.cancel_goal_async).result(30.0)

    def reset_gate(self, deadline: float = 30.0) -> Trigger.Response:
        """The answer of the gate's reset."""
        wait_for(self._gate_reset.service_is_ready, topics.RESET_GATE)
        return ask(self._executor, lambda: self._gate_reset.call_async(Trigger.Request())).result(deadline)

    def serve_gripper(self) -> None:
        """A server of the gripper's action that accepts every goal."""
        assert self._kind is not None
        kind = self._kind
        self._gripper = ActionServer(
            self.node, kind, topics.GRIPPER_ACTION, execute_callback=self._grip, goal_callback=self._on_goal
        )

    def drop_gripper(self) -> None:
        """The server is gone."""
        if self._gripper is not None:
            self._gripper.destroy()
            self._gripper = None

    # -- the lab ---------------------------------------------------------------------------------------------------

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _now(self) -> int:
        return int(self.node.get_clock().now().nanoseconds) + round(self.faults.skew * 1e9)

    def _header(self, message: Any, frame: str = topics.BASE_FRAME) -> Any:
        message.header.frame_id = frame
        set_stamp(message.header.stamp, self._now())
        return message

    def _on_target(self, message: PoseStamped) -> None:
        pose = pose_from_msg(message.pose)
        target = np.concatenate([pose.position, pose.quaternion])
        self.seen.targets.append((time.monotonic(), target))
        self._target = target

    def _move(self) -> None:
        target = self._target if self._target[3:] @ self._pose[3:] >= 0 else _flipped(self._target)
        self._pose = self._pose + FOLLOWS * (target - self._pose)
        self._pose[3:] /= np.linalg.norm(self._pose[3:])
        if self.faults.state_silent:
            return
        self._state.publish(self._header(PoseStamped(pose=pose_to_msg(_pose(self._pose)))))
        wrench = self._header(WrenchStamped())
        wrench.wrench.force.z = -self.faults.force
        self._wrench.publish(wrench)

    def _feel(self) -> None:
        if self.faults.state_silent:
            return
        self._angles = kinematics.inverse(_pose(self._pose), self._angles, iterations=4)
        message = self._header(JointState(name=[*topics.ARM_JOINTS, topics.KNUCKLE_JOINT]))
        message.position = [*map(float, self._angles), self._knuckle]
        message.velocity = [0.0] * 8
        self._joints.publish(message)
        self._said.robot_mode = self.faults.mode
        self._mode.publish(self._header(self._said))

    def _see(self) -> None:
        if self.faults.camera == "gone":
            return
        if self.faults.camera != "frozen" or self._frozen is None:
            frame = self._random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
            self._frozen = image_to_msg(frame, self._now(), topics.CAMERA_FRAME)
        self._color.publish(self._frozen)

    def _hold(self) -> None:
        if self.faults.joy:
            message = self._header(Joy(axes=[0.0] * 8, buttons=[0] * 16), "")
            message.buttons[self._button] = int(self.faults.held)
            self._joy.publish(message)

    def _on_reset(self, request: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        response.accepted = True
        set_stamp(response.first_observation, self._now())
        return response

    def _on_list(
        self, request: ListControllers.Request, response: ListControllers.Response
    ) -> ListControllers.Response:
        state = self.faults.controller
        response.controller = [ControllerState(name=name, state=state) for name in self._controllers]
        return response

    def _on_goal(self, goal: Any) -> GoalResponse:
        position = goal.command.position
        self.seen.goals.append(float(position[0] if self._kind is ParallelGripperCommand else position))
        return GoalResponse.ACCEPT

    def _grip(self, handle: Any) -> Any:
        handle.succeed()
        self._knuckle = self.seen.goals[-1] if self.seen.goals else 0.0
        assert self._kind is not None
        return self._kind.Result()


class Intruder:
    """Another node in the same domain, with one publisher; a context manager. ``say`` publishes through it."""

    def __init__(self, domain: int, name: str, kind: Any, topic: str, qos: Any = EVENT) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node(name, context=self.context)
        self._publisher = self.node.create_publisher(kind, topic, qos)

    def say(self, message: Any) -> None:
        self._publisher.publish(message)

    def heard(self) -> bool:
        """Whether somebody subscribes."""
        return self._publisher.get_subscription_count() > 0

    def __enter__(self) -> Intruder:
        return self

    def __exit__(self, *_: object) -> None:
        self.node.destroy_node()
        self.context.try_shutdown()


def second_policy(domain: int) -> Intruder:
    """Another node that publishes steps."""
    return Intruder(domain, "intruder", PolicyStep, topics.POLICY_STEP)


def second_commander(domain: int) -> Intruder:
    """Another node that publishes target poses."""
    return Intruder(domain, "intruder", PoseStamped, topics.TARGET_POSE, COMMAND)


def _pose(values: np.ndarray) -> Pose:
    return Pose(values[:3], values[3:])


def _flipped(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:3], -values[3:]])
