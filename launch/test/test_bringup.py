"""bringup.launch.py: with ROS 2's own launch where it is installed, and everywhere what it describes."""

import importlib.util
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

from grape.nodes import NODES, NodesError
from grape.up import StackConfig

LAUNCH = Path(__file__).resolve().parents[1]
FILE = LAUNCH / "launch" / "bringup.launch.py"
NAV2 = {"namespace", "use_sim_time", "params_file", "autostart", "log_level"}
OURS = {"robot", "vla", "adapter", "instruction", "profile", "record"}


# What the file imports, for machines without ROS 2's launch: actions that remember how they were made. No model of
# launch: it shows what the file describes, and nothing of how launch would run it.


class Described:
    """An action, event or substitution: its kind and its arguments."""

    def __init__(self, *arguments, **settings):
        self.arguments, self.settings = arguments, settings

    @property
    def name(self):
        return self.settings.get("name") or self.arguments[0]


class LaunchConfiguration(Described):
    def perform(self, context: dict[str, str]) -> str:
        return context[self.arguments[0]]


def install_stand_ins(monkeypatch, share: Path) -> dict[str, type]:
    """Puts the modules in place until the test ends; the classes by name."""
    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": [
            "DeclareLaunchArgument",
            "EmitEvent",
            "ExecuteProcess",
            "LogInfo",
            "OpaqueFunction",
            "RegisterEventHandler",
            "SetEnvironmentVariable",
        ],
        "launch.event_handlers": ["OnProcessExit"],
        "launch.events": ["Shutdown"],
        "launch.substitutions": [],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
    }
    classes = {name: type(name, (Described,), {}) for listed in names.values() for name in listed}
    classes["LaunchConfiguration"] = LaunchConfiguration
    for module, listed in names.items():
        made = types.ModuleType(module)
        for name in [*listed, *(["LaunchConfiguration"] if module == "launch.substitutions" else [])]:
            setattr(made, name, classes[name])
        monkeypatch.setitem(sys.modules, module, made)
    packages = types.ModuleType("ament_index_python.packages")
    packages.get_package_share_directory = lambda name: str(share)
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", packages)
    return classes


@pytest.fixture
def described(monkeypatch):
    """(the file's globals, its LaunchDescription's entities, classes by name)."""
    classes = install_stand_ins(monkeypatch, LAUNCH)
    content = runpy.run_path(str(FILE))
    description = content["generate_launch_description"]()
    return content, description.arguments[0], classes


def values(content, **changes):
    found = {argument.name: argument.settings["default_value"] for argument in content["ARGUMENTS"]}
    return {**found, "vla": str(LAUNCH.parent / "models" / "grape-mini"), **changes}


def started(described, **changes):
    """The actions for these arguments, by kind."""
    content, entities, classes = described
    actions = entities[-1].settings["function"](values(content, **changes))
    by_kind = {name: [a for a in actions if type(a) is kind] for name, kind in classes.items()}
    return {spec.settings["name"]: spec for spec in by_kind["Node"]}, by_kind["RegisterEventHandler"]


def test_arguments_are_named_as_nav2s_and_documented(described):
    content, entities, classes = described
    arguments = [entity for entity in entities if type(entity) is classes["DeclareLaunchArgument"]]
    assert {argument.name for argument in arguments} >= NAV2 | OURS
    assert all(argument.settings["description"] for argument in arguments)
    assert [a.name for a in arguments] == [a.name for a in content["ARGUMENTS"]]


def test_it_starts_the_same_nodes_as_grape_up(described):
    nodes, _ = started(described)
    manager = nodes.pop("grape_manager")
    specs = {spec.key: spec for spec in NODES}
    wanted = [specs[key] for key in StackConfig.__dataclass_fields__["nodes"].default]
    assert sorted(nodes) == sorted(spec.name for spec in wanted)
    for spec in wanted:
        node = nodes[spec.name].settings
        assert (node["package"], node["executable"]) == (spec.package, spec.executable)
        assert node["respawn"] == spec.respawn
        assert node["parameters"][0] == str(LAUNCH / "params" / "sim.yaml")
    assert manager.settings["parameters"][0]["lifecycle_names"] == ["/grape_policy"]


def test_the_end_of_the_gate_ends_the_launch(described):
    _, handlers = started(described)
    watched = [handler.arguments[0].settings["target_action"].name for handler in handlers]
    assert {"grape_sim", "grape_gate", "grape_policy", "grape_manager"} == set(watched)


def test_the_instruction_runs_when_all_is_up_and_not_otherwise(described):
    _, handlers = started(described, instruction="put the carrot on the plate", record="false")
    ended = handlers[-1].arguments[0].settings["on_exit"]

    class Event:
        returncode = 0

    (episode,) = ended(Event(), None)
    assert episode.settings["cmd"][:4] == ["grape", "run", "put the carrot on the plate", "--no-record"]
    Event.returncode = 1
    assert [type(action).__name__ for action in ended(Event(), None)] == ["LogInfo", "EmitEvent"]


def test_wrong_arguments_are_refused(described):
    with pytest.raises(NodesError, match="vla:=/no/such/model: no such model folder"):
        started(described, vla="/no/such/model")


def test_the_environment_of_the_nodes(described, monkeypatch):
    content, _, classes = described
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    entities = content["generate_launch_description"]().arguments[0]
    found = dict(e.arguments for e in entities if type(e) is classes["SetEnvironmentVariable"])
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert Path(found["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def ros_launch_missing() -> str:
    """Why the real launch cannot be used here; empty where it can. PyPI's `launch` is another package."""
    for module in ("launch_ros", "launch"):
        if importlib.util.find_spec(module) is None:
            return f"ROS 2's {module} is not installed: it comes with the ROS 2 binaries only"
    return ""


REAL = """
import sys
from launch import LaunchContext
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch_ros.actions import Node

context = LaunchContext()
context.launch_configurations["vla"] = sys.argv[2]
names = []
for entity in get_launch_description_from_python_launch_file(sys.argv[1]).entities:
    for action in entity.visit(context) or []:
        if isinstance(action, Node):
            names.append(f"{action.node_package}/{action.node_executable}")
print(*names)
"""


@pytest.mark.skipif(bool(ros_launch_missing()), reason=ros_launch_missing())
def test_the_real_launch_reads_it(tmp_path):
    """In a process of its own: pytest has a module `launch` for this folder."""
    command = [sys.executable, "-c", REAL, str(FILE), str(LAUNCH)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = [f"{spec.package}/{spec.executable}" for spec in NODES if spec.key != "trainer"]
    assert done.stdout.split() == [*wanted, "grape/manager_node"]
