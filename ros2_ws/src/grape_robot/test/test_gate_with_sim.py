"""Gate and simulated arm as two processes in lock-step; the test plays the policy with a script."""

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
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, GateStatus, Heartbeat, PolicyStep
from grape_interfaces.srv import ResetWorld
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.ros import CAMERA, EVENT, JOINTS, LATCHED, robot_state, set_stamp, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, rehearse, wait_for

pytestmark = [pytest.mark.ros, pytest.mark.alone]

PROFILE = Path(__file__).parents[4] / "launch" / "params" / "gate_sim.yaml"
PERIOD = 200_000_000
OPEN, CLOSED = 1.0, 0.0


def move(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0, gripper: float = OPEN) -> list[float]:
    return [x, y, z, 0.0, 0.0, yaw, gripper]


@dataclass
class Policy:
    """Announces episodes and sends scripted steps; hears the world and the gate."""

    node: Node
    images: dict[int, bytes] = field(default_factory=dict)
    poses: dict[int, np.ndarray] = field(default_factory=dict)
    knuckles: dict[int, float] = field(default_factory=dict)
    verdicts: list[GateStatus] = field(default_factory=list)
    gate: GateStatus | None = None
    episodes: int = 0

    def __post_init__(self) -> None:
        listen, create = self.node.create_subscription, self.node.create_publisher
        listen(Image, topics.COLOR, self._on_image, CAMERA)
        listen(PoseStamped, topics.CURRENT_POSE, self._on_pose, robot_state(True))
        listen(JointState, topics.JOINT_STATES, self._on_joints, JOINTS)
        listen(GateStatus, topics.GATE_STATUS, self._on_status, EVENT)
        self._identity = create(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = create(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._step = create(PolicyStep, topics.POLICY_STEP, EVENT)
        self._heartbeat = create(Heartbeat, topics.HEARTBEAT, EVENT)
        self._reset = self.node.create_client(ResetWorld, topics.RESET_WORLD)

    def _on_image(self, message: Image) -> None:
        self.images[stamp_ns(message.header.stamp)] = message.data.tobytes()

    def _on_pose(self, message: PoseStamped) -> None:
        p, q = message.pose.position, message.pose.orientation
        self.poses[stamp_ns(message.header.stamp)] = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])

    def _on_joints(self, message: JointState) -> None:
        self.knuckles[stamp_ns(message.header.stamp)] = message.position[7]

    def _on_status(self, message: GateStatus) -> None:
        self.gate = message
        if message.verdict != GateStatus.NONE:
            self.verdicts.append(message)

    def begin(self, state: int) -> int:
        """Stamp of the first observation of a fresh episode."""
        self.episodes += 1
        self.verdicts.clear()
        self.episode = f"script_{self.episodes}"
        self._identity.publish(EpisodeIdentity(episode_id=self.episode, control_period=0.2, lock_step=True))
        request = ResetWorld.Request(episode_id=self.episode, task="carrot_on_plate", initial_state=state)
        future = self._reset.call_async(request)
        wait_for(future.done, "the reset")
        assert future.result().accepted, future.result().reason
        armed = lambda: self.gate is not None and self.gate.episode_id == self.episode  # noqa: E731
        wait_for(armed, "the gate to be armed")
        return stamp_ns(future.result().first_observation)

    def observe(self, stamp: int, deadline: float = 20.0) -> np.ndarray:
        whole = lambda: stamp in self.images and stamp in self.poses and stamp in self.knuckles  # noqa: E731
        wait_for(whole, f"frame {stamp}", deadline)
        return self.poses[stamp]

    def act(self, stamp: int, index: int, action: list[float], deadline: float = 20.0) -> int:
        """One step; the stamp of the observation after it."""
        self.observe(stamp)
        message = PolicyStep(episode_id=self.episode, step=index, action=action, rotation="euler_xyz")
        message.header.frame_id = topics.BASE_FRAME
        set_stamp(message.header.stamp, stamp)
        self._step.publish(message)
        self.observe(stamp + PERIOD, deadline)
        return stamp + PERIOD

    def end(self) -> None:
        self._outcome.publish(EpisodeOutcome(episode_id=self.episode))
        wait_for(lambda: self.gate is not None and self.gate.state == GateStatus.IDLE, "the gate to be idle")

    def connect(self) -> None:
        for publisher, hearers in ((self._identity, 1), (self._step, 1), (self._outcome, 1), (self._heartbeat, 1)):
            wait_for(
                lambda p=publisher, n=hearers: p.get_subscription_count() >= n, f"the gate on {publisher.topic}", 60.0
            )
        wait_for(self._reset.service_is_ready, topics.RESET_WORLD)
        wait_for(lambda: self.gate is not None, "the gate's status")
        # the gate must hear the simulator too, and the simulator the gate
        for topic, hearers in ((topics.STEP_COMMIT, 1), (topics.TARGET_POSE, 1), (topics.CURRENT_POSE, 2)):
            wait_for(lambda t=topic, n=hearers: self.node.count_subscribers(t) >= n, f"hearers of {topic}")
        rehearse(self._first_step)

    def _first_step(self, deadline: float) -> None:
        try:
            self.act(self.begin(0), 0, move(), deadline)
        finally:
            self.end()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    domain, folder = free_domain(), tmp_path_factory.mktemp("arm")
    context = rclpy.Context()
    context.init(domain_id=domain)
    script = Policy(rclpy.create_node("script", context=context))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(script.node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    gate = {"profile": PROFILE, "use_sim_time": True, "lock_step": True}
    sim = {"lock_step": True, "image_size": 64}
    with (
        NodeProcess("grape_sim.sim_node", domain, folder / "sim.log", sim),
        NodeProcess("grape_robot.gate_node", domain, folder / "gate.log", gate),
    ):
        script.connect()
        yield script
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


SCRIPT = [
    move(z=-0.04, yaw=0.1),
    move(x=0.03, y=0.02, z=-0.04),
    move(x=0.2),  # too fast
    move(z=-0.03, gripper=CLOSED),
    move(gripper=CLOSED),
    move(x=float("nan")),
    move(z=0.05, gripper=CLOSED),
    move(z=0.05),
]
CHECKS = ["", "", "speed", "", "", "finite", "", ""]


def play(policy: Policy, state: int) -> tuple[list[bytes], list[np.ndarray], list[float]]:
    stamp = policy.begin(state)
    stamps = [stamp]
    for index, action in enumerate(SCRIPT):
        stamp = policy.act(stamp, index, action)
        stamps.append(stamp)
    policy.end()
    return tuple([table[s] for s in stamps] for table in (policy.images, policy.poses, policy.knuckles))  # type: ignore[return-value]


def test_scripted_steps_move_the_arm_and_vetoes_hold_it(policy: Policy) -> None:
    images, poses, knuckles = play(policy, 5)
    assert [v.check for v in policy.verdicts] == CHECKS
    assert [v.step for v in policy.verdicts] == list(range(len(SCRIPT)))
    way = np.array([pose[:3] for pose in poses])
    expected = way[0] + np.cumsum([[0, 0, -0.04], [0.03, 0.02, -0.04], [0, 0, 0], [0, 0, -0.03]], axis=0)
    # the arm follows its target up to the servo's lag, and settles on it while it is held
    assert np.abs(way[1:5] - expected).max() < 0.012
    assert np.abs(way[3] - expected[2]).max() < 0.002
    assert knuckles[3] < 0.05 < 0.3 < knuckles[5] and knuckles[-1] < knuckles[-2]
    assert len(set(images)) > 4


def test_the_same_script_twice_is_the_same_episode(policy: Policy) -> None:
    first, second = play(policy, 9), play(policy, 9)
    assert first[0] == second[0] and first[2] == second[2]
    assert np.array_equal(first[1], second[1])


def test_the_next_episode_starts_from_where_the_arm_is(policy: Policy) -> None:
    stamp = policy.begin(1)
    home = policy.observe(stamp)
    stamp = policy.act(stamp, 0, move(x=0.05, gripper=CLOSED))
    policy.end()
    stamp = policy.begin(1)
    again = policy.observe(stamp)
    assert np.array_equal(home, again)
    policy.act(stamp, 0, move())
    target = policy.verdicts[-1].target.position
    assert np.allclose([target.x, target.y, target.z], again[:3], atol=1e-12)
    policy.end()
