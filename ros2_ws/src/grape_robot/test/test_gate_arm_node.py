"""The gate as a process under profile ``real``, between a policy, a person and an arm that this test plays.

In real time; the profile's waits are lengthened where a busy machine would otherwise be part of the test."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from control_msgs.action import GripperCommand
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import PoseStamped, WrenchStamped
from grape_interfaces.msg import (
    ArmStatus,
    EpisodeIdentity,
    EpisodeOutcome,
    GateStatus,
    Heartbeat,
    OperatorStep,
    PolicyStep,
    StepCommit,
)
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import (
    CLOCK,
    EVENT,
    JOINTS,
    JOY,
    LATCHED,
    pose_from_msg,
    pose_to_msg,
    robot_state,
    set_stamp,
    stamp_ns,
)
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.arm_model import ArmModel

pytestmark = [pytest.mark.ros, pytest.mark.alone]

PARAMS = Path(__file__).parents[4] / "launch" / "params"
MODULE = "grape_robot.gate_node"
REST = (0.0, -0.4, 0.0, -2.45, 0.0, 2.05, 0.785)
HOME = ArmModel().forward(REST)
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
SLEW = 0.25
PATIENT = {"hold_margin": 3.0, "stop_margin": 4.0, "heartbeat_timeout": 3.0, "age_margin": 1.0, "ahead_margin": 0.5}
PATIENT |= {"state_timeout": 0.5, "controller_timeout": 3.0, "operator_timeout": 3.0, "reset_cooldown": 1.0}


@dataclass
class Rig:
    """Policy, person and arm in one node. What the arm and the person say is repeated at 50 Hz."""

    node: Node
    domain: int
    mode: int = 2
    force: float = 0.0
    held: bool = True
    joy: bool = True
    joints: bool = True
    controller: str = "active"
    episodes: int = 0
    episode: str = ""
    sequence: int = 0
    next_step: int = 0
    log: list = field(default_factory=list)

    def __post_init__(self) -> None:
        create = self.node.create_publisher
        self._pose = create(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        self._wrench = create(WrenchStamped, topics.WRENCH, robot_state(False))
        self._state = create(FrankaRobotState, topics.ROBOT_STATE, robot_state(False))
        self._joints = create(JointState, topics.JOINT_STATES, JOINTS)
        self._joy = create(Joy, topics.JOY, JOY)
        self._episode = create(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = create(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._heartbeat = create(Heartbeat, topics.HEARTBEAT, EVENT)
        self._step = create(PolicyStep, topics.POLICY_STEP, EVENT)
        self._operator = create(OperatorStep, topics.OPERATOR_STEP, EVENT)
        for kind, type_, topic, qos in (
            ("target", PoseStamped, topics.TARGET_POSE, EVENT),
            ("status", GateStatus, topics.GATE_STATUS, EVENT),
            ("arm", ArmStatus, topics.ARM_STATUS, EVENT),
            ("commit", StepCommit, topics.STEP_COMMIT, EVENT),
        ):
            self.node.create_subscription(type_, topic, lambda m, kind=kind: self.hear(kind, m), qos)
        self._gripper = ActionServer(
            self.node, GripperCommand, topics.GRIPPER_ACTION, execute_callback=self._grip, goal_callback=self._goal
        )
        service = f"{topics.CONTROLLER_MANAGER}/list_controllers"
        self.node.create_service(ListControllers, service, self._controllers)
        self._reset = self.node.create_client(Trigger, topics.RESET_GATE)
        self.node.create_timer(0.02, self._repeat)

    def hear(self, kind: str, message) -> None:
        self.log.append((kind, message, time.monotonic()))

    def _goal(self, goal) -> GoalResponse:
        self.hear("goal", goal.command.position)
        return GoalResponse.ACCEPT

    def _grip(self, handle) -> GripperCommand.Result:
        handle.succeed()
        return GripperCommand.Result()

    def _controllers(self, request, response):
        response.controller = [ControllerState(name="cartesian_impedance_controller", state=self.controller)]
        return response

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def _stamped(self, message, frame: str = topics.BASE_FRAME):
        set_stamp(message.header.stamp, self.now())
        message.header.frame_id = frame
        return message

    def _repeat(self) -> None:
        self._pose.publish(self._stamped(PoseStamped(pose=pose_to_msg(HOME))))
        wrench = self._stamped(WrenchStamped())
        wrench.wrench.force.z = self.force
        self._wrench.publish(wrench)
        self._state.publish(self._stamped(FrankaRobotState(robot_mode=self.mode)))
        if self.joints:
            self._joints.publish(self._stamped(JointState(name=list(topics.ARM_JOINTS), position=list(REST))))
        self.say_joy()
        self._heartbeat.publish(Heartbeat(source="policy", episode_id=self.episode))

    def say_joy(self) -> None:
        if self.joy:
            buttons = [0] * 12
            buttons[9] = int(self.held)
            self._joy.publish(self._stamped(Joy(axes=[0.0] * 6, buttons=buttons)))

    def every(self, kind: str) -> list:
        return [message for what, message, _ in list(self.log) if what == kind]

    def until(self, kind: str, condition: Callable, what: str):
        return wait_for(lambda: next((m for m in self.every(kind) if condition(m)), None), what)

    def begin(self) -> None:
        """A fresh episode under an arm that is well."""
        self.mode, self.force, self.held, self.joy, self.joints, self.controller = 2, 0.0, True, True, True, "active"
        self.episodes += 1
        self.episode, self.next_step = f"episode_{self.episodes}", 0
        well = lambda m: m.dead_man and m.robot_mode == 2 and m.controller_active and m.force == 0.0  # noqa: E731
        self.log.clear()
        self.until("arm", well, "the gate to sense the arm")
        self.cleared()
        self._episode.publish(EpisodeIdentity(episode_id=self.episode, control_period=0.2))
        armed = lambda m: m.state == GateStatus.ACTIVE and m.episode_id == self.episode  # noqa: E731
        self.until("status", armed, "the gate to be armed")
        self.log.clear()

    def end(self) -> None:
        self._outcome.publish(EpisodeOutcome(episode_id=self.episode))
        self.until("status", lambda m: m.state == GateStatus.IDLE, "the gate to be idle")

    def send(self, action=STILL, publisher=None) -> None:
        message = PolicyStep(episode_id=self.episode, step=self.next_step, action=list(action), rotation="axis_angle")
        self.next_step += 1
        (publisher or self._step).publish(self._stamped(message))

    def step(self, action=STILL) -> GateStatus:
        """Sends a step of the policy; its verdict."""
        index = self.next_step
        self.send(action)
        mine = lambda m: m.verdict != GateStatus.NONE and m.step == index and m.episode_id == self.episode  # noqa: E731
        return self.until("status", mine, f"the verdict on step {index}")

    def operate(self, action=STILL, kind: int = OperatorStep.MOVE, source: str = "teleop") -> GateStatus:
        """Sends a step of an operator; what the gate says of it."""
        self.sequence += 1
        said = f"{source} step {self.sequence} "
        message = OperatorStep(source=source, sequence=self.sequence, kind=kind, rotation="axis_angle")
        message.action = list(action)
        self._operator.publish(self._stamped(message))
        return self.until("status", lambda m: m.reason.startswith(said), f"the gate's word on {said}")

    def stopped(self, check: str) -> GateStatus:
        named = lambda m: m.state == GateStatus.STOPPED and m.check == check  # noqa: E731
        return self.until("status", named, f"the stop for {check}")

    def held_for(self, check: str) -> GateStatus:
        named = lambda m: m.state == GateStatus.HOLD and m.check == check  # noqa: E731
        return self.until("status", named, f"the hold for {check}")

    def arrived(self, x: float) -> None:
        self.until("target", lambda m: abs(m.pose.position.x - x) < 1e-6, f"the set point at x = {x:.3f} m")

    def reset_gate(self) -> Trigger.Response:
        future = self._reset.call_async(Trigger.Request())
        wait_for(future.done, topics.RESET_GATE)
        return future.result()

    def cleared(self) -> None:
        """Reset, once the gate lets it."""
        wait_for(lambda: self.reset_gate().success, "the reset")


@contextlib.contextmanager
def played(domain: int) -> Iterator[Rig]:
    context = rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node("rig", context=context)
    rig = Rig(node, domain)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield rig
    finally:
        executor.shutdown()
        context.try_shutdown()
        thread.join(5.0)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = yaml.safe_load((PARAMS / "gate_real.yaml").read_text())
    path = tmp_path_factory.mktemp("profile") / "gate_real.yaml"
    path.write_text(yaml.safe_dump({**data, **PATIENT}))
    return path


@pytest.fixture(scope="module")
def rig(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    domain = free_domain()
    log = tmp_path_factory.mktemp("gate") / "gate.log"
    with played(domain) as played_rig, NodeProcess(MODULE, domain, log, {"profile": profile}) as process:
        wait_for(lambda: played_rig.every("status"), "the gate's first status", 60.0)
        yield played_rig
        process.stop()
        assert process.process.returncode == 0


def bounded(targets: list) -> bool:
    """Whether no set point is farther from the one before than the slew's limits allow in the time between the two, and
    one slew period: the gate reads its clock for the stamp after the set point has moved."""
    for last, next_ in itertools.pairwise(targets):
        seconds = (stamp_ns(next_.header.stamp) - stamp_ns(last.header.stamp)) / 1e9 + 0.02
        a, b = pose_from_msg(last.pose), pose_from_msg(next_.pose)
        if a.distance(b) > SLEW * seconds + 1e-9 or a.angle(b) > 0.5 * seconds + 1e-6:
            return False
    return True


def test_the_set_point_is_streamed_in_bounded_steps(rig: Rig) -> None:
    rig.begin()
    began = PoseStamped(pose=pose_to_msg(HOME))
    set_stamp(began.header.stamp, rig.now())
    status = rig.step((0.04, 0.0, 0.02, 0.0, 0.0, 0.08, 1.0))
    assert status.verdict == GateStatus.ACCEPTED, status.reason
    rig.arrived(HOME.position[0] + 0.04)
    targets = rig.every("target")
    assert bounded([began, *targets]) and targets[-1].pose == status.target
    assert 1 < len({m.pose.position.x for m in targets}) <= 30  # ten a period
    status = rig.until("arm", lambda m: m.setpoint == targets[-1].pose, "the set point's status")
    assert status.authority == ArmStatus.POLICY and status.dead_man_required and not status.dry_run
    assert 0.0 < status.joint_margin < 1.0 and np.isnan(status.clearance)
    # it is repeated for as long as the episode lasts
    seen = len(rig.every("target"))
    wait_for(lambda: len(rig.every("target")) > seen + 5, "the set point to be repeated")
    rig.end()


def test_a_released_dead_mans_switch_holds_within_100_ms(rig: Rig) -> None:
    delays = []
    for _ in range(3):  # the fastest counts: the machine's other work is no part of it
        rig.begin()
        assert rig.step((0.04, *STILL[1:])).verdict == GateStatus.ACCEPTED
        rig.held = False
        released = rig.now()
        rig.say_joy()
        hold = rig.held_for("dead_man")
        delays.append((stamp_ns(hold.header.stamp) - released) / 1e9)
        rig.log.clear()
        vetoed = rig.step((0.04, *STILL[1:]))
        assert (vetoed.verdict, vetoed.check) == (GateStatus.VETOED, "dead_man")
        wait_for(lambda: len(rig.every("target")) > 5, "the set point to be repeated")
        (frozen,) = {m.pose.position.x for m in rig.every("target")}
        assert frozen < HOME.position[0] + 0.04 - 1e-3 or delays[-1] > 0.1
        rig.held = True
        rig.until("arm", lambda m: m.dead_man, "the button")
        wait_for(lambda: rig.step().verdict == GateStatus.ACCEPTED, "a step to be accepted again")
        assert bounded(rig.every("target"))
        rig.end()
    assert min(delays) < 0.1, delays


def test_lost_joy_messages_are_a_released_switch(rig: Rig) -> None:
    rig.begin()
    assert rig.step().verdict == GateStatus.ACCEPTED
    rig.joy = False
    assert "no Joy message for 0.1" in rig.held_for("dead_man").reason
    assert rig.step().check == "dead_man"
    rig.end()


def test_an_operator_takes_over_at_once_and_hands_back(rig: Rig) -> None:
    delays = []
    for _ in range(3):
        rig.begin()
        assert rig.step((0.04, *STILL[1:])).verdict == GateStatus.ACCEPTED
        pushed = rig.now()
        said = rig.operate((0.0, 0.02, 0.0, 0.0, 0.0, 0.0, 0.5))
        delays.append((stamp_ns(said.header.stamp) - pushed) / 1e9)
        assert said.verdict == GateStatus.NONE and said.reason.endswith("accepted")
        # of the policy's way, what was left is not gone; the person's own starts at the measured TCP
        rig.until("target", lambda m: abs(m.pose.position.y - 0.02 - HOME.position[1]) < 1e-6, "the person's motion")
        assert rig.every("target")[-1].pose.position.x == pytest.approx(HOME.position[0], abs=1e-6)
        rig.until("arm", lambda m: m.authority == ArmStatus.OPERATOR, "the operator's authority")
        refused = rig.step((0.04, *STILL[1:]))
        assert (refused.verdict, refused.check) == (GateStatus.VETOED, "operator")
        refused = rig.operate((0.2, *STILL[1:]))
        assert (refused.verdict, refused.check) == (GateStatus.NONE, "speed") and "refused" in refused.reason
        assert rig.operate(kind=OperatorStep.HAND_BACK).reason.endswith("handed back")
        assert rig.step((0.0, 0.0, 0.02, 0.0, 0.0, 0.0, 1.0)).verdict == GateStatus.ACCEPTED
        assert bounded(rig.every("target"))
        rig.end()
    assert min(delays) < 0.1, delays


def test_a_take_over_that_may_not_move_freezes_the_policys_way(rig: Rig) -> None:
    rig.begin()
    assert rig.step((0.045, *STILL[1:])).verdict == GateStatus.ACCEPTED
    assert rig.operate((0.2, *STILL[1:])).check == "speed"
    rig.until("arm", lambda m: m.authority == ArmStatus.OPERATOR, "the operator's authority")
    seen = len(rig.every("target"))
    wait_for(lambda: len(rig.every("target")) > seen + 15, "the set point to be repeated")
    assert len({m.pose.position.x for m in rig.every("target")[seen:]}) == 1
    rig.operate(kind=OperatorStep.HAND_BACK)
    rig.end()


def test_homing_moves_the_arm_without_an_episode(rig: Rig) -> None:
    rig.log.clear()
    for _ in range(2):
        assert rig.operate((0.0, 0.0, 0.02, 0.0, 0.0, 0.0, 0.5), source="homing").reason.endswith("accepted")
    higher = lambda m: m.pose.position.z > HOME.position[2] + 0.02  # noqa: E731
    wait_for(lambda: any(map(higher, rig.every("target")[-1:])), "the set point to rise")
    assert rig.operate(kind=OperatorStep.HAND_BACK, source="homing").reason.endswith("handed back")
    assert not rig.every("goal")
    assert rig.step().check == "episode"


def test_the_arms_own_faults_stop_and_are_reset_when_gone(rig: Rig) -> None:
    faults: dict[str, dict] = {
        "robot_mode": {"mode": 5},
        "wrench": {"force": 31.0},
        "controller": {"controller": "inactive"},
    }
    for check, change in faults.items():
        rig.begin()
        assert rig.step((0.04, *STILL[1:])).verdict == GateStatus.ACCEPTED
        rig.arrived(HOME.position[0] + 0.04)
        for name, value in change.items():
            setattr(rig, name, value)
        rig.stopped(check)
        # the arm is told to stay where it is, and then nothing more
        rig.until("target", lambda m: pose_from_msg(m.pose).distance(HOME) < 1e-9, "the target of the stop")
        told = len(rig.every("target"))
        assert rig.step().check == "stopped"
        refused = rig.reset_gate()
        assert not refused.success and "cool-down" in refused.message
        still = rf"{check}: the cause lasts"
        wait_for(lambda: "cool-down" not in rig.reset_gate().message, still)
        assert not rig.reset_gate().success
        assert len(rig.every("target")) == told
        rig.mode, rig.force, rig.controller = 2, 0.0, "active"
        rig.cleared()


def test_a_silent_arm_holds_then_stops(rig: Rig) -> None:
    rig.begin()
    assert rig.step().verdict == GateStatus.ACCEPTED
    rig.joints = False
    assert "measured joints" in rig.held_for("state").reason
    # no step is accepted any more: which of the two watchdogs is the first to stop is no matter
    stop = rig.until("status", lambda m: m.state == GateStatus.STOPPED, "the stop")
    assert stop.check in ("state", "timeout")


def test_a_second_publisher_of_steps_moves_nothing(rig: Rig) -> None:
    rig.begin()
    intruder = rclpy.create_node("intruder", context=rig.node.context)
    publisher = intruder.create_publisher(PolicyStep, topics.POLICY_STEP, EVENT)
    # what it says is heard as soon as it is matched; by then it must have been seen
    wait_for(lambda: publisher.get_subscription_count() >= 1, "the gate on the intruder's topic")
    rig.send((0.04, *STILL[1:]), publisher)
    stop = rig.stopped("foreign")
    assert topics.POLICY_STEP in stop.reason
    rig.until("status", lambda m: "/intruder" in m.reason, "its name")
    assert "/intruder" in rig.reset_gate().message
    assert not rig.every("target") and not any(m.verdict == GateStatus.ACCEPTED for m in rig.every("status"))
    intruder.destroy_node()
    rig.cleared()


def test_a_clock_that_appears_stops(rig: Rig) -> None:
    rig.begin()
    assert rig.step().verdict == GateStatus.ACCEPTED
    player = rclpy.create_node("player", context=rig.node.context)
    player.create_publisher(Clock, topics.CLOCK, CLOCK)
    rig.until("status", lambda m: m.check == "foreign" and "/player" in m.reason, "the fault")
    player.destroy_node()
    rig.cleared()


def test_a_dry_run_shows_everything_and_sends_nothing(profile: Path, tmp_path: Path) -> None:
    domain = free_domain()
    params = {"profile": profile, "dry_run": True}
    with played(domain) as rig, NodeProcess(MODULE, domain, tmp_path / "gate.log", params):
        wait_for(lambda: rig.every("status"), "the gate's first status", 60.0)
        rig.begin()
        status = rig.step((0.04, *STILL[1:-1], 0.0))
        assert status.verdict == GateStatus.ACCEPTED
        shown = rig.until("arm", lambda m: m.setpoint == status.target, "the set point in the status")
        assert shown.dry_run
        assert rig.node.count_publishers(topics.TARGET_POSE) == 0
        assert not rig.every("target") and not rig.every("goal")


def test_a_killed_gate_leaves_the_arm_at_its_last_small_step(profile: Path, tmp_path: Path) -> None:
    domain = free_domain()
    with played(domain) as rig, NodeProcess(MODULE, domain, tmp_path / "gate.log", {"profile": profile}) as process:
        wait_for(lambda: rig.every("status"), "the gate's first status", 60.0)
        rig.begin()
        wait_for(lambda: rig.step((0.048, *STILL[1:])).verdict == GateStatus.ACCEPTED, "an accepted step")
        wait_for(lambda: len(rig.every("target")) > 2, "the set point on its way")
        process.kill()
        heard = lambda: next((at for kind, _, at in reversed(rig.log) if kind == "target"), 0.0)  # noqa: E731
        wait_for(lambda: time.monotonic() - heard() > 0.5, "the gate's topics to be silent")
        # nobody else speaks to the controller: it keeps the last small step
        targets = rig.every("target")
        assert bounded(targets)
        assert rig.node.count_publishers(topics.TARGET_POSE) <= 1
        killed_at = pose_from_msg(targets[-1].pose).distance(HOME)
        assert killed_at < 0.048 - 1e-6, "the kill came after the motion: it says nothing"


def test_two_publishers_of_steps_at_the_start_are_refused_by_name(profile: Path, tmp_path: Path) -> None:
    domain = free_domain()
    context = rclpy.Context()
    context.init(domain_id=domain)
    try:
        nodes = [rclpy.create_node(name, context=context) for name in ("policy", "impostor")]
        for node in nodes:
            node.create_publisher(PolicyStep, topics.POLICY_STEP, EVENT)
        with NodeProcess(MODULE, domain, tmp_path / "gate.log", {"profile": profile}) as process:
            assert process.wait(60.0) == 1
    finally:
        context.try_shutdown()
    expected = f"grape_gate: {topics.POLICY_STEP} is published by /impostor, /policy: exactly one may be"
    assert process.output.splitlines()[-1] == expected
