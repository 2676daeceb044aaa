"""The gate as a process, between a policy and a robot that this test plays. The test owns /clock: time is exact."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rclpy
from control_msgs.action import ParallelGripperCommand
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, GateStatus, Heartbeat, PolicyStep, StepCommit
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import CLOCK, COMMAND, EVENT, LATCHED, pose_from_msg, robot_state, set_stamp, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for

pytestmark = pytest.mark.ros

PARAMS = Path(__file__).parents[4] / "launch" / "params"
MODULE = "grape_robot.gate_node"
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
SECOND = 1_000_000_000
GATE = {"profile": PARAMS / "gate_sim.yaml", "use_sim_time": True}


@dataclass
class Bench:
    """Policy, robot and clock in one node."""

    node: Node
    domain: int
    now: int = 100 * SECOND
    episodes: int = 0
    episode: str = ""
    born: float = 0.0
    log: list = field(default_factory=list)  # (kind, message) in order of arrival

    def __post_init__(self) -> None:
        create = self.node.create_publisher
        self._clock = create(Clock, "/clock", CLOCK)
        self._pose = create(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        self._episode = create(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = create(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._heartbeat = create(Heartbeat, topics.HEARTBEAT, EVENT)
        self._step = create(PolicyStep, topics.POLICY_STEP, EVENT)
        for kind, type_, topic, qos in (
            ("target", PoseStamped, topics.TARGET_POSE, COMMAND),
            ("status", GateStatus, topics.GATE_STATUS, EVENT),
            ("commit", StepCommit, topics.STEP_COMMIT, EVENT),
        ):
            self.node.create_subscription(type_, topic, lambda m, kind=kind: self.log.append((kind, m)), qos)
        self._gripper = ActionServer(
            self.node,
            ParallelGripperCommand,
            topics.GRIPPER_ACTION,
            execute_callback=self._grip,
            goal_callback=self._goal,
        )
        self._reset = self.node.create_client(Trigger, topics.RESET_GATE)

    def _goal(self, goal: ParallelGripperCommand.Goal) -> GoalResponse:
        self.log.append(("goal", goal.command.position[0]))
        return GoalResponse.ACCEPT

    def _grip(self, handle) -> ParallelGripperCommand.Result:
        handle.succeed()
        return ParallelGripperCommand.Result()

    def every(self, kind: str) -> list:
        return [message for what, message in list(self.log) if what == kind]

    def until(self, kind: str, condition, what: str):
        return wait_for(lambda: next((m for m in self.every(kind) if condition(m)), None), what)

    def settle(self, seconds: float = 0.0) -> None:
        """Lets ``seconds`` pass, and waits until the gate has read the clock and a heartbeat and pose of now."""
        self.now += round(seconds * SECOND)
        clock = Clock()
        set_stamp(clock.clock, self.now)
        self._clock.publish(clock)
        self.until("status", lambda m: stamp_ns(m.header.stamp) >= self.now, "the gate to read the clock")

    def flow(self, seconds: float) -> None:
        """Lets ``seconds`` pass in steps of the slew's period, and waits for the set point of each."""
        for _ in range(round(seconds / 0.02)):
            self.now += SECOND // 50
            clock = Clock()
            set_stamp(clock.clock, self.now)
            self._clock.publish(clock)
            self.until("target", lambda m: stamp_ns(m.header.stamp) >= self.now, "a set point of now")

    def beat(self) -> None:
        self._heartbeat.publish(Heartbeat(source="policy", episode_id=self.episode))

    def pose(self, x: float = 0.45) -> None:
        message = PoseStamped()
        message.header.frame_id = topics.BASE_FRAME
        set_stamp(message.header.stamp, self.now)
        message.pose.position.x, message.pose.position.z = x, 0.25
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        self._pose.publish(message)

    def announce(self, control_period: float = 0.2) -> None:
        self.episodes += 1
        self.episode = f"episode_{self.episodes}"
        message = EpisodeIdentity(episode_id=self.episode, control_period=control_period)
        self._episode.publish(message)

    def begin(self) -> None:
        """A fresh episode, 10 s after the last."""
        self.settle(10.0)
        self.log.clear()
        self.announce()
        armed = lambda m: m.state == GateStatus.ACTIVE and m.episode_id == self.episode  # noqa: E731
        self.until("status", armed, "the gate to be armed")

    def step(self, index: int, action=STILL, fresh: bool = True, beat: bool = True, x: float = 0.45, **changes):
        """Sends a step on a world of now; returns the verdict's status."""
        if fresh:
            self.pose(x)
        if beat:
            self.beat()
        message = PolicyStep(episode_id=self.episode, step=index, action=list(action), rotation="euler_xyz")
        message.header.frame_id = changes.pop("frame", topics.BASE_FRAME)
        set_stamp(message.header.stamp, self.now + changes.pop("offset", 0))
        for name, value in changes.items():
            setattr(message, name, value)
        seen = len(self.every("commit"))
        self._step.publish(message)
        wait_for(lambda: len(self.every("commit")) > seen, f"the commit of step {index}")
        status = self.every("status")
        return next(m for m in reversed(status) if m.verdict != GateStatus.NONE)

    def end(self) -> None:
        self._outcome.publish(EpisodeOutcome(episode_id=self.episode))
        self.until("status", lambda m: m.state == GateStatus.IDLE, "the gate to be idle")

    def reset_gate(self) -> Trigger.Response:
        future = self._reset.call_async(Trigger.Request())
        wait_for(future.done, topics.RESET_GATE)
        return future.result()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    domain = free_domain()
    context = rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node("bench", context=context)
    rig = Bench(node, domain)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    log = tmp_path_factory.mktemp("gate") / "gate.log"
    with NodeProcess(MODULE, domain, log, GATE) as process:
        wait_for(lambda: rig.every("status"), "the gate's first status", 60.0)
        rig.born = time.monotonic()
        rig.settle()
        yield rig
        process.stop()
        assert process.process.returncode == 0
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


def test_an_accepted_step_is_sent_then_said_then_committed(bench: Bench) -> None:
    bench.begin()
    status = bench.step(0, (0.02, -0.01, 0.0, 0.0, 0.0, 0.1, 1.0))
    assert (status.verdict, status.check, status.state) == (GateStatus.ACCEPTED, "", GateStatus.ACTIVE)
    assert (status.target.position.x, status.target.position.y) == pytest.approx((0.47, -0.01))
    assert status.gripper == 1.0
    (commit,) = bench.every("commit")
    assert (commit.step, commit.verdict, stamp_ns(commit.header.stamp)) == (0, GateStatus.ACCEPTED, bench.now)
    (info,) = bench.node.get_publishers_info_by_topic(topics.TARGET_POSE)
    assert info.qos_profile.reliability is ReliabilityPolicy.RELIABLE and info.node_name == "grape_gate"
    assert bench.every("goal") == [0.0]
    kinds = [kind for kind, _ in bench.log]
    assert kinds.index("goal") < kinds.index("commit")
    bench.end()


def test_the_set_point_goes_there_in_bounded_steps_and_arrives_after_one_period(bench: Bench) -> None:
    bench.begin()
    status = bench.step(0, (0.04, -0.02, 0.0, 0.0, 0.0, 0.3, 1.0))
    bench.flow(0.1)
    halfway = bench.every("target")[-1].pose.position.x
    assert halfway == pytest.approx(0.47, abs=2e-3)
    bench.flow(0.12)
    targets = bench.every("target")
    assert targets[-1].pose == status.target
    assert {m.header.frame_id for m in targets} == {topics.BASE_FRAME}
    # from the measured TCP on, a slew period or two ahead of it
    assert 0.45 <= targets[0].pose.position.x <= 0.45 + 2 * 0.02 * 0.04 / 0.2 + 1e-9
    for last, next_ in itertools.pairwise(targets):
        seconds = (stamp_ns(next_.header.stamp) - stamp_ns(last.header.stamp)) / SECOND
        a, b = pose_from_msg(last.pose), pose_from_msg(next_.pose)
        # the gate's clock is read between the two stamps: at most one slew period counts
        assert a.distance(b) <= 0.5 * min(max(seconds, 0.0), 0.02) + 1e-9
        assert a.angle(b) <= 3.0 * min(max(seconds, 0.0), 0.02) + 1e-6
    bench.end()
    ended = len(bench.every("target"))
    bench.settle(0.1)
    assert len(bench.every("target")) == ended


def test_gripper_goals_go_out_on_change_only(bench: Bench) -> None:
    bench.begin()
    for index, gripper in enumerate((0.9, 1.0, 0.5, 0.1, 0.0, 0.55, 0.7)):
        if index:
            bench.settle(0.2)
        assert bench.step(index, (*STILL[:6], gripper)).verdict == GateStatus.ACCEPTED
    assert bench.every("goal") == [0.0, topics.KNUCKLE_CLOSED, 0.0]
    bench.end()


def test_the_reference_is_anchored_at_the_start_and_after_a_gap(bench: Bench) -> None:
    bench.begin()
    targets = [bench.step(0, (0.02, *STILL[1:]), x=0.40).target]
    bench.settle(0.2)
    targets.append(bench.step(1, (0.02, *STILL[1:]), x=0.41).target)
    bench.settle(0.2)
    targets.append(bench.step(2, (0.02, *STILL[1:]), x=0.35).target)
    assert [t.position.x for t in targets] == pytest.approx([0.42, 0.44, 0.37])
    bench.end()


VETOES = {
    "finite": {"action": (math.nan, *STILL[1:])},
    "rotation": {"rotation": "quaternion"},
    "frame": {"frame": "world"},
    "order": {"index": 5},
    "episode": {"episode_id": "another"},
    "age": {"offset": -SECOND},
    "speed": {"action": (0.08, *STILL[1:])},
    "box": {"action": (0.05, *STILL[1:]), "x": 0.74},
}


def test_every_veto_is_named_committed_and_sends_nothing(bench: Bench) -> None:
    for check, changes in VETOES.items():
        bench.begin()
        status = bench.step(**{"index": 0, **changes})
        assert (status.verdict, status.check) == (GateStatus.VETOED, check) and status.reason
        assert bench.every("commit")[-1].verdict == GateStatus.VETOED
        assert not bench.every("target") and not bench.every("goal")
        bench.end()
    bench.begin()
    bench.settle(1.0)
    status = bench.step(0, beat=False)
    assert (status.verdict, status.check) == (GateStatus.VETOED, "heartbeat")
    bench.end()
    bench.begin()
    bench.settle(1.0)
    status = bench.step(0, fresh=False)
    assert (status.verdict, status.check) == (GateStatus.VETOED, "state")
    assert not bench.every("target") and not bench.every("goal")
    bench.end()


def test_hold_stop_latch_and_reset(bench: Bench) -> None:
    bench.begin()
    bench.step(0, (0.02, *STILL[1:]))
    bench.settle(0.29)
    assert bench.every("status")[-1].state == GateStatus.ACTIVE
    bench.beat()
    bench.settle(0.03)
    held = bench.until("status", lambda m: m.state == GateStatus.HOLD, "the hold")
    assert held.check == "timeout" and "0.3" in held.reason
    assert bench.step(1).state == GateStatus.ACTIVE

    bench.settle(0.35)
    bench.pose()
    bench.settle(0.1)
    stopped = bench.until("status", lambda m: m.state == GateStatus.STOPPED, "the stop")
    assert stopped.check == "timeout"
    # the arm is told to stay where it is, not to travel on, and nothing else after that
    wait_for(lambda: bench.every("target")[-1].pose.position.x == 0.45, "the target of the stop")
    told = len(bench.every("target"))
    assert bench.step(2).check == "stopped"
    bench.announce()
    assert bench.step(0).check == "stopped"
    assert len(bench.every("target")) == told

    answer = bench.reset_gate()
    assert answer.success and "no step" in answer.message
    bench.log.clear()
    bench.until("status", lambda m: m.state == GateStatus.IDLE and not m.check, "the reset")
    bench.begin()
    assert bench.step(0).verdict == GateStatus.ACCEPTED
    bench.end()


def test_a_lost_heartbeat_holds_then_stops(bench: Bench) -> None:
    bench.begin()
    bench.step(0)
    for index in (1, 2):
        bench.settle(0.16)
        bench.step(index, beat=False)
    held = bench.until("status", lambda m: m.state == GateStatus.HOLD, "the hold")
    assert held.check == "heartbeat"
    bench.settle(0.16)
    stopped = bench.until("status", lambda m: m.state == GateStatus.STOPPED, "the stop")
    assert stopped.check == "heartbeat"
    assert bench.reset_gate().success


def test_an_episode_of_another_period_is_declined(bench: Bench) -> None:
    bench.log.clear()
    bench.announce(control_period=0.1)
    status = bench.until("status", lambda m: m.check == "episode", "the refusal")
    assert status.state == GateStatus.IDLE and "control_period 0.1" in status.reason
    assert bench.step(0).check == "episode"


def test_a_foreign_publisher_later_is_a_fault_that_names_it(bench: Bench) -> None:
    bench.begin()
    # within its first seconds the gate would leave instead
    wait_for(lambda: time.monotonic() > bench.born + 3.5, "the gate to be past its start")
    intruder = rclpy.create_node("intruder", context=bench.node.context)
    intruder.create_publisher(PoseStamped, topics.TARGET_POSE, 1)
    named = lambda m: m.check == "foreign" and "/intruder" in m.reason  # noqa: E731
    assert bench.until("status", named, "the fault").state == GateStatus.STOPPED
    answer = bench.reset_gate()
    assert not answer.success and "/intruder" in answer.message
    intruder.destroy_node()
    wait_for(lambda: bench.reset_gate().success, "the reset")


def test_a_foreign_publisher_at_the_start_is_refused_by_name(tmp_path: Path) -> None:
    domain = free_domain()
    context = rclpy.Context()
    context.init(domain_id=domain)
    try:
        intruder = rclpy.create_node("intruder", context=context)
        intruder.create_publisher(PoseStamped, topics.TARGET_POSE, 1)
        with NodeProcess(MODULE, domain, tmp_path / "gate.log", GATE) as process:
            assert process.wait(30.0) == 1
    finally:
        context.try_shutdown()
    expected = f"grape_gate: {topics.TARGET_POSE} is also published by /intruder: the gate must be the only one"
    assert process.output.splitlines()[-1] == expected


def test_a_second_gate_is_foreign_too(bench: Bench, tmp_path: Path) -> None:
    with NodeProcess(MODULE, bench.domain, tmp_path / "second.log", GATE) as second:
        assert second.wait(30.0) == 1
    line = second.output.splitlines()[-1]
    assert line.startswith(f"grape_gate: {topics.TARGET_POSE} is also published by /grape_gate")
    # where discovery was slow the first one has seen the second
    wait_for(lambda: bench.reset_gate().success, "the reset")


def test_what_cannot_start_says_so_in_one_line(bench: Bench, tmp_path: Path) -> None:
    wrong = {
        "parameter profile": {},
        "absent.yaml: No such file": {"profile": "absent.yaml"},
        "set use_sim_time:=true": {"profile": PARAMS / "gate_sim.yaml"},
        "use_sim_time must be false": {"profile": PARAMS / "gate_supervised.yaml", "use_sim_time": True},
        "/clock is published by /bench": {"profile": PARAMS / "gate_supervised.yaml"},
    }
    processes = [
        NodeProcess(MODULE, bench.domain, tmp_path / f"{index}.log", params)
        for index, params in enumerate(wrong.values())
    ]
    for text, process in zip(wrong, processes, strict=True):
        with process:
            assert process.wait() == 1
        lines = process.output.splitlines()
        assert len(lines) == 1 and lines[0].startswith("grape_gate: ") and text in lines[0], lines
