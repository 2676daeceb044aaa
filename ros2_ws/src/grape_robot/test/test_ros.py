"""The bridges over real topics."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import rclpy
from control_msgs.action import GripperCommand, ParallelGripperCommand
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from grape_episode import topics
from grape_episode.testing import free_domain, wait_for
from grape_robot.ros import GripperBridge

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
