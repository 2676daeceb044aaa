"""The launch files: everywhere what they describe; with ROS 2's own launch, where it is installed, what they do."""

import os
import re
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from grape.launch_plan import ARGUMENTS, SAFETY_ARGUMENTS
from grape.nodes import NODES, NodesError
from grape.up import StackConfig
from grape_episode.reader import read_episode
from grape_episode.synthetic import make_episode, write_episode
from grape_episode.testing import free_domain, wait_for
from grape_reward.score import score_episode

LAUNCH = Path(__file__).resolve().parents[1]
FOLDER = LAUNCH / "launch"
MODEL = LAUNCH.parent / "models" / "grape-mini"


# What the files import, for machines without ROS 2's launch: actions that remember how they were made. No model of
# launch: it shows what a file describes, and nothing of how launch would run it.


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


class PackageNotFoundError(LookupError):
    pass


def install_stand_ins(monkeypatch, share: Path, packages: set[str]) -> dict[str, type]:
    """Puts the modules in place until the test ends; the classes by name. ``packages``: those that are installed."""
    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": [
            "DeclareLaunchArgument",
            "EmitEvent",
            "ExecuteProcess",
            "IncludeLaunchDescription",
            "LogInfo",
            "OpaqueFunction",
            "RegisterEventHandler",
            "SetEnvironmentVariable",
            "TimerAction",
        ],
        "launch.event_handlers": ["OnProcessExit"],
        "launch.events": ["Shutdown"],
        "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
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

    def prefix(name):
        if name not in packages:
            raise PackageNotFoundError(name)
        return str(share)

    index = types.ModuleType("ament_index_python.packages")
    index.get_package_share_directory = lambda name: str(share)
    index.get_package_prefix = prefix
    index.PackageNotFoundError = PackageNotFoundError
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", index)
    return classes


class File:
    """One launch file as it describes itself."""

    def __init__(self, name, monkeypatch, packages=("joy", "spacenav")):
        self.classes = install_stand_ins(monkeypatch, LAUNCH, set(packages))
        self.content = runpy.run_path(str(FOLDER / f"{name}.launch.py"))
        self.entities = self.content["generate_launch_description"]().arguments[0]
        self.declared = {e.name: e.settings for e in self.entities if type(e) is self.classes["DeclareLaunchArgument"]}

    def actions(self, **changes):
        """Those for these values of the arguments, in their order."""
        values = {name: told["default_value"] for name, told in self.declared.items()}
        return self.entities[-1].settings["function"](values | changes)

    def of(self, kind, actions):
        return [action for action in actions if type(action) is self.classes[kind]]


@pytest.fixture
def bringup(monkeypatch):
    return File("bringup", monkeypatch)


def test_arguments_are_those_of_the_plan_and_documented(bringup):
    assert list(bringup.declared) == [argument.name for argument in ARGUMENTS]
    assert all(told["description"] for told in bringup.declared.values())
    assert bringup.declared["robot"]["choices"] == ("sim", "franka")


def test_it_starts_the_same_nodes_as_grape_up(bringup):
    nodes = {node.name: node.settings for node in bringup.of("Node", bringup.actions())}
    manager = nodes.pop("grape_manager")
    specs = {spec.key: spec for spec in NODES}
    wanted = [specs[key] for key in StackConfig.__dataclass_fields__["nodes"].default]
    assert sorted(nodes) == sorted(spec.name for spec in wanted)
    for spec in wanted:
        node = nodes[spec.name]
        assert (node["package"], node["executable"]) == (spec.package, spec.executable)
        assert node["respawn"] == spec.respawn
        assert node["parameters"][0] == str(LAUNCH / "params" / "sim.yaml")
    assert manager["parameters"][0]["lifecycle_names"] == ["/grape_policy"]


LAB = {"robot": "franka", "profile": "real", "joy": "gamepad"}


def test_what_may_not_come_back_ends_the_launch(bringup):
    actions = bringup.actions(**LAB)
    handlers = bringup.of("RegisterEventHandler", actions)
    watched = {handler.arguments[0].settings["target_action"].name for handler in handlers}
    assert watched == {"grape_gate", "grape_reset", "grape_policy", "grape_manager"}
    (gate,) = [h.arguments[0] for h in handlers if h.arguments[0].settings["target_action"].name == "grape_gate"]
    running, ending = types.SimpleNamespace(is_shutdown=False), types.SimpleNamespace(is_shutdown=True)
    with pytest.raises(Exception, match="grape_gate ended"):
        gate.settings["on_exit"](None, running)
    assert gate.settings["on_exit"](None, ending) == []


def test_the_operators_device_and_what_is_said_of_an_arm(bringup):
    actions = bringup.actions(**LAB)
    device = next(node.settings for node in bringup.of("Node", actions) if node.name == "joy")
    assert (device["package"], device["respawn"]) == ("joy", True)
    assert any("discovery range" in note.settings["msg"] for note in bringup.of("LogInfo", actions))


def test_a_device_whose_driver_is_not_installed(monkeypatch):
    bringup = File("bringup", monkeypatch, packages=())
    with pytest.raises(NodesError, match="joy:=gamepad needs the package joy: apt install ros-jazzy-joy, or"):
        bringup.actions(**LAB)
    assert bringup.actions(**LAB, joy_driver="none")


def managed(bringup, **changes):
    """What happens when the manager has ended, with the status given."""
    handler = bringup.of("RegisterEventHandler", bringup.actions(**changes))[-1].arguments[0]
    context = types.SimpleNamespace(is_shutdown=False)
    return lambda status: handler.settings["on_exit"](types.SimpleNamespace(returncode=status), context)


def test_the_instruction_runs_when_all_is_up_and_not_otherwise(bringup):
    on_exit = managed(bringup, instruction="put the carrot on the plate", record="false")
    (episode,) = on_exit(0)
    assert episode.settings["cmd"][:4] == ["grape", "run", "put the carrot on the plate", "--no-record"]
    with pytest.raises(Exception, match="the nodes did not come up"):
        on_exit(1)
    assert managed(bringup)(0) == []


def test_the_launch_ends_with_an_evaluation_that_begins_by_itself(bringup):
    ending, command = managed(bringup, evaluate="now")(0)
    assert command.settings["cmd"][:4] == ["grape", "eval", "--suite", "safety"]
    finished = ending.arguments[0].settings["on_exit"]
    context = types.SimpleNamespace(is_shutdown=False)
    (end,) = finished(types.SimpleNamespace(returncode=0), context)
    assert type(end) is bringup.classes["EmitEvent"]
    with pytest.raises(Exception, match="grape ended with status 1"):
        finished(types.SimpleNamespace(returncode=1, process_name="grape"), context)


def test_wrong_arguments_are_refused(bringup):
    with pytest.raises(NodesError, match="vla:=/no/such/model: no such model folder"):
        bringup.actions(vla="/no/such/model")


def test_the_environment_of_the_nodes(bringup, monkeypatch):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    actions = bringup.actions()
    found = dict(e.arguments for e in bringup.of("SetEnvironmentVariable", actions))
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert Path(found["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    # before the processes that it is for
    kinds = [type(action).__name__ for action in actions]
    assert kinds.index("Node") > max(i for i, kind in enumerate(kinds) if kind == "SetEnvironmentVariable")


def test_the_safety_evaluation_is_bringup_with_its_own_words(monkeypatch):
    safety = File("safety_eval", monkeypatch)
    assert {a.name for a in SAFETY_ARGUMENTS} | {"robot", "vla", "profile"} <= set(safety.declared)
    (include,) = safety.actions(suite="mine", adapter="a,b", joy="gamepad")
    assert include.arguments[0].arguments[0] == str(FOLDER / "bringup.launch.py")
    given = dict(include.settings["launch_arguments"])
    assert (given["suite"], given["suite_adapters"], given["evaluate"]) == ("mine", "a,b", "button")
    assert set(given) == {argument.name for argument in ARGUMENTS}


def test_a_replay_has_nothing_that_can_move_an_arm(monkeypatch, tmp_path):
    replay = File("replay", monkeypatch)
    bag = write_episode(make_episode(seed=1, steps=4), tmp_path / "bag")
    actions = replay.actions(bag=str(bag), rate="0", objective="safety")
    nodes = {node.name: node.settings for node in replay.of("Node", actions)}
    assert set(nodes) == {"grape_reward", "grape_score", "grape_replay"}
    assert nodes["grape_reward"]["parameters"][0]["objective"] == "safety"
    environment = dict(e.arguments for e in replay.of("SetEnvironmentVariable", actions))
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert environment["ROS_DOMAIN_ID"] != "0"


# ROS 2's own launch, in processes of its own: pytest has a module `launch` for this folder.


def ros_launch_missing() -> str:
    """Why the real launch cannot be used here; empty where it can. PyPI's `launch` is another package."""
    probe = "import launch.launch_service, launch_ros.actions"
    done = subprocess.run([sys.executable, "-c", probe], cwd="/", capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return f"ROS 2's launch is not installed ({done.stderr.strip().splitlines()[-1]}): it comes with ROS 2's binaries"


real = pytest.mark.skipif(bool(ros_launch_missing()), reason=ros_launch_missing())

# as `ros2 launch FILE NAME:=VALUE ...` does, which needs ros2cli
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *words = sys.argv[1:]
given = [tuple(word.split(":=", 1)) for word in words]
include = IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=given)
service = LaunchService(argv=words)
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""
# as `ros2 launch FILE --show-args` does
SHOW = """
import sys
from launch import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource

description = PythonLaunchDescriptionSource(sys.argv[1]).get_launch_description(LaunchContext())
for argument in description.get_launch_arguments():
    print(argument.name, argument.description, sep=": ")
"""


def launched(source, name, *words, folder, domain=None, deadline=240):
    """(exit status, stdout and stderr) of a launch file under ROS 2's own launch."""
    environment = {**os.environ, "ROS_LOG_DIR": str(folder / "ros"), "PYTHONUNBUFFERED": "1"}
    environment |= {"ROS_DOMAIN_ID": str(domain)} if domain else {}
    command = [sys.executable, "-c", source, str(FOLDER / f"{name}.launch.py"), *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=deadline
    )
    return done.returncode, done.stdout + done.stderr


@real
@pytest.mark.parametrize("name", ["bringup", "replay", "safety_eval"])
def test_arguments_are_shown_by_ros2_launch(name, tmp_path):
    status, told = launched(SHOW, name, folder=tmp_path)
    assert status == 0, told
    lines = told.strip().splitlines()
    assert len(lines) >= 7
    assert all(line.split(": ", 1)[1] for line in lines)


@real
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["robot:=franka"], "profile:=sim with robot:=franka"),
        (["robot:=franka", "profile:=real"], "profile:=real asks for a dead-man's button"),
        (["robot:=sim", "profile:=real", "joy:=gamepad"], "its clock is 'steady'"),
    ],
)
def test_ros2_launch_refuses_in_one_line_and_starts_nothing(words, text, tmp_path):
    status, told = launched(RUN, "bringup", *words, folder=tmp_path)
    assert status == 1
    (line,) = [line for line in told.splitlines() if "[ERROR]" in line]
    assert text in line
    assert "process started" not in told


@real
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ros
def test_ros2_launch_scores_a_replayed_bag(tmp_path):
    bag = write_episode(make_episode(seed=1), tmp_path / "bag")
    score = tmp_path / "score.json"
    words = [f"bag:={bag}", "rate:=0", "objective:=safety", f"out:={score}", f"domain:={free_domain()}"]
    status, told = launched(RUN, "replay", *words, folder=tmp_path)
    assert status == 0, told
    assert "objective safety" in told
    offline = score_episode(read_episode(bag), objective="safety")
    assert score.read_text().strip() == offline.to_json()


@real
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ros
def test_ros2_launch_runs_an_episode_and_ends_with_the_gate(tmp_path):
    """All is brought up in order, an episode is run and recorded; then the gate is killed, and the rest ends."""
    instruction = "put the carrot on the plate"
    words = [f"vla:={MODEL}", "registry:=", f"episodes:={tmp_path / 'bags'}", f"instruction:={instruction}"]
    command = [sys.executable, "-c", RUN, str(FOLDER / "bringup.launch.py"), *words]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(free_domain()), "ROS_LOG_DIR": str(tmp_path / "ros")}
    log = tmp_path / "launch.log"
    with log.open("w") as out:
        launch = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "[grape-" in log.read_text() and "bag " in log.read_text(), "the episode's end", 240.0)
        told = log.read_text()
        ready = [told.index(f"/{spec.name} is ready") for spec in NODES if f"/{spec.name} is ready" in told]
        assert len(ready) == 5
        assert ready == sorted(ready)
        assert list((tmp_path / "bags").glob("*/*.mcap"))
        pid = re.search(r"gate_node-\d+\]: process started with pid \[(\d+)\]", told)
        os.kill(int(pid.group(1)), signal.SIGKILL)
        assert launch.wait(60) == 1
        told = log.read_text()
        assert "grape_gate ended" in told
        assert told.count("gate_node-") and told.count("process started with pid") == 7  # nothing came back
    finally:
        launch.send_signal(signal.SIGINT)
        launch.wait(60)
