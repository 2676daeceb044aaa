"""The nodes of GRAPE with one set of parameters: ``ros2 launch grape bringup.launch.py robot:=sim|franka ...``.

``ros2 launch grape bringup.launch.py --show-args`` explains the arguments; docs/launch.md has examples. What starts
for which arguments is said by grape.launch_plan, over the table of nodes in grape.nodes; where there is no
ros2 launch, `grape up` starts the simulated ones the same."""

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from grape.launch_plan import ARGUMENTS, launch_plan
from grape.nodes import NodesError
from launch import LaunchDescription

SHARE = Path(get_package_share_directory("grape"))
CLOSING_SECONDS = "30"
"""After SIGINT, before launch becomes rude: a bag is closed, an episode ended with its outcome."""


class EndedError(Exception):
    """A process ended without which the others make no sense; the launch ends with status 1."""


def actions(context):
    """The actions for the arguments' values; raises NodesError for a combination that cannot run."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    plan = launch_plan(values, SHARE, os.environ)
    common = {
        "output": "screen",
        "ros_arguments": ["--log-level", values["log_level"]],
        "sigterm_timeout": CLOSING_SECONDS,
    }
    started = [
        Node(
            package=spec.package,
            executable=spec.executable,
            name=spec.name,
            namespace=values["namespace"],
            parameters=[str(plan.params_file), plan.parameters[spec.key]],
            respawn=spec.respawn,
            respawn_delay=2.0,
            **common,
        )
        for spec in plan.nodes
    ]
    # a node that may not come back ends the launch: above all the gate, which nobody but a person starts again
    endings = [
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=_ended(spec.name)))
        for spec, node in zip(plan.nodes, started, strict=True)
        if not spec.respawn
    ]
    manager = Node(
        package="grape",
        executable="manager_node",
        name="grape_manager",
        namespace=values["namespace"],
        parameters=[plan.manager],
        **common,
    )
    return [
        *(SetEnvironmentVariable(name, value) for name, value in plan.environment.items()),
        *(LogInfo(msg=note) for note in plan.notes),
        *(_device(device, values, common) for device in plan.drivers),
        *started,
        *endings,
        manager,
        RegisterEventHandler(OnProcessExit(target_action=manager, on_exit=_managed(plan))),
    ]


def _device(device, values, common):
    """The node of another package that publishes /joy. It may come back: its silence counts as a released button."""
    try:
        get_package_prefix(device.package)
    except PackageNotFoundError:
        hint = f"apt install {device.apt}, or joy_driver:=none where another node publishes /joy"
        raise NodesError(f"joy:={values['joy']} needs the package {device.package}: {hint}") from None
    return Node(
        package=device.package,
        executable=device.executable,
        name=device.name,
        parameters=[dict(device.parameters)],
        remappings=list(device.remappings),
        respawn=True,
        respawn_delay=2.0,
        **common,
    )


def _managed(plan):
    """What happens when the manager has ended: the command, where there is one, or the end."""

    def on_exit(event, context):
        if event.returncode != 0:
            return _end(context, "the nodes did not come up")
        if not plan.command:
            return []
        command = ExecuteProcess(cmd=list(plan.command), output="screen")
        if not plan.command_ends:
            return [command]
        return [RegisterEventHandler(OnProcessExit(target_action=command, on_exit=_finished)), command]

    return on_exit


def _finished(event, context):
    if event.returncode != 0:
        return _end(context, f"{event.process_name} ended with status {event.returncode}")
    return [EmitEvent(event=Shutdown(reason="the safety evaluation is done"))]


def _ended(name):
    return lambda event, context: _end(context, f"{name} ended")


def _end(context, reason):
    """The end of the launch, with status 1 unless it is ending already."""
    if context.is_shutdown:
        return []
    raise EndedError(reason)


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(a.name, default_value=a.default, description=a.description, choices=a.choices or None)
        for a in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])
