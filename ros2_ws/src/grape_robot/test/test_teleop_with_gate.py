"""Teleoperation and the gate as two processes; this test plays the gamepad's driver, the arm and the policy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rclpy
import yaml
from control_msgs.action import ParallelGripperCommand
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import (
    ArmStatus,
    EpisodeIdentity,
    EpisodeOutcome,
    GateStatus,
    Heartbeat,
    OperatorStep,
    PolicyStep,
)
from rclpy.action import ActionServer
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Joy

from grape_episode import topics
from grape_episode.ros import COMMAND, EVENT, JOINTS, LATCHED, robot_state
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.testing import DRIVER_RATE, RecordedJoy

pytestmark = [pytest.mark.ros, pytest.mark.alone]

DATA = Path(__file__).parent / "data"
PARAMS = Path(__file__).parents[4] / "launch" / "params"
WITHIN = 0.1
DEAD_MAN, HAND_BACK = 9, 1
REST, AHEAD = (0.0,) * 6, (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
UNSEEN = {"watch_joints": False, "watch_wrench": False, "watch_robot_mode": False, "controller": ""}
"""What this test's arm does not tell."""
PATIENT = {"hold_margin": 4.0, "stop_margin": 5.0, "heartbeat_timeout": 4.0, "age_margin": 3.0, "state_timeout": 3.0}
"""A busy machine may starve this test's policy and arm, whose silence is not what is tested."""


@dataclass
class Bench:
    """``said``: (when, topic's message) in order of arrival; the arm is where its target is."""

    node: Node
    said: list[tuple[float, object]] = field(default_factory=list)
    episode: str = ""
    step: int = 0
    x: float = 0.45

    def __post_init__(self) -> None:
        pub = self.node.create_publisher
        self._joy = pub(Joy, topics.JOY, JOINTS)
        self._pose = pub(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        self._identity = pub(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = pub(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._heartbeat = pub(Heartbeat, topics.HEARTBEAT, EVENT)
        self._step = pub(PolicyStep, topics.POLICY_STEP, EVENT)
        for kind, topic, qos in (
            (ArmStatus, topics.ARM_STATUS, EVENT),
            (GateStatus, topics.GATE_STATUS, EVENT),
            (OperatorStep, topics.OPERATOR_STEP, EVENT),
            (PoseStamped, topics.TARGET_POSE, COMMAND),
        ):
            self.node.create_subscription(kind, topic, self._hear, qos)
        self._grip = ActionServer(self.node, ParallelGripperCommand, topics.GRIPPER_ACTION, self._gripped)
        self.node.create_timer(0.01, self._measure)
        self.node.create_timer(0.05, self._beat)
        self.node.create_timer(0.2, self._act)

    def _gripped(self, handle) -> ParallelGripperCommand.Result:
        handle.succeed()
        return ParallelGripperCommand.Result()

    def _hear(self, message: object) -> None:
        self.said.append((time.monotonic(), message))
        if isinstance(message, PoseStamped):
            self.x = message.pose.position.x

    def _measure(self) -> None:
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        message.pose.position.x, message.pose.position.z = self.x, 0.25
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        self._pose.publish(message)

    def _beat(self) -> None:
        if self.episode:
            self._heartbeat.publish(Heartbeat(source="policy", episode_id=self.episode))

    def _act(self) -> None:
        """A policy that creeps back and never stops sending, whoever drives."""
        if not self.episode:
            return
        message = PolicyStep(episode_id=self.episode, step=self.step, rotation="euler_xyz")
        message.action = [-0.004, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        message.header.stamp, message.header.frame_id = self.node.get_clock().now().to_msg(), topics.BASE_FRAME
        self._step.publish(message)
        self.step += 1

    # for the test's thread

    def say(self, axes: tuple[float, ...], *down: int) -> float:
        sent = time.monotonic()
        self._joy.publish(Joy(axes=list(axes), buttons=[int(number in down) for number in range(15)]))
        return sent

    def keep(self, axes: tuple[float, ...], *down: int, until: Callable[[], object], what: str) -> float:
        """The driver repeats a message until a condition; when it was sent first."""
        first = self.say(axes, *down)

        def again() -> object:
            self.say(axes, *down)
            return until()

        wait_for(again, what, poll=1 / DRIVER_RATE)
        return first

    def every(self, kind: type, since: float = 0.0) -> list[tuple[float, object]]:
        return [(at, message) for at, message in list(self.said) if isinstance(message, kind) and at >= since]

    def last(self, kind: type):
        return next((message for _, message in reversed(list(self.said)) if isinstance(message, kind)), None)

    def first(self, kind: type, since: float, condition: Callable) -> float | None:
        return next((at for at, message in self.every(kind, since) if condition(message)), None)

    def accepted(self, since: float) -> bool:
        return self.first(GateStatus, since, lambda m: m.verdict == GateStatus.ACCEPTED) is not None

    def begin(self) -> None:
        """An episode in which the policy moves the arm."""
        self.keep(REST, until=lambda: self.last(GateStatus), what="the gate")
        name = f"drive_{time.monotonic_ns()}"
        self._identity.publish(EpisodeIdentity(episode_id=name, control_period=0.2))
        armed = lambda: self.last(GateStatus).episode_id == name  # noqa: E731
        self.keep(REST, DEAD_MAN, until=armed, what="the gate to be armed")
        now, self.step, self.episode = time.monotonic(), 0, name
        self.keep(REST, DEAD_MAN, until=lambda: self.accepted(now), what="an accepted step")

    def end(self) -> None:
        name, self.episode = self.episode, ""
        self._outcome.publish(EpisodeOutcome(episode_id=name))
        self.keep(REST, until=lambda: self.last(GateStatus).episode_id == "", what="the gate to be idle")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    domain, folder = free_domain(), tmp_path_factory.mktemp("teleop")
    profile = {**yaml.safe_load((PARAMS / "gate_real.yaml").read_text()), **UNSEEN}
    profile |= {**PATIENT, "keep_out_links": False, "link_spheres": [], "name": "bench"}
    (folder / "gate.yaml").write_text(yaml.safe_dump(profile))
    context = rclpy.Context()
    context.init(domain_id=domain)
    made = Bench(rclpy.create_node("bench", context=context))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(made.node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    teleop = {"mapping": PARAMS / "teleop_gamepad.yaml", "operator_period": profile["operator_period"]}
    with (
        NodeProcess("grape_robot.gate_node", domain, folder / "gate.log", {"profile": folder / "gate.yaml"}),
        NodeProcess("grape_robot.teleop_node", domain, folder / "teleop.log", teleop),
    ):
        count = made.node.count_subscribers
        wait_for(lambda: count(topics.JOY) >= 2 and count(topics.OPERATOR_STEP) >= 2, "both to hear the gamepad")
        yield made
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


@pytest.fixture
def acting(bench: Bench) -> Iterator[Bench]:
    bench.begin()
    yield bench
    bench.end()


def test_a_person_takes_over_from_a_policy_that_goes_on_and_hands_back(acting: Bench) -> None:
    recorded, said = RecordedJoy(DATA / "joy_take_over.yaml"), []
    began = time.monotonic()
    while (now := time.monotonic() - began) < recorded.seconds:
        joy = recorded.at(now)
        down = [number for number, value in enumerate(joy.buttons) if value]
        # the hand stays on the dead-man's button
        said.append((acting.say(tuple(joy.axes), DEAD_MAN, *down), joy))
        time.sleep(1 / DRIVER_RATE)
    moved = next(at for at, joy in said if max(map(abs, joy.axes)) > 0.12)
    taken = acting.first(ArmStatus, moved, lambda m: m.authority == ArmStatus.OPERATOR)
    assert taken is not None and taken - moved < WITHIN
    pressed = next(at for at, joy in said if joy.buttons[HAND_BACK])
    given = acting.first(ArmStatus, pressed, lambda m: m.authority == ArmStatus.POLICY)
    assert given is not None and given - pressed < WITHIN
    between = [m for at, m in acting.every(GateStatus, taken) if at < pressed and m.verdict != GateStatus.NONE]
    assert between and all((m.verdict, m.check) == (GateStatus.VETOED, "operator") for m in between)
    places = [m.pose.position.x for at, m in acting.every(PoseStamped, taken) if at < pressed]
    assert places[-1] - places[0] > 0.04, "ahead, as the stick says; the policy would go back"
    acting.keep(REST, DEAD_MAN, until=lambda: acting.accepted(given), what="the policy to drive again")
    numbers = [m.step for _, m in acting.every(GateStatus, began) if m.verdict != GateStatus.NONE]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def held(message: GateStatus) -> bool:
    return message.state == GateStatus.HOLD and message.check == "dead_man"


def test_letting_the_dead_man_s_button_go_holds_and_holding_it_goes_on(acting: Bench) -> None:
    last = time.monotonic()
    holding = lambda: held(acting.last(GateStatus))  # noqa: E731
    released = acting.keep(REST, until=holding, what="the hold")
    hold = acting.first(GateStatus, last, held)
    assert hold is not None and hold - released < WITHIN
    acting.keep(REST, until=lambda: time.monotonic() > released + 1.0, what="a second without it")
    after = {m.pose.position.x for at, m in acting.every(PoseStamped, released + WITHIN)}
    assert len(after) <= 1, "the set point stands still"
    refused = [m for _, m in acting.every(GateStatus, hold) if m.verdict == GateStatus.VETOED]
    assert refused and {m.check for m in refused} == {"dead_man"}
    again = time.monotonic()
    acting.keep(REST, DEAD_MAN, until=lambda: acting.accepted(again), what="the policy to drive again")


def test_a_person_who_lets_go_while_driving_stands_still_too(acting: Bench) -> None:
    since = time.monotonic()
    moving = lambda: acting.first(PoseStamped, since + 0.3, lambda m: True) is not None  # noqa: E731
    acting.keep(AHEAD, DEAD_MAN, until=moving, what="the drive")
    released = acting.keep(AHEAD, until=lambda: held(acting.last(GateStatus)), what="the hold")
    hold = acting.first(GateStatus, released, held)
    assert hold is not None and hold - released < WITHIN
    acting.keep(REST, DEAD_MAN, HAND_BACK, until=lambda: acting.accepted(hold), what="the policy to drive again")


def test_a_gamepad_that_falls_silent_is_a_released_one(acting: Bench) -> None:
    timeout = yaml.safe_load((PARAMS / "gate_real.yaml").read_text())["dead_man"]["timeout"]
    last = acting.say(REST, DEAD_MAN)
    wait_for(lambda: held(acting.last(GateStatus)), "the hold")
    hold = acting.first(GateStatus, last, held)
    assert hold is not None and hold - last < timeout + WITHIN
    again = time.monotonic()
    acting.keep(REST, DEAD_MAN, until=lambda: acting.accepted(again), what="the policy to drive again")
