"""Recovers the arm on a person's request, and never otherwise: `grape recover-robot`, or topics.RECOVER_ROBOT."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from controller_manager_msgs.srv import ListControllers, SetHardwareComponentState, SwitchController
from franka_msgs.action import ErrorRecovery
from grape_interfaces.msg import GateStatus
from lifecycle_msgs.msg import State
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import EVENT, declare, serve, until_signalled
from grape_robot import recovery
from grape_robot.profile import ProfileError, load_profile
from grape_robot.recovery import Recovery, RecoveryPlan, Stage
from grape_robot.ros import RobotModeBridge
from grape_robot.state import Mode

NAME = "grape_recovery"
TICK = 0.05
EXECUTOR_THREADS = 3


class RecoveryStartError(RuntimeError):
    """The node may not run like this; the text says why."""


class RecoveryNode(Node):
    """See the module. Raises RecoveryStartError or ProfileError when it may not start.

    A request waits in a thread of its own; all else, clients too, runs in the node's own callback group, one at a
    time."""

    def __init__(self) -> None:
        super().__init__(NAME)
        hardware = declare(self, "hardware", ["FrankaHardwareInterface"], "Hardware components to activate, in order.")
        controllers = declare(
            self,
            "controllers",
            ["joint_state_broadcaster", "franka_robot_state_broadcaster", "cartesian_impedance_controller"],
            "Controllers that are active on a healthy arm.",
        )
        profile = declare(self, "profile", "", "Gate profile whose controller is activated too; empty: none.")
        deadline = declare(self, "deadline", 15.0, "Seconds for each stage of a recovery.", (0.1, 120.0))
        extra = [load_profile(Path(profile)).controller] if profile else []
        wanted = dict.fromkeys(name for name in [*controllers, *extra] if name)
        if not hardware or not wanted:
            raise RecoveryStartError("parameters hardware and controllers: at least one name each is needed")
        self.plan = RecoveryPlan(tuple(hardware), tuple(wanted), deadline)
        self._mode = RobotModeBridge(self)
        self._gate: tuple[str, str, float | None] = "", "", None
        self._clear = ActionClient(self, ErrorRecovery, topics.ERROR_RECOVERY)
        manager = topics.CONTROLLER_MANAGER
        self._hardware = self.create_client(SetHardwareComponentState, f"{manager}/set_hardware_component_state")
        self._list = self.create_client(ListControllers, f"{manager}/list_controllers")
        self._switch = self.create_client(SwitchController, f"{manager}/switch_controller")
        self._lock = threading.Lock()
        self._recovery: Recovery | None = None
        self._asked: tuple[Stage, int] | None = None
        self._server = ""
        self._ended = threading.Event()
        self.create_subscription(GateStatus, topics.GATE_STATUS, self._on_gate, EVENT)
        self.create_timer(TICK, self._drive)
        self.create_service(Trigger, topics.RECOVER_ROBOT, self._on_recover, callback_group=ReentrantCallbackGroup())
        self.get_logger().info(f"would activate {', '.join(self.plan.hardware)}, then {', '.join(wanted)}")

    def leave(self) -> None:
        """A recovery under way is given up where it is."""
        self._ended.set()

    def _on_gate(self, message: GateStatus) -> None:
        self._gate = Mode(message.state).name, message.episode_id, time.monotonic()

    def _on_recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            mode, now = self._mode.last, time.monotonic()
            running = self._recovery is not None
            reason = recovery.UNDER_WAY if running else recovery.refusal(mode, *self._gate, now)
            if not reason:
                self._ended.clear()
                self._asked = None
                self._recovery = recovery.begin(mode, now)
        if reason:
            self.get_logger().warning(f"refused: {reason}")
            response.success, response.message = False, reason
            return response
        self._ended.wait()
        with self._lock:
            ended, self._recovery = self._recovery, None
        assert ended is not None
        response.success, response.message = ended.stage is Stage.DONE, ended.line
        if ended.stage is Stage.FAILED and mode is not None:
            response.message += f"; the arm's last word was {mode.line}"
        if response.success:
            self.get_logger().info(response.message)
        else:
            self.get_logger().error(response.message)
        return response

    # --- the stages, in the node's own callback group ---

    def _drive(self) -> None:
        current = self._recovery
        if current is None or self._ended.is_set():
            return
        if self._asked != (current.stage, current.component):
            self._ask(current)
        else:
            waits = f"{self._server} has not answered"
            self._proceed(recovery.overdue(self.plan, current, time.monotonic(), waits))

    def _ask(self, current: Recovery) -> None:
        if current.stage is Stage.CLEAR:
            self._server, ready = topics.ERROR_RECOVERY, self._clear.server_is_ready()
        else:
            client = {Stage.HARDWARE: self._hardware, Stage.LOOK: self._list, Stage.SWITCH: self._switch}[current.stage]
            self._server, ready = client.srv_name, client.service_is_ready()
        if not ready:
            waits = f"{self._server} was not there"
            self._proceed(recovery.overdue(self.plan, current, time.monotonic(), waits))
            return
        self._asked = current.stage, current.component
        self.get_logger().info(f"{recovery.asked(self.plan, current)} ...")
        if current.stage is Stage.CLEAR:
            self._then(self._clear.send_goal_async(ErrorRecovery.Goal()), self._accepted)
        elif current.stage is Stage.HARDWARE:
            target = State(id=State.PRIMARY_STATE_ACTIVE, label="active")
            name = self.plan.hardware[current.component]
            request = SetHardwareComponentState.Request(name=name, target_state=target)
            self._then(self._hardware.call_async(request), self._hardware_set)
        elif current.stage is Stage.LOOK:
            self._then(self._list.call_async(ListControllers.Request()), self._listed)
        else:
            switch = SwitchController.Request(activate_controllers=list(current.activate))
            switch.strictness = SwitchController.Request.STRICT
            seconds = int(self.plan.deadline)
            switch.timeout = Duration(sec=seconds, nanosec=int((self.plan.deadline - seconds) * 1e9))
            self._then(self._switch.call_async(switch), self._switched)

    def _then(self, future: Future, answered: Callable) -> None:
        """``answered`` with the result, unless what was asked is no longer what is waited for."""
        ticket = self._recovery, self._asked

        def take(done: Future) -> None:
            if self._recovery is not ticket[0] or self._asked != ticket[1] or self._ended.is_set():
                return
            if done.exception() is not None:
                self._fail(str(done.exception()))
            else:
                answered(done.result())

        future.add_done_callback(take)

    def _accepted(self, handle) -> None:
        if not handle.accepted:
            self._fail(f"{topics.ERROR_RECOVERY} refused the goal")
        else:
            self._then(handle.get_result_async(), self._cleared)

    def _cleared(self, answer) -> None:
        if answer.status == GoalStatus.STATUS_SUCCEEDED:
            self._succeed()
        else:
            self._fail(f"{topics.ERROR_RECOVERY} ended with status {answer.status}: is the user stop pressed?")

    def _hardware_set(self, answer: SetHardwareComponentState.Response) -> None:
        if answer.ok:
            self._succeed()
        else:
            self._fail(f"{self._server} refused, the component is {answer.state.label or 'not known to it'}")

    def _listed(self, answer: ListControllers.Response) -> None:
        self._succeed({controller.name: controller.state for controller in answer.controller})

    def _switched(self, answer: SwitchController.Response) -> None:
        if answer.ok:
            self._succeed()
        else:
            self._fail(f"{self._server} refused: {answer.message or 'it did not say why'}")

    def _succeed(self, controllers: dict[str, str] | None = None) -> None:
        assert self._recovery is not None
        self._proceed(recovery.succeed(self.plan, self._recovery, time.monotonic(), controllers))
        self._drive()

    def _fail(self, reason: str) -> None:
        assert self._recovery is not None
        self._proceed(recovery.fail(self.plan, self._recovery, reason))

    def _proceed(self, after: Recovery) -> None:
        self._recovery = after
        if after.ended:
            self._ended.set()


def main() -> int:
    """Runs the node; 0 when told to end, 1 with one line on stderr when it may not start."""
    ended = until_signalled()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = RecoveryNode()
    except (RecoveryStartError, ProfileError, ParameterException) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    return serve(node, EXECUTOR_THREADS, ended, node.leave)


if __name__ == "__main__":
    sys.exit(main())
