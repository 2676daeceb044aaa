"""The nodes of GRAPE with one set of parameters: ``ros2 launch grape bringup.launch.py vla:=FOLDER``.

``ros2 launch grape bringup.launch.py --show-args`` explains the arguments. The table of nodes is grape.nodes; where
there is no ros2 launch, `grape up` starts the same."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
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

from grape.nodes import launch_nodes
from grape.paths import default_model, root
from launch import LaunchDescription

SHARE = Path(get_package_share_directory("grape"))
BOOL = ["true", "false"]


def argument(name, default, description, choices=None):
    return DeclareLaunchArgument(name, default_value=str(default), description=description, choices=choices)


ARGUMENTS = [
    argument("robot", "sim", "What is behind the robot's topics.", ["sim"]),
    argument("vla", default_model(), "Folder of the VLA's checkpoint, or its name on the hub."),
    argument("adapter", "", "Folder of the LoRA adapter to serve; empty: the registry's current one."),
    argument("registry", root() / "runs" / "adapters", "Folder of the adapter registry."),
    argument("instruction", "", "What the robot is to do once all is up; empty: it waits for goals."),
    argument("profile", "sim", "The gate's limits: sim, supervised, or the path of a profile."),
    argument("record", "true", "Start the recorder, and record the episode of `instruction`.", BOOL),
    argument("episodes", root() / "runs" / "episodes", "Folder of the bags."),
    argument("trainer", "false", "Start the trainer node as well.", BOOL),
    argument("lock_step", "false", "The simulated world waits for the policy.", BOOL),
    argument("namespace", "", "Namespace of the nodes' own names, parameters and services; topics keep their names."),
    argument("use_sim_time", "true", "Nodes other than the world follow /clock.", BOOL),
    argument("params_file", SHARE / "params" / "sim.yaml", "Parameters of all nodes."),
    argument("autostart", "true", "Configure and activate the lifecycle nodes.", BOOL),
    argument("log_level", "info", "Of all nodes: debug, info, warn, error."),
]


def nodes(context):
    """The actions for the arguments' values; raises NodesError for a combination that cannot run."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    plan = launch_nodes(values, SHARE / "params")
    common = {
        "namespace": values["namespace"],
        "output": "screen",
        "ros_arguments": ["--log-level", values["log_level"]],
    }
    started = [
        Node(
            package=spec.package,
            executable=spec.executable,
            name=spec.name,
            parameters=[values["params_file"], plan.parameters[spec.key]],
            respawn=spec.respawn,
            respawn_delay=2.0,
            **common,
        )
        for spec in plan.nodes
    ]
    # a node that may not come back ends the launch: the others make no sense without it
    endings = [
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=_end(f"{spec.name} ended")))
        for spec, node in zip(plan.nodes, started, strict=True)
        if not spec.respawn
    ]
    manager = Node(
        package="grape", executable="manager_node", name="grape_manager", parameters=[plan.manager], **common
    )

    def managed(event, _context):
        if event.returncode != 0:
            return _end("the nodes did not come up")
        return [ExecuteProcess(cmd=plan.episode, output="screen")] if plan.episode else []

    return [*started, *endings, manager, RegisterEventHandler(OnProcessExit(target_action=manager, on_exit=managed))]


def _end(reason):
    return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]


def generate_launch_description():
    profile = str(SHARE / "config" / "fastdds.xml")
    defaults = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
    }
    kept = [SetEnvironmentVariable(name, os.environ.get(name, value)) for name, value in defaults.items()]
    return LaunchDescription([*ARGUMENTS, *kept, OpaqueFunction(function=nodes)])
