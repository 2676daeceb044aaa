"""The bridges over real topics."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from control_msgs.action import GripperCommand, ParallelGripperCommand
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from franka_msgs.msg import FrankaRobotState
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from grape_episode import topics
from grape_episode.ros import EVENT, robot_state, set_stamp
from grape_episode.testing import free_domain, wait_for
from grape_robot.ros import ControllerBridge, GripperBridge, RobotModeBridge

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    context = rclpy.Context()
    context.init(domain_id=free_domain())
    controller, gate = (rclpy.create_node(name, context=context) for name in ("controller", "gate"))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(controller)
    executor.add_node(gate)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield controller, gate
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


@pytest.mark.parametrize("kind", [GripperCommand, ParallelGripperCommand])
def test_the_gripper_bridge_speaks_the_type_of_the_server(nodes: tuple[Node, Node], kind: type) -> None:
    controller, gate = nodes
    name = f"/hand_{kind.__name__.lower()}/gripper_cmd"
    bridge = GripperBridge(gate, 12.0, name)
    assert bridge.server_type() is None
    answers: list[str] = []
    bridge.send(0.0, answers.append)
    assert bridge.busy and not answers
    goals: list = []

    def accept(goal) -> GoalResponse:
        goals.append(goal)
        return GoalResponse.ACCEPT if len(goals) == 1 else GoalResponse.REJECT

    def execute(handle):
        handle.succeed()
        return kind.Result()

    server = ActionServer(controller, kind, name, execute_callback=execute, goal_callback=accept)

    def answered(count: int) -> bool:
        bridge.poll()
        return len(answers) >= count

    wait_for(lambda: answered(1), "the first goal")
    assert bridge.server_type() == f"control_msgs/action/{kind.__name__}"
    bridge.send(1.0, answers.append)
    wait_for(lambda: answered(2), "the second goal")
    assert answers == ["", f"{name} refused the goal"]
    commands = [goal.command for goal in goals]
    if kind is GripperCommand:
        assert [c.position for c in commands] == [topics.KNUCKLE_CLOSED, 0.0]
        assert commands[0].max_effort == 12.0
    else:
        assert [list(c.position) for c in commands] == [[topics.KNUCKLE_CLOSED], [0.0]]
        assert list(commands[0].name) == [topics.KNUCKLE_JOINT] and list(commands[0].effort) == [12.0]
    server.destroy()


def test_giving_up_answers_once(nodes: tuple[Node, Node]) -> None:
    bridge = GripperBridge(nodes[1], 0.0, "/nobody/gripper_cmd")
    answers: list[str] = []
    bridge.send(1.0, answers.append)
    bridge.give_up("too late")
    bridge.give_up("again")
    assert answers == ["too late"] and not bridge.busy


@pytest.mark.parametrize("qos", [EVENT, robot_state(False)], ids=["reliable", "best effort"])
def test_the_mode_and_its_errors_are_heard_from_either_kind_of_sender(nodes: tuple[Node, Node], qos) -> None:
    arm, gate = nodes
    topic = f"/arm_{qos.depth}/robot_state"
    bridge = RobotModeBridge(gate, topic)
    assert bridge.last is None
    publisher = arm.create_publisher(FrankaRobotState, topic, qos)
    message = FrankaRobotState(robot_mode=FrankaRobotState.ROBOT_MODE_REFLEX)
    set_stamp(message.header.stamp, 7_000_000_001)
    message.current_errors.cartesian_reflex = message.current_errors.instability_detected = True
    before = time.monotonic()

    def heard():
        publisher.publish(message)
        return bridge.last

    last = wait_for(heard, "the arm's state", poll=0.05)
    assert (last.mode, last.stamp, last.stops) == (4, 7_000_000_001, True)
    assert last.line == "reflex: cartesian_reflex, instability_detected"
    assert before <= last.heard <= time.monotonic()


def test_a_controller_is_watched_without_waiting_for_the_manager(nodes: tuple[Node, Node]) -> None:
    manager, gate = nodes
    bridge = ControllerBridge(gate, "impedance", period=0.02, patience=0.2, manager="/cm")
    bridge.poll()
    assert bridge.active is None and bridge.line == "/cm/list_controllers has not answered"
    states = {"impedance": "active"}
    mute = threading.Event()

    def answer(request: ListControllers.Request, response: ListControllers.Response) -> ListControllers.Response:
        if mute.is_set():
            time.sleep(0.3)
        response.controller = [ControllerState(name=name, state=state) for name, state in states.items()]
        return response

    manager.create_service(ListControllers, "/cm/list_controllers", answer)

    def says(state: str) -> bool:
        bridge.poll()
        return bridge.state == state

    wait_for(lambda: says("active"), "an active controller")
    assert bridge.active is True
    states["impedance"] = "inactive"
    wait_for(lambda: says("inactive"), "an inactive controller")
    assert bridge.active is False and bridge.line == "controller impedance is inactive"
    states.clear()
    wait_for(lambda: says("not loaded"), "a controller that is gone")
    assert bridge.active is False
    # an answer that is late is dropped, and asked for anew: what was heard ages
    mute.set()
    begin = time.monotonic()
    wait_for(lambda: says("") or time.monotonic() > begin + 0.5, "half a second")
    assert bridge.heard is not None and bridge.heard < begin + 0.1
    states["impedance"] = "active"
    mute.clear()
    wait_for(lambda: says("active"), "the manager's return")
