"""The recovery node as a process; the test plays franka_ros2 with servers of the true types, gate and person."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers, SetHardwareComponentState, SwitchController
from franka_msgs.action import ErrorRecovery
from franka_msgs.msg import FrankaRobotState
from grape_interfaces.msg import GateStatus
from lifecycle_msgs.msg import State
from rclpy.action import ActionServer
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import EVENT
from grape_episode.testing import NodeProcess, free_domain, wait_for

pytestmark = pytest.mark.ros

DEADLINE = 2.0
CONTROLLERS = ("joint_state_broadcaster", "franka_robot_state_broadcaster", "cartesian_impedance_controller")
HEALTHY = dict.fromkeys((*CONTROLLERS, "robotiq_gripper_controller"), "active")


class Arm:
    """franka_ros2's servers: they note in which order they are called, and refuse where told to."""

    def __init__(self, domain: int) -> None:
        context = rclpy.Context()
        context.init(domain_id=domain)
        self.node = rclpy.create_node("ros2_control", context=context)
        manager = topics.CONTROLLER_MANAGER
        self.node.create_service(ListControllers, f"{manager}/list_controllers", self._list)
        self.node.create_service(SwitchController, f"{manager}/switch_controller", self._switch)
        self.node.create_service(SetHardwareComponentState, f"{manager}/set_hardware_component_state", self._hardware)
        self.action: ActionServer | None = None
        self.serve_action()
        self._state = self.node.create_publisher(FrankaRobotState, topics.ROBOT_STATE, EVENT)
        self._gate = self.node.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
        self.client = self.node.create_client(Trigger, topics.RECOVER_ROBOT)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.break_down()

    def serve_action(self) -> None:
        self.action = ActionServer(self.node, ErrorRecovery, topics.ERROR_RECOVERY, self._clear)

    def break_down(self) -> None:
        """As after a reflex: hardware unconfigured, its controllers inactive."""
        self.calls: list[Any] = []
        self.refusing = ""
        self.controllers = {**HEALTHY, **dict.fromkeys(CONTROLLERS, "inactive")}

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def _clear(self, handle) -> ErrorRecovery.Result:
        self.calls.append("error_recovery")
        if self.refusing == "error_recovery":
            handle.abort()
        else:
            handle.succeed()
        return ErrorRecovery.Result()

    def _hardware(
        self, request: SetHardwareComponentState.Request, response: SetHardwareComponentState.Response
    ) -> SetHardwareComponentState.Response:
        self.calls.append(("hardware", request.name, request.target_state.id, request.target_state.label))
        response.ok = self.refusing != "hardware"
        response.state = State(id=3, label="active") if response.ok else State(id=1, label="unconfigured")
        return response

    def _list(self, request: ListControllers.Request, response: ListControllers.Response) -> ListControllers.Response:
        self.calls.append("list")
        response.controller = [ControllerState(name=name, state=state) for name, state in self.controllers.items()]
        return response

    def _switch(
        self, request: SwitchController.Request, response: SwitchController.Response
    ) -> SwitchController.Response:
        assert request.strictness == SwitchController.Request.STRICT and not request.deactivate_controllers
        self.calls.append(("switch", *request.activate_controllers))
        response.ok = self.refusing != "switch"
        response.message = "" if response.ok else "interface fr3_joint1/effort is not available"
        return response

    def told(self, mode: int) -> None:
        """The robot's state, as the broadcaster sends it."""
        self._state.publish(FrankaRobotState(robot_mode=mode))

    def gate(self, state: int, episode: str = "e7") -> None:
        self._gate.publish(GateStatus(state=state, episode_id=episode))

    def recover(self) -> Trigger.Response:
        """A person's request, and its answer."""
        future = self.client.call_async(Trigger.Request())
        wait_for(future.done, "the recovery's answer")
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.context.try_shutdown()
        self._thread.join(5.0)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm]:
    domain = free_domain()
    process = NodeProcess(
        "grape_robot.recovery_node", domain, tmp_path_factory.mktemp("r") / "log", {"deadline": DEADLINE}
    )
    with process:
        arm = Arm(domain)
        wait_for(arm.client.service_is_ready, topics.RECOVER_ROBOT, 60.0)
        for publisher in (arm._state, arm._gate):
            wait_for(publisher.get_subscription_count, "the recovery node to listen")
        # a request that is sent before the node has discovered its sender is lost
        asked = [arm.client.call_async(Trigger.Request())]

        def answered() -> bool:
            if len(asked) < 5:
                asked.append(arm.client.call_async(Trigger.Request()))
            return asked[-1].done()

        wait_for(answered, "the first answer", poll=0.5)
        yield arm
        arm.close()
    assert process.process.returncode == 0, process.output


@pytest.fixture(autouse=True)
def broken(arm: Arm) -> None:
    arm.gate(GateStatus.STOPPED)
    arm.break_down()


def test_a_broken_down_arm_is_recovered_in_frankas_order(arm: Arm) -> None:
    answer = arm.recover()
    assert answer.success, answer.message
    assert arm.calls == [
        "error_recovery",
        ("hardware", "FrankaHardwareInterface", State.PRIMARY_STATE_ACTIVE, "active"),
        "list",
        ("switch", *CONTROLLERS),
    ]
    assert answer.message.startswith("recovered: error recovery; ")


def test_only_what_is_inactive_is_switched_and_a_healthy_arm_is_left_alone(arm: Arm) -> None:
    arm.controllers["joint_state_broadcaster"] = "active"
    assert arm.recover().success and arm.calls[-1] == ("switch", *CONTROLLERS[1:])
    arm.break_down()
    arm.controllers = dict(HEALTHY)
    wait_for(lambda: healthy(arm), "a recovery that clears nothing")
    assert [call if isinstance(call, str) else call[0] for call in arm.calls] == ["hardware", "list"]


def healthy(arm: Arm) -> bool:
    arm.calls.clear()
    arm.told(FrankaRobotState.ROBOT_MODE_MOVE)
    answer = arm.recover()
    assert answer.success, answer.message
    return "no error to clear" in answer.message and "every controller is active" in answer.message


@pytest.mark.parametrize(
    ("refusing", "calls", "text"),
    [
        ("error_recovery", 1, "error recovery failed: /action_server/error_recovery ended with status 6"),
        ("hardware", 2, "hardware FrankaHardwareInterface failed: "),
        ("switch", 4, "fr3_joint1/effort is not available"),
    ],
)
def test_the_first_failure_ends_it_and_is_named(arm: Arm, refusing: str, calls: int, text: str) -> None:
    wait_until_silent(arm)
    arm.refusing = refusing
    answer = arm.recover()
    assert not answer.success and text in answer.message and "nothing after it was tried" in answer.message
    assert len(arm.calls) == calls
    assert len(answer.message.splitlines()) == 1


def wait_until_silent(arm: Arm) -> None:
    """What the arm said a second ago counts no more; asked by what a recovery does."""

    def clears() -> bool:
        arm.break_down()
        arm.recover()
        return "error_recovery" in arm.calls

    wait_for(clears, "the arm's last word to age", poll=0.2)
    arm.break_down()


def test_a_pressed_user_stop_and_a_working_gate_are_refused_and_nothing_is_called(arm: Arm) -> None:
    answer = wait_for(lambda: refused(arm, "user stop"), "the refusal", poll=0.05)
    assert answer.message == "the arm is in user stop: release it first" and not answer.success
    wait_until_silent(arm)
    arm.gate(GateStatus.ACTIVE)
    answer = wait_for(lambda: refused(arm, "gate"), "the gate's refusal", poll=0.05)
    assert answer.message == "the gate is ACTIVE for episode 'e7': end that first"


def refused(arm: Arm, by: str) -> Trigger.Response | None:
    if by == "user stop":
        arm.told(FrankaRobotState.ROBOT_MODE_USER_STOPPED)
    else:
        arm.gate(GateStatus.ACTIVE)
    arm.calls.clear()
    answer = arm.recover()
    if answer.success:
        return None
    assert arm.calls == []
    return answer


def test_an_absent_server_fails_within_the_deadline(arm: Arm) -> None:
    wait_until_silent(arm)
    assert arm.action is not None
    arm.action.destroy()
    try:
        answer = arm.recover()
        assert not answer.success and arm.calls == []
        assert f"/action_server/error_recovery was not there within {DEADLINE:g} s" in answer.message
    finally:
        arm.serve_action()


def test_a_second_request_meanwhile_is_refused(arm: Arm) -> None:
    wait_until_silent(arm)
    assert arm.action is not None
    arm.action.destroy()
    try:
        first = arm.client.call_async(Trigger.Request())
        second = arm.client.call_async(Trigger.Request())
        wait_for(lambda: first.done() and second.done(), "both answers")
        messages = sorted(future.result().message for future in (first, second))
        assert "a recovery is under way" in messages and not any(f.result().success for f in (first, second))
    finally:
        arm.serve_action()


def test_wrong_parameters_are_one_line(tmp_path: Path) -> None:
    for index, (params, text) in enumerate(
        [({"profile": tmp_path / "none.yaml"}, "none.yaml"), ({"hardware": "['']", "controllers": "['']"}, "at least")]
    ):
        with NodeProcess("grape_robot.recovery_node", free_domain(), tmp_path / f"{index}.log", params) as process:
            assert process.wait(60.0) == 1
            (line,) = process.output.splitlines()
            assert line.startswith("grape_recovery: ") and text in line
