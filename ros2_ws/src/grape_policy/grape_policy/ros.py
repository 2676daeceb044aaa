"""What the policy node shares of ROS: messages to samples, and the :class:`Ports` of a rollout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from geometry_msgs.msg import PoseStamped
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import (
    AdapterInfo,
    ArmStatus,
    EpisodeIdentity,
    EpisodeOutcome,
    EpisodeRecord,
    GateStatus,
    OperatorStep,
    PolicyStep,
    TaskStatus,
    WorldStatus,
)
from grape_interfaces.srv import PrepareRecording, ResetWorld
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.episode import Identity, Outcome, Step
from grape_episode.messages import fill_identity, fill_outcome, fill_step
from grape_episode.ros import (
    CAMERA,
    EVENT,
    JOINTS,
    image_from_msg,
    image_to_msg,
    pose_from_msg,
    robot_state,
    stamp_ns,
)
from grape_policy.decision import AdapterInfo as Serving
from grape_policy.ending import ERROR, GATE_FAULT, STALE_CAMERA, EpisodeEnd, check_interrupt, check_stop
from grape_policy.errors import ProcessEndedError, ProcessingError
from grape_policy.inference_process import EngineProcess
from grape_policy.observation import Inbox, Observation
from grape_policy.parameters import EpisodeSettings
from grape_policy.samples import a_person_drives, arm_of, gate_of, raw_frame, record_of, task_of, world_of

T = TypeVar("T")


def listen(node: Node, inbox: Inbox, settings: EpisodeSettings) -> list[Subscription]:
    """Put everything that an episode may wait for into ``inbox``. Images stay serialised: most are never used."""

    def on_pose(message: PoseStamped) -> None:
        frame = message.header.frame_id
        if frame != settings.base_frame:
            node.get_logger().error(
                f"{settings.pose_topic}: frame {frame!r}, expected {settings.base_frame!r}: ignored",
                throttle_duration_sec=5.0,
            )
            return
        inbox.put_tcp(stamp_ns(message.header.stamp), pose_from_msg(message.pose))

    def on_joints(message: JointState) -> None:
        # arm and gripper may come in messages of their own, and positions may be missing
        knuckle = dict(zip(message.name, message.position, strict=False)).get(topics.KNUCKLE_JOINT)
        if knuckle is not None:
            inbox.put_width(stamp_ns(message.header.stamp), topics.gripper_width(knuckle))

    def on_image(data: Any) -> None:
        inbox.put_frame(raw_frame(data))

    def on_operator(message: OperatorStep) -> None:
        if a_person_drives(message):
            inbox.put_drive()

    # one group a source: in order within it, and no source waits for another
    camera, robot, events = (MutuallyExclusiveCallbackGroup() for _ in range(3))
    state = robot_state(settings.lock_step)
    held = [
        node.create_subscription(kind, topic, callback, qos, callback_group=group)
        for kind, topic, callback, qos, group in (
            (PoseStamped, settings.pose_topic, on_pose, state, robot),
            (JointState, settings.joints_topic, on_joints, JOINTS, robot),
            (TaskStatus, topics.TASK_STATUS, lambda m: inbox.put_task(task_of(m)), EVENT, events),
            (GateStatus, topics.GATE_STATUS, lambda m: inbox.put_gate(gate_of(m)), EVENT, events),
            (WorldStatus, topics.WORLD_STATUS, lambda m: inbox.put_world(world_of(m)), EVENT, events),
            (ArmStatus, topics.ARM_STATUS, lambda m: inbox.put_arm(arm_of(m)), EVENT, events),
            (OperatorStep, topics.OPERATOR_STEP, on_operator, EVENT, events),
            (EpisodeRecord, topics.RECORD, lambda m: inbox.put_record(record_of(m)), EVENT, events),
        )
    ]
    frame = node.create_subscription(Image, settings.color_topic, on_image, CAMERA, callback_group=camera, raw=True)
    return [*held, frame]


def adapter_info(adapter: Serving, serving: bool) -> AdapterInfo:
    """To an AdapterInfo, from what the engine says of a slot."""
    return AdapterInfo(
        adapter_id=adapter.adapter_id,
        adapter_seq=adapter.adapter_seq,
        base_hash=adapter.base_hash,
        path=adapter.path,
        rank=adapter.rank,
        serving=serving,
    )


@dataclass(frozen=True)
class Outlets:
    """Publishers and clients of the node."""

    identity: Any
    outcome: Any
    step: Any
    model_input: Any
    reset_world: Client
    prepare_recording: Client


class RosPorts:
    """The ports of a rollout and of a demonstration over a node; used by the worker thread alone."""

    def __init__(
        self,
        node: Node,
        outlets: Outlets,
        inbox: Inbox,
        engine: EngineProcess,
        settings: EpisodeSettings,
        told: Callable[[RunEpisode.Feedback], None],
    ) -> None:
        self._node, self._outlets, self._inbox = node, outlets, inbox
        self._engine, self._settings, self._told = engine, settings, told
        self._camera_frame = ""

    def now(self) -> int:
        """ROS time, nanoseconds."""
        return int(self._node.get_clock().now().nanoseconds)

    def check_world(self) -> None:
        """Everybody that the episode needs is in the graph. Raises EpisodeEnd that names who is not."""
        settings, node = self._settings, self._node
        topic = settings.color_topic
        self._find(lambda: node.count_publishers(topic), STALE_CAMERA, f"no camera: nobody publishes {topic}")
        self._find(
            self._outlets.step.get_subscription_count, GATE_FAULT, f"no gate: nobody listens to {topics.POLICY_STEP}"
        )
        if settings.lock_step and settings.await_task_status:
            nobody = f"no reward node: nobody publishes {topics.TASK_STATUS} (parameter await_task_status)"
            self._find(lambda: node.count_publishers(topics.TASK_STATUS), ERROR, nobody)
        if settings.reset == "world":
            nobody = f"no world: nobody serves {topics.RESET_WORLD} (parameter reset)"
            self._find(self._outlets.reset_world.service_is_ready, ERROR, nobody)

    def prepare_recording(self, identity: Identity) -> str:
        """Folder of the bag that the recorder opened for this identity."""
        client = self._outlets.prepare_recording
        nobody = f"no recorder: nobody serves {topics.PREPARE_RECORDING}"
        self._find(client.service_is_ready, ERROR, nobody)
        request = PrepareRecording.Request()
        fill_identity(request.identity, identity)
        request.identity.header.frame_id = self._settings.base_frame
        answer = self._call(client, request, topics.PREPARE_RECORDING)
        if not answer.accepted:
            raise EpisodeEnd(ERROR, f"the recorder refuses: {answer.reason}")
        return str(answer.path)

    def announce(self, identity: Identity) -> None:
        if self._inbox.driven and not identity.demonstration:
            self._node.get_logger().warning("a person drives: the policy waits until the arm is handed back")
        message = EpisodeIdentity()
        fill_identity(message, identity)
        message.header.frame_id = self._settings.base_frame
        self._outlets.identity.publish(message)

    def reset_world(self, identity: Identity) -> int:
        """Stamp of the first observation, nanoseconds; now, where nobody resets the world."""
        if self._settings.reset == "none":
            return self.now()
        request = ResetWorld.Request(
            episode_id=identity.episode_id,
            task=identity.task,
            variant=identity.variant,
            initial_state=identity.initial_state,
        )
        answer = self._call(
            self._outlets.reset_world,
            request,
            topics.RESET_WORLD,
            self._settings.reset_deadline,
            lambda: check_interrupt(self._inbox),
        )
        if not answer.accepted:
            raise EpisodeEnd(ERROR, f"the world refuses: {answer.reason}")
        return stamp_ns(answer.first_observation)

    def decide(self, seen: Observation, identity: Identity, index: int) -> Step:
        """One inference on the frame seen; its latency is filled in when it is sent. What ends the episode meanwhile
        ends the waiting, too: the answer is then nobody's."""
        rgb = self._picture(seen)
        pending = self._engine.decide(rgb, identity.instruction, identity.seed, index, identity.temperature)
        answer = self._await(pending)
        made, facts = answer.decision, self._engine.facts
        return Step(
            index=index,
            stamp=seen.stamp,
            instruction=identity.instruction,
            tokens=made.tokens,
            logprobs=made.logprobs,
            margins=made.margins,
            action=made.action,
            rotation=facts.rotation,
            tcp=seen.tcp,
            gripper_width=seen.gripper_width,
            adapter_id=made.adapter_id,
            adapter_seq=made.adapter_seq,
            base_hash=facts.base_hash,
            temperature=identity.temperature,
            seed=identity.seed,
            latency=0.0,
            image=answer.image,
        )

    def show(self, seen: Observation, index: int, stage: int) -> None:
        """The model's image of the frame seen, stamped as the frame, and no step."""
        image = self._await(self._engine.see(self._picture(seen)))
        self._outlets.model_input.publish(image_to_msg(image, seen.stamp, self._camera_frame))
        self._told(RunEpisode.Feedback(step=index, stage=stage))

    def feedback(self, step: Step, stage: int) -> None:
        values = {"adapter_id": step.adapter_id, "latency": step.latency}
        self._told(RunEpisode.Feedback(step=step.index, stage=stage, **values))

    def publish_step(self, step: Step, identity: Identity) -> None:
        """The image that the model saw, then the step, both stamped as the observation."""
        if step.image is not None:
            self._outlets.model_input.publish(image_to_msg(step.image, step.stamp, self._camera_frame))
        message = PolicyStep()
        fill_step(message, step, identity.episode_id)
        message.header.frame_id = self._settings.base_frame
        self._outlets.step.publish(message)

    def publish_outcome(self, identity: Identity, outcome: Outcome) -> None:
        message = EpisodeOutcome()
        fill_outcome(message, outcome, identity.episode_id)
        message.header.frame_id = self._settings.base_frame
        self._outlets.outcome.publish(message)

    def _picture(self, seen: Observation) -> NDArray[np.uint8]:
        """The frame (H, W, 3) RGB. Raises EpisodeEnd."""
        message = deserialize_message(seen.frame.data, Image)
        topic = self._settings.color_topic
        if message.encoding not in ("rgb8", "bgr8"):
            raise EpisodeEnd(ERROR, f"{topic}: image encoding {message.encoding!r}: expected rgb8 or bgr8")
        self._camera_frame = message.header.frame_id
        try:
            return image_from_msg(message)
        except ValueError as problem:
            raise EpisodeEnd(ERROR, f"{topic}: {problem}") from None

    def _await(self, pending: Future[T]) -> T:
        """The inference process's answer. Raises EpisodeEnd."""
        pending.add_done_callback(lambda _: self._inbox.wake())

        def answered() -> T | None:
            check_interrupt(self._inbox)
            return pending.result() if pending.done() else None

        try:
            answer = self._inbox.wait(answered, self._settings.inference_deadline)
        except (ProcessingError, ProcessEndedError) as problem:
            raise EpisodeEnd(ERROR, str(problem)) from None
        if answer is None:
            seconds = self._settings.inference_deadline
            raise EpisodeEnd(ERROR, f"no answer from the inference process after {seconds:g} s")
        return answer

    def _find(self, count: Callable[[], int | bool], reason: str, nobody: str) -> None:
        def found() -> bool | None:
            check_stop(self._inbox)
            return True if count() else None

        if self._inbox.wait(found, self._settings.service_deadline, poll=0.05) is None:
            raise EpisodeEnd(reason, f"{nobody} for {self._settings.service_deadline:g} s")

    def _call(
        self, client: Client, request: Any, name: str, seconds: float = 0.0, check: Callable[[], None] = lambda: None
    ) -> Any:
        """The answer within ``seconds`` (0: the settings' deadline); ``check`` raises what ends the waiting."""
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        limit = seconds or self._settings.deadline
        end = time.monotonic() + limit
        try:
            while not done.wait(0.1) and time.monotonic() < end and not self._inbox.leaving:
                check()
        finally:
            if not done.is_set():
                client.remove_pending_request(future)
        if not done.is_set():
            raise EpisodeEnd(ERROR, f"no answer from {name} after {limit:g} s")
        return future.result()
