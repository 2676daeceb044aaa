"""A world in one node for tests of the policy node: simulator, gate, reward node and recorder, over real topics."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import (
    ArmStatus,
    EpisodeIdentity,
    EpisodeOutcome,
    EpisodeRecord,
    GateStatus,
    Heartbeat,
    OperatorStep,
    PolicyStep,
    StepCommit,
    TaskStatus,
    WorldStatus,
)
from grape_interfaces.srv import ListAdapters, LoadAdapter, PrepareRecording, ResetWorld, RollbackAdapter
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import CAMERA, CLOCK, EVENT, JOINTS, LATCHED, ask, image_to_msg, robot_state, set_stamp, stamp_ns
from grape_episode.testing import wait_for

PERIOD = 200_000_000
TICK = 0.04
"""Seconds of the wall for 10 ms of the world: a quarter of its pace, so that a busy machine is in time, and so that
whoever does not follow the ROS clock is out of it."""


@dataclass
class Behaviour:
    """What the world does in the next episode."""

    camera: bool = True
    veto: frozenset[int] = frozenset()
    success_at: int = -1
    refuse: str = ""
    encoding: str = "rgb8"
    answer: bool = True
    clock_lag: int = 0  # nanoseconds
    fault_at: int = 10**9
    """The gate stops after this step."""
    age: int = 0
    """Nanoseconds: so old are the frames."""


@dataclass
class Seen:
    """What the policy has published in this episode; ``arrived`` in ROS time, nanoseconds."""

    steps: list[PolicyStep] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    identities: list[EpisodeIdentity] = field(default_factory=list)
    outcomes: list[EpisodeOutcome] = field(default_factory=list)
    feedback: list[RunEpisode.Feedback] = field(default_factory=list)


class FakeWorld:
    """Spins in a thread of its own; ``run`` and ``call`` are for the test's thread."""

    def __init__(self, domain: int, lock_step: bool) -> None:
        self.lock_step, self.behaviour, self.seen = lock_step, Behaviour(), Seen()
        self.beats: list[float] = []
        self.time, self.episode, self.number = 10_000_000_000, "", 0
        self._ticks = 0
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        node = self.node = Node("fake_world", context=self.context)
        group = ReentrantCallbackGroup()
        pub, sub = node.create_publisher, node.create_subscription
        self._clock = pub(ClockMessage, "/clock", CLOCK)
        self._pose = pub(PoseStamped, topics.CURRENT_POSE, robot_state(lock_step))
        self._joints = pub(JointState, topics.JOINT_STATES, JOINTS)
        self._color = pub(Image, topics.COLOR, CAMERA)
        self._task = pub(TaskStatus, topics.TASK_STATUS, EVENT)
        self._world = pub(WorldStatus, topics.WORLD_STATUS, EVENT)
        self._gate = pub(GateStatus, topics.GATE_STATUS, EVENT)
        self._commit = pub(StepCommit, topics.STEP_COMMIT, EVENT)
        self._arm = pub(ArmStatus, topics.ARM_STATUS, EVENT)
        self._operator = pub(OperatorStep, topics.OPERATOR_STEP, EVENT)
        self._record = pub(EpisodeRecord, topics.RECORD, EVENT)
        sub(PolicyStep, topics.POLICY_STEP, self._on_step, EVENT)
        sub(Image, topics.MODEL_INPUT, lambda m: self.seen.images.append(m), EVENT)
        sub(Heartbeat, topics.HEARTBEAT, lambda m: self.beats.append(time.monotonic()), EVENT)
        sub(EpisodeIdentity, topics.EPISODE, self._on_identity, LATCHED)
        sub(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        node.create_service(ResetWorld, topics.RESET_WORLD, self._on_reset)
        node.create_service(PrepareRecording, topics.PREPARE_RECORDING, self._on_prepare)
        self.action = ActionClient(node, RunEpisode, topics.RUN_EPISODE, callback_group=group)
        self.load = node.create_client(LoadAdapter, topics.LOAD_ADAPTER, callback_group=group)
        self.rollback = node.create_client(RollbackAdapter, topics.ROLLBACK_ADAPTER, callback_group=group)
        self.list = node.create_client(ListAdapters, topics.LIST_ADAPTERS, callback_group=group)
        self.end = node.create_client(Trigger, topics.END_EPISODE, callback_group=group)
        self.set = node.create_client(SetParameters, "/grape_policy/set_parameters", callback_group=group)
        self.change = node.create_client(ChangeState, "/grape_policy/change_state", callback_group=group)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(0.1, self._say_gate, clock=steady)
        if not lock_step:
            node.create_timer(TICK, self._tick, clock=steady)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self.context.try_shutdown()

    # the world

    def _observe(self, color: bool) -> None:
        """Everything of this instant, the image last."""
        clock, pose, joints, world = ClockMessage(), PoseStamped(), JointState(), WorldStatus()
        set_stamp(clock.clock, self.time - self.behaviour.clock_lag)
        self._clock.publish(clock)
        for message in (pose, joints, world):
            set_stamp(message.header.stamp, self.time)
        pose.header.frame_id = topics.BASE_FRAME
        pose.pose.position.x, pose.pose.orientation.w = self.time * 1e-9, 1.0
        self._pose.publish(pose)
        joints.name, joints.position = ["fr3_joint1", topics.KNUCKLE_JOINT], [0.5, topics.KNUCKLE_CLOSED / 2]
        if self.lock_step or self._ticks % 3 == 0:
            self._joints.publish(joints)
        if self.episode and color:
            world.episode_id, world.grasped = self.episode, True
            self._world.publish(world)
            task = TaskStatus(episode_id=self.episode, stage=self.number // 2, stages=3)
            task.success = int(self.number == self.behaviour.success_at)
            set_stamp(task.header.stamp, self.time)
            self._task.publish(task)
        if color and self.behaviour.camera:
            pixels = np.full((48, 64, 3), self.number * 16 % 256, np.uint8)
            image = image_to_msg(pixels, self.time - self.behaviour.age, topics.CAMERA_FRAME)
            image.encoding = self.behaviour.encoding
            self._color.publish(image)

    def _tick(self) -> None:
        self._ticks += 1
        self.time += 10_000_000
        self._observe(color=self._ticks % 10 == 0)

    def _say_gate(self, step: int = 0, verdict: int = GateStatus.NONE) -> None:
        status = GateStatus(episode_id=self.episode, step=step, verdict=verdict)
        status.state = GateStatus.ACTIVE if self.episode else GateStatus.IDLE
        if len(self.seen.steps) > self.behaviour.fault_at:
            status.state, status.check, status.reason = GateStatus.STOPPED, "watchdog", "no step in time"
        if verdict == GateStatus.VETOED:
            status.check, status.reason = "box", f"step {step} leaves the box"
        self._gate.publish(status)

    def _on_step(self, step: PolicyStep) -> None:
        self.seen.steps.append(step)
        self.seen.arrived.append(self.time)
        if not self.behaviour.answer:
            return
        verdict = GateStatus.VETOED if step.step in self.behaviour.veto else GateStatus.ACCEPTED
        self._say_gate(step.step, verdict)
        self.number = step.step + 1
        if self.lock_step and stamp_ns(step.header.stamp) == self.time:
            self.time += PERIOD
            self._observe(color=True)

    def _on_identity(self, message: EpisodeIdentity) -> None:
        self.seen.identities.append(message)
        self.episode = message.episode_id
        self._say_gate()

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        self.seen.outcomes.append(message)
        self.episode = ""
        path = f"/bags/{message.episode_id}"
        self._record.publish(EpisodeRecord(episode_id=message.episode_id, path=path, complete=True))

    def _on_reset(self, request: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        response.accepted, response.reason = not self.behaviour.refuse, self.behaviour.refuse
        # the announcement comes by another way and may be later: the reward node remembers, so does this
        self.episode = request.episode_id
        self.number = 0
        self.time += PERIOD
        set_stamp(response.first_observation, self.time)
        if response.accepted and self.lock_step:
            self._observe(color=True)
        return response

    def _on_prepare(self, request: Any, response: PrepareRecording.Response) -> PrepareRecording.Response:
        response.accepted, response.path = True, f"/bags/{request.identity.episode_id}"
        return response

    # for the test's thread

    def drive(self, operator: bool) -> None:
        """A person takes the arm, or hands it back, and the gate says so."""
        kind = OperatorStep.MOVE if operator else OperatorStep.HAND_BACK
        self._operator.publish(OperatorStep(source="teleop", kind=kind, action=[0.0] * 7))
        status = ArmStatus(authority=ArmStatus.OPERATOR if operator else ArmStatus.POLICY)
        set_stamp(status.header.stamp, self.time)
        self._arm.publish(status)

    def set_seconds(self, name: str, value: float) -> None:
        """Set a parameter of the running node."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        (result,) = self.call(self.set, SetParameters.Request(parameters=[parameter])).results
        assert result.successful, result.reason

    def transition(self, number: int) -> bool:
        return bool(self.call(self.change, ChangeState.Request(transition=Transition(id=number))).success)

    def ask(self, send: Callable[[], Any]) -> Any:
        return ask(self._executor, send)

    def finished(self, future: Any, what: str, deadline: float = 30.0) -> Any:
        wait_for(future.done, what, deadline)
        return future.result()

    def call(self, client: Any, request: Any) -> Any:
        wait_for(client.service_is_ready, client.srv_name, 30.0)
        return self.finished(client.call_async(request), client.srv_name)

    def start(self, behave: dict[str, Any] | None = None, **goal: object) -> Any:
        """Send a goal; its handle, accepted or not. ``behave``: fields of Behaviour."""
        self.behaviour, self.seen = Behaviour(**(behave or {})), Seen()
        return self.action_again(**goal)

    def action_again(self, **goal: object) -> Any:
        """A goal beside the one that is running."""
        wait_for(self.action.server_is_ready, "the action server", 30.0)
        values = {"task": "carrot_on_plate", "initial_state": 7, "seed": 3, "temperature": 1.0, "step_limit": 4}
        request = RunEpisode.Goal(**{**values, **goal})
        keep: Callable[[Any], None] = lambda m: self.seen.feedback.append(m.feedback)  # noqa: E731
        return self.finished(self.ask(lambda: self.action.send_goal_async(request, keep)), "the goal's acceptance")

    def result_of_drive(self, handle: Any) -> tuple[int, RunEpisode.Result]:
        """Status and result of a goal in which no policy need have sent a step."""
        answer = self.finished(self.ask(handle.get_result_async), "the result", 60.0)
        wait_for(lambda: len(self.seen.outcomes) >= len(self.seen.identities), "the outcome")
        return answer.status, answer.result

    def result(self, handle: Any) -> tuple[int, RunEpisode.Result]:
        """Status and result of an accepted goal."""
        answer = self.finished(self.ask(handle.get_result_async), "the result", 60.0)
        # topics and the action's result come by different ways
        seen, steps = self.seen, answer.result.steps
        wait_for(lambda: len(seen.steps) >= steps and len(seen.outcomes) >= len(seen.identities), "the last messages")
        return answer.status, answer.result

    def run(self, behave: dict[str, Any] | None = None, **goal: object) -> tuple[int, RunEpisode.Result]:
        handle = self.start(behave, **goal)
        assert handle.accepted
        return self.result(handle)


@pytest.fixture(scope="session")
def make_world() -> Callable[[int, bool], FakeWorld]:
    return FakeWorld
