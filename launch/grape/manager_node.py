"""The lifecycle manager: waits until nodes answer, then brings the lifecycle nodes up in order.

As a class in the process of `grape up`; as a node of its own, which ends when all is up, under `ros2 launch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from grape_interfaces.srv import LoadAdapter
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rcl_interfaces.srv import GetParameters
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from grape.lifecycle import LifecycleError, bring_up
from grape_episode import topics

POLL = 0.05
PATIENCE = 1.0
Check = Callable[[], None]
"""Called while waiting; it raises to give up, e.g. because a process ended."""


class Manager:
    """Speaks to the nodes of one graph by service calls, each with a deadline. A ``lifecycle.Client``.

    ``node`` must not be in another executor."""

    def __init__(self, node: Node, deadline: float = 30.0, check: Check | None = None) -> None:
        self._node, self.deadline = node, deadline
        self._check: Check = check or (lambda: None)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)

    def await_ready(self, name: str, deadline: float | None = None) -> None:
        """Until ``name`` answers a parameter service, i.e. is built and spins. Raises LifecycleError."""
        seconds = self.deadline if deadline is None else deadline
        request = GetParameters.Request(names=["use_sim_time"])
        self._call(GetParameters, name, "get_parameters", request, seconds, "did not get ready")

    def state(self, node: str) -> int:
        return int(self._call(GetState, node, "get_state", GetState.Request(), self.deadline).current_state.id)

    def change(self, node: str, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        client = self._node.create_client(ChangeState, f"/{node.lstrip('/')}/change_state")
        try:
            # not to be asked twice. A node that answers a client made later has discovered this one, too
            self.state(node)
            return bool(self._ask(client, node, request, self.deadline, "change_state was not answered", False).success)
        finally:
            self._node.destroy_client(client)

    def load_adapter(self, folder: str) -> str:
        """The id of the adapter in ``folder``, which serves from now on. Raises LifecycleError with the reason."""
        request = LoadAdapter.Request(path=folder)
        answer = self._call(LoadAdapter, "", topics.LOAD_ADAPTER, request, self.deadline)
        if not answer.accepted:
            raise LifecycleError(topics.LOAD_ADAPTER, answer.reason)
        return str(answer.adapter.adapter_id)

    def close(self) -> None:
        self._executor.shutdown()

    def _call(self, kind: Any, node: str, service: str, request: Any, seconds: float, what: str = "") -> Any:
        client = self._node.create_client(kind, f"/{node.lstrip('/')}/{service}" if node else service)
        try:
            return self._ask(client, node or service, request, seconds, what or f"{service} was not answered")
        finally:
            self._node.destroy_client(client)

    def _ask(self, client: Any, who: str, request: Any, seconds: float, what: str, again: bool = True) -> Any:
        """An answer is lost when it is sent before its server has discovered the client, which ``service_is_ready``
        cannot see: ``again`` asks again after 1, 2, 4 ... seconds."""
        end = time.monotonic() + seconds
        futures: list[Any] = []
        due, patience = 0.0, PATIENCE
        while time.monotonic() < end:
            self._check()
            if (not futures or (again and time.monotonic() > due)) and client.service_is_ready():
                futures.append(client.call_async(request))
                due, patience = time.monotonic() + patience, 2 * patience
            self._executor.spin_once(timeout_sec=POLL)
            for future in futures:
                if future.done():
                    return future.result()
        raise LifecycleError(who, f"{what} within {seconds:g} s")


@contextmanager
def managing(domain: int, deadline: float, check: Check) -> Iterator[Manager]:
    """A manager in a ROS context of its own; signals stay with the process."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("grape_up", context=context, use_global_arguments=False, start_parameter_services=False)
    manager = Manager(node, deadline, check)
    try:
        yield manager
    finally:
        manager.close()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class ManagerNode(Node):
    """Parameters: ``node_names`` to wait for, ``lifecycle_names`` to bring up in that order, ``autostart``,
    ``adapter`` to load at last, ``deadline`` seconds for each answer."""

    def __init__(self) -> None:
        super().__init__("grape_manager")
        self.node_names = self._names("node_names", "Nodes to wait for, full names.")
        self.lifecycle_names = self._names("lifecycle_names", "Lifecycle nodes to bring up, in this order.")
        self.autostart = bool(self._declare("autostart", True, "Bring up at once; false: only wait."))
        self.adapter = str(self._declare("adapter", "", "Folder of an adapter to load after that; empty: none."))
        what = "Seconds for each answer of a node; a large model takes long to load."
        limits = FloatingPointRange(from_value=1.0, to_value=3600.0)
        self.deadline = float(self._declare("deadline", 120.0, what, limits))

    def _declare(self, name: str, default: Any, description: str, limits: FloatingPointRange | None = None) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True)
        descriptor.floating_point_range = [limits] if limits else []
        return self.declare_parameter(name, default, descriptor).value

    def _names(self, name: str, description: str) -> list[str]:
        # an empty string stands for none: an empty list has no type in a parameter file
        return [text for text in self._declare(name, [""], description) or [] if text]


def manage(node: ManagerNode, manager: Manager) -> None:
    """Waits for the nodes, brings them up, loads the adapter. Raises LifecycleError."""
    say = node.get_logger().info
    for name in node.node_names:
        manager.await_ready(name)
        say(f"{name} is ready")
    if not node.autostart:
        say("autostart is off: lifecycle nodes stay as they are")
        return
    bring_up(manager, node.lifecycle_names)
    if node.adapter:
        adapter_id = manager.load_adapter(node.adapter)
        say(f"adapter {adapter_id} serves")
    say("all nodes are up")


def main(arguments: list[str] | None = None) -> int:
    """Brings up and ends: 0 when all nodes are up, 1 with one line on stderr when one is not."""
    rclpy.init(args=arguments)
    node = None
    try:
        node = ManagerNode()
        manage(node, Manager(node, node.deadline))
    except (LifecycleError, ParameterException) as error:
        print(f"grape_manager: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
