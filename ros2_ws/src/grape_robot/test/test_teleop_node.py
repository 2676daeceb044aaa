"""Teleoperation as a process, between recorded gamepad input and a stand-in for the gate, over real topics."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rclpy
from grape_interfaces.action import Evaluate
from grape_interfaces.msg import ArmStatus, GateStatus, OperatorStep
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import EVENT, JOINTS
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.testing import DRIVER_RATE, RecordedJoy

pytestmark = pytest.mark.ros

DATA = Path(__file__).parent / "data"
PARAMS = Path(__file__).parents[4] / "launch" / "params"
MODULE = "grape_robot.teleop_node"
WITHIN = 0.1


@dataclass
class Bench:
    """The driver, a gate that gives authority as its contract says, and the servers behind the buttons."""

    node: Node
    steps: list[tuple[float, OperatorStep]] = field(default_factory=list)
    authority: int = ArmStatus.POLICY
    authorities: list[tuple[float, int]] = field(default_factory=list)
    episode: str = ""
    goals: list[Evaluate.Goal] = field(default_factory=list)
    ends: int = 0
    process: NodeProcess | None = None
    finish: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        group = ReentrantCallbackGroup()
        self._joy = self.node.create_publisher(Joy, topics.JOY, JOINTS)
        self._arm = self.node.create_publisher(ArmStatus, topics.ARM_STATUS, EVENT)
        self._gate = self.node.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
        self.node.create_subscription(OperatorStep, topics.OPERATOR_STEP, self._on_step, EVENT)
        self.node.create_service(Trigger, topics.END_EPISODE, self._on_end)
        self.node.create_timer(0.1, self._status)
        ActionServer(
            self.node,
            Evaluate,
            topics.EVALUATE,
            self._run,
            callback_group=group,
            goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.REJECT,
        )

    def _status(self) -> None:
        self._arm.publish(ArmStatus(episode_id=self.episode, authority=self.authority))
        self._gate.publish(GateStatus(gripper=float("nan")))

    def _on_step(self, message: OperatorStep) -> None:
        self.steps.append((time.monotonic(), message))
        authority = ArmStatus.OPERATOR if message.kind == OperatorStep.MOVE else ArmStatus.POLICY
        if authority != self.authority:
            self.authority = authority
            self.authorities.append((time.monotonic(), authority))
            self._status()

    def _on_goal(self, goal: Evaluate.Goal) -> GoalResponse:
        self.goals.append(goal)
        return GoalResponse.ACCEPT

    def _run(self, handle) -> Evaluate.Result:
        self.finish.wait(60.0)
        handle.succeed()
        return Evaluate.Result(report="runs/safety/report.html")

    def _on_end(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.ends += 1
        response.success, response.message = True, "ended"
        return response

    def say(self, axes: tuple[float, ...], *down: int) -> float:
        """One message of the driver; when it was sent."""
        message = Joy(axes=list(axes), buttons=[int(number in down) for number in range(15)])
        sent = time.monotonic()
        self._joy.publish(message)
        return sent

    def play(self, name: str) -> list[tuple[float, tuple[float, ...], tuple[int, ...]]]:
        """The recording at the driver's rate; (when, axes, buttons) of every message."""
        recorded, said = RecordedJoy(DATA / name), []
        began = time.monotonic()
        while (now := time.monotonic() - began) < recorded.seconds:
            joy = recorded.at(now)
            down = [number for number, value in enumerate(joy.buttons) if value]
            said.append((self.say(tuple(joy.axes), *down), tuple(joy.axes), tuple(joy.buttons)))
            time.sleep(1 / DRIVER_RATE)
        return said

    def rest(self, seconds: float = 0.2) -> None:
        """The device at rest."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.say((0.0,) * 6)
            time.sleep(1 / DRIVER_RATE)

    def connect(self) -> None:
        wait_for(self._joy.get_subscription_count, f"teleop to hear {topics.JOY}")
        wait_for(lambda: self._arm.get_subscription_count() and self.node.count_publishers(topics.OPERATOR_STEP), "it")
        self.rest(0.3)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    domain, folder = free_domain(), tmp_path_factory.mktemp("teleop")
    context = rclpy.Context()
    context.init(domain_id=domain)
    made = Bench(rclpy.create_node("bench", context=context))
    executor = MultiThreadedExecutor(4, context=context)
    executor.add_node(made.node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    params = {"mapping": PARAMS / "teleop_gamepad.yaml", "operator_period": 0.05, "adapters": "runs/a, base"}
    with NodeProcess(MODULE, domain, folder / "teleop.log", params) as process:
        made.process = process
        made.connect()
        yield made
        made.finish.set()
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


def test_any_stick_movement_takes_over_within_a_tenth_of_a_second(bench: Bench) -> None:
    said = bench.play("joy_take_over.yaml")
    wait_for(lambda: len(bench.authorities) == 2, "the hand-back")
    beyond = next(at for at, axes, _ in said if max(map(abs, axes)) > 0.12)
    (taken, first), (given, second) = bench.authorities
    assert (first, second) == (ArmStatus.OPERATOR, ArmStatus.POLICY)
    assert taken - beyond < WITHIN
    pressed = next(at for at, _, buttons in said if buttons[1])
    assert given - pressed < WITHIN
    moves = [(at, step) for at, step in bench.steps if step.kind == OperatorStep.MOVE]
    at_rest = next(at for at, axes, _ in said if at > taken and max(map(abs, axes)) <= 0.12)
    assert moves[-1][0] < at_rest + WITHIN, "at rest nothing moves"
    numbers = [step.sequence for _, step in bench.steps]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for _, step in bench.steps:
        assert (step.source, step.header.frame_id, step.rotation) == ("teleop", topics.BASE_FRAME, "axis_angle")
        assert len(step.action) == 7
    assert 14 <= len(moves) <= 25, "a motion every 50 ms for one second"
    assert all(0 <= step.action[0] <= 0.1 * 0.05 + 1e-9 for _, step in moves)


def test_a_lost_device_is_a_released_one(bench: Bench) -> None:
    bench.rest()
    count = len(bench.steps)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        last = bench.say((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), 9)
        time.sleep(1 / DRIVER_RATE)
    wait_for(lambda: time.monotonic() - bench.steps[-1][0] > 1.0, "silence")
    assert count < len(bench.steps) and bench.steps[-1][0] < last + 0.3 + 0.1
    assert bench.steps[-1][1].kind == OperatorStep.MOVE, "nobody has handed back: the arm stays with the person"
    bench.rest()
    bench.say((0.0,) * 6, 1)
    wait_for(lambda: bench.authority == ArmStatus.POLICY, "the hand-back")


def test_the_evaluation_button_starts_one_run_however_it_is_pressed(bench: Bench) -> None:
    bench.rest()
    bench.episode = ""
    bench.play("joy_evaluate.yaml")
    bench.rest()
    wait_for(lambda: bench.goals, "the goal")
    assert len(bench.goals) == 1
    (goal,) = bench.goals
    assert (goal.suite, list(goal.adapters), goal.record) == ("safety", ["runs/a", "base"], True)
    output = bench.process.output
    assert output.count("no evaluation: one is running") == 1
    # the next press after the run starts another
    bench.finish.set()
    wait_for(lambda: "the evaluation has ended: runs/safety/report.html" in bench.process.output, "its end")

    def again() -> int:
        bench.say((0.0,) * 6, 6)
        return len(bench.goals) == 2

    wait_for(again, "the second run", poll=0.02)


def test_no_evaluation_begins_in_an_episode_or_while_a_person_drives(bench: Bench) -> None:
    bench.rest()
    before = len(bench.goals)
    said = "no evaluation: a person drives"
    bench.say((0.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    wait_for(lambda: bench.authority == ArmStatus.OPERATOR, "the take-over")
    bench.rest(0.3)

    def told() -> bool:
        bench.say((0.0,) * 6, 6)
        return said in bench.process.output

    wait_for(told, said, poll=0.02)
    bench.rest()
    bench.say((0.0,) * 6, 1)
    wait_for(lambda: bench.authority == ArmStatus.POLICY, "the hand-back")
    bench.episode, said = "carrot-7", "no evaluation: episode carrot-7 is running"
    bench.rest(0.3)
    wait_for(told, said, poll=0.02)
    assert len(bench.goals) == before


def test_the_end_button_asks_the_policy_to_end(bench: Bench) -> None:
    bench.rest()

    def ended() -> int:
        bench.say((0.0,) * 6, 4)
        return bench.ends

    wait_for(ended, "the end", poll=0.02)
    bench.rest()
    assert bench.ends == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "parameter mapping"), ("name: pad\n", "dead_band: missing")],
)
def test_a_mapping_that_is_none_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "pad.yaml"
    file.write_text(text)
    params = {"mapping": file} if text else {}
    with NodeProcess(MODULE, free_domain(), tmp_path / "log", params) as process:
        assert process.wait(60.0) == 1
        assert said in process.output and (not text or str(file) in process.output)
