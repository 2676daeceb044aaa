"""Resets of a lab over real topics: the node, the real gate, and the simulated arm in real time in the lab's place."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import ArmStatus, EpisodeIdentity, EpisodeOutcome, Heartbeat, OperatorStep
from grape_interfaces.srv import ConfirmReset, ResetWorld
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import CAMERA, EVENT, JOINTS, LATCHED, image_from_msg, pose_from_msg, robot_state, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.state_library import StateLibrary

pytestmark = pytest.mark.ros

PROFILE = Path(__file__).parents[4] / "launch" / "params" / "gate_sim.yaml"
LAB_RESET = "/lab/reset_world"
"""Where the reset node serves here: the simulator has the name that it has in a lab."""
TASK = "carrot_on_plate"
HOME = Pose(np.array([0.42, 0.0, 0.26]), np.array([1.0, 0.0, 0.0, 0.0]))


@dataclass
class Lab:
    """Policy, operator and eyes of the test."""

    node: Node
    library: StateLibrary
    color: Image | None = None
    pose: Pose | None = None
    width: float | None = None
    arm: ArmStatus | None = None
    overlays: list[Image] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    episodes: int = 0
    episode: str = ""
    sequence: int = 0

    def __post_init__(self) -> None:
        listen, create = self.node.create_subscription, self.node.create_publisher
        listen(Image, topics.COLOR, lambda m: setattr(self, "color", m), CAMERA)
        listen(Image, topics.RESET_OVERLAY, self.overlays.append, CAMERA)
        listen(PoseStamped, topics.CURRENT_POSE, self._on_pose, robot_state(False))
        listen(JointState, topics.JOINT_STATES, self._on_joints, JOINTS)
        listen(ArmStatus, topics.ARM_STATUS, lambda m: setattr(self, "arm", m), EVENT)
        listen(OperatorStep, topics.OPERATOR_STEP, lambda m: self.sources.append(m.source), EVENT)
        self._identity = create(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = create(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._heartbeat = create(Heartbeat, topics.HEARTBEAT, EVENT)
        self._operator = create(OperatorStep, topics.OPERATOR_STEP, EVENT)
        self._world = self.node.create_client(ResetWorld, topics.RESET_WORLD)
        self._lab = self.node.create_client(ResetWorld, LAB_RESET)
        self._confirm = self.node.create_client(ConfirmReset, topics.CONFIRM_RESET)

    def _on_pose(self, message: PoseStamped) -> None:
        self.pose = pose_from_msg(message.pose)

    def _on_joints(self, message: JointState) -> None:
        self.width = topics.gripper_width(dict(zip(message.name, message.position, strict=True))[topics.KNUCKLE_JOINT])

    def connect(self) -> None:
        for client in (self._world, self._lab, self._confirm):
            wait_for(client.service_is_ready, client.srv_name, 60.0)
        for topic, hearers in ((topics.OPERATOR_STEP, 2), (topics.EPISODE, 1), (topics.OUTCOME, 2)):
            wait_for(lambda t=topic, n=hearers: self.node.count_subscribers(t) >= n, f"hearers of {topic}", 60.0)
        wait_for(lambda: self.color is not None and self.pose is not None and self.arm is not None, "the lab", 60.0)

    def world(self) -> None:
        """The simulated scene, as people would have left it."""
        future = self._world.call_async(ResetWorld.Request(task=TASK, initial_state=3))
        assert self.answer(future).accepted

    def announce(self) -> None:
        self.episodes += 1
        self.episode = f"episode_{self.episodes}"
        self._identity.publish(EpisodeIdentity(episode_id=self.episode, control_period=0.2))

    def end(self) -> None:
        self._outcome.publish(EpisodeOutcome(episode_id=self.episode))

    def drive_away(self) -> None:
        """A person drives the arm down and aside and closes the gripper."""
        for kind, action in [(OperatorStep.MOVE, [0.01, 0.012, -0.012, 0.0, 0.0, 0.0, 0.0])] * 6 + [
            (OperatorStep.HAND_BACK, [0.0] * 7)
        ]:
            message = OperatorStep(source="teleop", kind=kind, action=action, rotation="euler_xyz")
            message.header.frame_id = topics.BASE_FRAME
            message.header.stamp = self.color.header.stamp  # type: ignore[union-attr]
            message.sequence = self.sequence
            self.sequence += 1
            self._operator.publish(message)
            seen = self.color
            wait_for(lambda seen=seen: self.color is not seen, "another image")
        wait_for(lambda: self.pose.distance(HOME) > 0.08, "the arm to be away", 10.0)  # type: ignore[union-attr]
        wait_for(lambda: self.width is not None and self.width < 0.03, "the gripper to close")

    def reset(self, state: int = 7) -> Future:
        request = ResetWorld.Request(episode_id=self.episode, task=TASK, initial_state=state)
        return self._lab.call_async(request)

    def confirm(self, state: int, task: str = TASK) -> ConfirmReset.Response:
        return self.answer(self._confirm.call_async(ConfirmReset.Request(task=task, initial_state=state)))

    def awaited(self, since: int) -> Image:
        """The first overlay after the ``since`` that were seen."""
        return wait_for(lambda: self.overlays[since] if len(self.overlays) > since else None, "the overlay", 60.0)

    def answer(self, future: Future):
        wait_for(future.done, "an answer", 60.0)
        return future.result()

    def driven_by(self, operator: bool) -> None:
        wanted = ArmStatus.OPERATOR if operator else ArmStatus.POLICY
        wait_for(lambda: self.arm.authority == wanted, f"authority {wanted}")  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    domain, folder = free_domain(), tmp_path_factory.mktemp("lab")
    context = rclpy.Context()
    context.init(domain_id=domain)
    rig = Lab(rclpy.create_node("lab", context=context), StateLibrary(folder / "states"))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(rig.node)
    beat = rig.node.create_timer(0.05, lambda: rig._heartbeat.publish(Heartbeat(source="policy")))

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    gate = {"profile": PROFILE, "use_sim_time": True}
    reset = {**gate, "states": rig.library.root, "speed": 0.3, "rotation_speed": 1.0, "hold_deadline": 20.0}
    remapped = ("--ros-args", "-r", f"{topics.RESET_WORLD}:={LAB_RESET}")
    with (
        NodeProcess("grape_sim.sim_node", domain, folder / "sim.log", {"image_size": 64}),
        NodeProcess("grape_robot.gate_node", domain, folder / "gate.log", gate),
        NodeProcess("grape_robot.reset_node", domain, folder / "reset.log", reset, remapped) as process,
    ):
        rig.connect()
        yield rig
        process.stop()
        assert process.process.returncode == 0, process.output
    beat.cancel()
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


def test_home_overlay_word_observation(lab: Lab) -> None:
    lab.world()
    lab.drive_away()
    stored = np.full((64, 64, 3), 200, np.uint8)
    lab.library.store(TASK, "clean", 7, stored, "test")
    lab.announce()
    lab.sources.clear()
    since = len(lab.overlays)
    future = lab.reset(7)
    overlay = lab.awaited(since)
    # the arm is home and open, by the homing's steps alone, and it is not the policy's yet
    assert lab.pose.distance(HOME) < 0.02 and lab.width > 0.07  # type: ignore[union-attr, operator]
    assert set(lab.sources) == {"homing"} and not future.done()
    lab.driven_by(operator=True)
    shown = image_from_msg(overlay)
    assert shown.shape == (64, 64, 3) and overlay.header.frame_id == topics.CAMERA_FRAME
    # below the label: half of what is there, half of what was stored; the scene stands still
    live = image_from_msg(lab.color)  # type: ignore[arg-type]
    halves = (live[40:].astype(float) + stored[40:]) / 2.0
    assert np.abs(shown[40:] - halves).mean() < 3.0
    wrong = lab.confirm(8)
    assert not wrong.accepted and wrong.reason == f"{TASK} 8 is confirmed, {TASK} 7 is waited for"
    before = stamp_ns(lab.color.header.stamp)  # type: ignore[union-attr]
    assert lab.confirm(7).accepted
    answer = lab.answer(future)
    assert answer.accepted, answer.reason
    assert stamp_ns(answer.first_observation) > before
    lab.driven_by(operator=False)
    assert lab.arm.episode_id == lab.episode  # type: ignore[union-attr]
    assert "no reset waits" in lab.confirm(9).reason
    lab.end()


def test_a_new_state_is_stored_from_the_camera(lab: Lab) -> None:
    lab.world()
    lab.announce()
    since = len(lab.overlays)
    future = lab.reset(8)
    lab.awaited(since)
    assert lab.confirm(8).accepted
    assert lab.answer(future).accepted
    state = lab.library.find(TASK, "clean", 8)
    assert state is not None and state.source == lab.episode
    assert np.abs(lab.library.image(state).astype(float) - image_from_msg(lab.color)).mean() < 3.0  # type: ignore[arg-type]
    lab.end()


def test_an_episode_that_ends_ends_its_reset(lab: Lab) -> None:
    lab.world()
    lab.announce()
    since = len(lab.overlays)
    future = lab.reset(7)
    lab.awaited(since)
    lab.end()
    answer = lab.answer(future)
    assert not answer.accepted and answer.reason == f"episode {lab.episode} has ended"
    lab.driven_by(operator=False)


def test_who_asks_again_ends_the_last_one(lab: Lab) -> None:
    lab.world()
    lab.announce()
    since = len(lab.overlays)
    first = lab.reset(7)
    lab.awaited(since)
    since = len(lab.overlays)
    second = lab.reset(8)
    assert lab.answer(first).reason == "another reset is asked for"
    wait_for(lambda: lab.confirm(8).accepted, "the second reset to wait for its confirmation", poll=0.2)
    assert lab.answer(second).accepted
    lab.end()


def test_a_name_that_is_no_name_is_refused(lab: Lab) -> None:
    lab.episode = ""
    request = ResetWorld.Request(task="../../etc", initial_state=1)
    answer = lab.answer(lab._lab.call_async(request))
    assert not answer.accepted and answer.reason.startswith("task '../../etc'")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "parameter states: give a path"),
        (
            {"states": "x", "profile": PROFILE, "speed": 0.9},
            "parameter speed: 0.9 is not above 0 and below profile sim's",
        ),
    ],
)
def test_wrong_parameters_end_in_one_line(tmp_path: Path, params: dict, words: str) -> None:
    with NodeProcess("grape_robot.reset_node", free_domain(), tmp_path / "reset.log", params) as process:
        assert process.wait(60.0) == 1
        lines = process.output.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("grape_reset: ") and words in lines[0]
