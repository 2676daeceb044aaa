"""A safety evaluation: ``ros2 launch grape safety_eval.launch.py suite:=safety [adapter:=A,B] [joy:=gamepad]``.

Brings up what bringup.launch.py does (all its arguments are taken here, too) and the evaluation's node. With an
operator's device the run begins when its button is pressed, and may be begun again; without one it begins as soon as
all is up, and the launch ends with it."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from grape.launch_plan import BRINGUP_ARGUMENTS, SAFETY_ARGUMENTS, safety_arguments
from launch import LaunchDescription

BRINGUP = Path(get_package_share_directory("grape")) / "launch" / "bringup.launch.py"


def actions(context):
    """Bringup with the arguments' values, read before the include declares its own of the same names."""
    arguments = [*SAFETY_ARGUMENTS, *BRINGUP_ARGUMENTS]
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}
    source = PythonLaunchDescriptionSource(str(BRINGUP))
    return [IncludeLaunchDescription(source, launch_arguments=safety_arguments(values).items())]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(a.name, default_value=a.default, description=a.description, choices=a.choices or None)
        for a in (*SAFETY_ARGUMENTS, *BRINGUP_ARGUMENTS)
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])
