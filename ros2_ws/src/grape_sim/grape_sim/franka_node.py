"""The simulated arm's controller manager and error recovery, as ros2_control and franka_ros2 serve them, and its user
stop and reflex, by services.

A node and an executor of its own: a controller manager answers while the world is being reset."""

from __future__ import annotations

import contextlib
import threading
import time

from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers, SetHardwareComponentState, SwitchController
from franka_msgs.action import ErrorRecovery
from lifecycle_msgs.msg import State
from rclpy.action import ActionServer
from rclpy.action.server import ServerGoalHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import SetBool

from grape_episode import topics
from grape_sim.franka import CONTROLLERS, FrankaArm

USER_STOP = "/grape_sim/user_stop"
"""std_srvs/SetBool: the user stop is pressed (true) or released (false)."""
REFLEX = "/grape_sim/reflex"
"""std_srvs/SetBool: true: a reflex, as after a collision; only a recovery ends it."""
_STATES = {
    "unconfigured": State.PRIMARY_STATE_UNCONFIGURED,
    "inactive": State.PRIMARY_STATE_INACTIVE,
    "active": State.PRIMARY_STATE_ACTIVE,
}


class FrankaNode(Node):
    """See the module. ``arm`` is replaced as a whole, by this node's thread only; any thread may read it."""

    def __init__(self) -> None:
        super().__init__("controller_manager", use_global_arguments=False)
        self.arm = FrankaArm()
        manager = topics.CONTROLLER_MANAGER
        self.create_service(ListControllers, f"{manager}/list_controllers", self._on_list)
        self.create_service(SwitchController, f"{manager}/switch_controller", self._on_switch)
        self.create_service(SetHardwareComponentState, f"{manager}/set_hardware_component_state", self._on_hardware)
        self.create_service(SetBool, USER_STOP, self._on_user_stop)
        self.create_service(SetBool, REFLEX, self._on_reflex)
        self._action = ActionServer(self, ErrorRecovery, topics.ERROR_RECOVERY, self._on_recovery)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._spin, name="franka", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the node's thread."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self.destroy_node()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _become(self, arm: FrankaArm) -> None:
        before, self.arm = self.arm, arm
        if arm.line != before.line:
            self.get_logger().warning(f"the arm ignores targets: {arm.line}" if arm.line else "the arm follows targets")

    def _on_list(
        self, request: ListControllers.Request, response: ListControllers.Response
    ) -> ListControllers.Response:
        arm = self.arm
        response.controller = [
            ControllerState(name=name, type=kind, state="active" if name in arm.active else "inactive")
            for name, kind in CONTROLLERS.items()
        ]
        return response

    def _on_switch(
        self, request: SwitchController.Request, response: SwitchController.Response
    ) -> SwitchController.Response:
        strict = request.strictness != SwitchController.Request.BEST_EFFORT
        arm, response.message = self.arm.switch(request.activate_controllers, request.deactivate_controllers, strict)
        response.ok = not response.message
        self._become(arm)
        return response

    def _on_hardware(
        self, request: SetHardwareComponentState.Request, response: SetHardwareComponentState.Response
    ) -> SetHardwareComponentState.Response:
        labels = {number: label for label, number in _STATES.items()}
        wanted = labels.get(request.target_state.id, request.target_state.label)
        arm, reason = self.arm.set_hardware(request.name, wanted)
        if reason:
            self.get_logger().warning(f"{request.name} does not become {wanted}: {reason}")
        self._become(arm)
        response.ok = not reason
        response.state = State(id=_STATES[arm.hardware], label=arm.hardware)
        return response

    def _on_recovery(self, handle: ServerGoalHandle) -> ErrorRecovery.Result:
        arm, reason = self.arm.cleared()
        if reason:
            self.get_logger().warning(f"{topics.ERROR_RECOVERY}: {reason}")
            handle.abort()
        else:
            self._become(arm)
            handle.succeed()
        return ErrorRecovery.Result()

    def _on_user_stop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._become(self.arm.stopped(request.data, time.monotonic()))
        response.success, response.message = True, self.arm.line
        return response

    def _on_reflex(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._become(self.arm.tripped(time.monotonic()))
        response.success = request.data
        response.message = self.arm.line if request.data else "only a recovery ends a reflex"
        return response
