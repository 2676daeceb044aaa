"""The interfaces that PyPI lacks are the upstream ones on the wire: ROS's own hash over names, types and order of the
fields. The values are those of franka_ros2 3.4, ros2_control 4 (both Jazzy) and control_msgs 5; with ROS binaries the
real packages are held against them."""

import json
import os
from pathlib import Path

import pytest

HASHES = {
    "control_msgs/action/GripperCommand": "e17c0e644eccf14bea84a0a93e0977182872c2eb7873ca6694900059b46dbc84",
    "control_msgs/action/ParallelGripperCommand": "adfd3c1ebe8abc38ebcc0e454b6423d291d4010dd5697d14eca5b9be4726ae18",
    "franka_msgs/msg/FrankaRobotState": "fd225b337bab54d06047858c866442b98e3a882a4717cefc6ddd783fcbf17332",
    "franka_msgs/action/ErrorRecovery": "6c5dbf0517672f7127a92796e6a162d096e286c26f88c96177cb4c5448dfc5f5",
    "controller_manager_msgs/srv/ListControllers": "4f8e36bb1fa5afdeba45c2d56ae6a2097b1493a253f961dd6290c085033bd189",
    "controller_manager_msgs/srv/SwitchController": "d4ad10aa5da7808bc522d55d4123d8ef79de73d049d165639d7663ac37cc9895",
    "controller_manager_msgs/srv/SetHardwareComponentState": (
        "940b15846ed3e1fb561ab45edf77a992b811fd59c574f45d5205a84a0deb2f65"
    ),
}


@pytest.mark.parametrize(("name", "expected"), HASHES.items())
def test_the_interface_is_the_upstream_one(name: str, expected: str) -> None:
    package, kind, interface = name.split("/")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    files = [Path(prefix) / "share" / package / kind / f"{interface}.json" for prefix in prefixes if prefix]
    found = [file for file in files if file.is_file()]
    if not found:
        pytest.skip(f"{package} is not built here")
    hashes = json.loads(found[0].read_text())["type_hashes"]
    own = next(entry["hash_string"] for entry in hashes if entry["type_name"] == name)
    assert own == f"RIHS01_{expected}", f"{found[0]}: another definition of {name}"
