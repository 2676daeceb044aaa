"""A recorded episode scored again: ``ros2 launch grape replay.launch.py bag:=FOLDER [rate:=0] [objective:=safety]``.

The bag is played into a reward node, in a ROS domain of its own on this machine, and the score is printed. Nothing
here can move an arm: commands go under /grape/replay, there is no gate, and the replay ends where a robot, a gate or
a simulator is in its domain. `grape score BAG` gives the same score without topics."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from grape.replay_plan import ARGUMENTS, SCORE_SECONDS, replay_plan
from launch import LaunchDescription

SHARE = Path(get_package_share_directory("grape"))


class EndedError(Exception):
    """The replay did not end in a score; the launch ends with status 1."""


def actions(context):
    """The actions for the arguments' values; raises ReplayPlanError for what cannot be replayed."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    plan = replay_plan(values, SHARE, os.environ)
    common = {"output": "screen", "ros_arguments": ["--log-level", values["log_level"]]}
    reward, score, player = (
        Node(package=package, executable=executable, name=name, parameters=[plan.parameters[name]], **common)
        for package, executable, name in plan.nodes
    )
    return [
        *(SetEnvironmentVariable(name, value) for name, value in plan.environment.items()),
        reward,
        score,
        player,
        RegisterEventHandler(OnProcessExit(target_action=reward, on_exit=_ended("grape_reward ended"))),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=_played)),
        RegisterEventHandler(OnProcessExit(target_action=score, on_exit=_scored)),
    ]


def _ended(reason):
    def on_exit(event, context):
        if context.is_shutdown:
            return []
        raise EndedError(reason)

    return on_exit


def _played(event, context):
    if event.returncode != 0:
        return _ended("the bag was not played")(event, context)
    late = OpaqueFunction(function=lambda context: _ended(f"no score within {SCORE_SECONDS:g} s")(None, context))
    return [TimerAction(period=SCORE_SECONDS, actions=[late])]


def _scored(event, context):
    if event.returncode != 0:
        return _ended("grape_score ended")(event, context)
    return [EmitEvent(event=Shutdown(reason="scored"))]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(a.name, default_value=a.default, description=a.description, choices=a.choices or None)
        for a in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])
