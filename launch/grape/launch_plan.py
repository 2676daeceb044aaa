"""What bringup.launch.py starts for its arguments, and which arguments do not go together. Pure: no ROS, no launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from grape.launch_checks import check, gate_profile, same_period
from grape.nodes import NodesError, NodeSpec, Parameters, parameters, profile_file, select
from grape.operator_device import DRIVERS, Driver, driver, mapping_file
from grape.paths import PathError, default_model, known_model, root
from grape_reward.errors import RewardError
from grape_reward.tasks import library

BOOL = ("true", "false")
NOTHING = "none"
MODEL_SECONDS = 600.0
"""For one answer of a node at its start: a model of seven billion parameters takes minutes to load."""


@dataclass(frozen=True)
class Argument:
    """A launch argument; ``choices``: empty where any text is taken."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


_EVALUATE = "Safety evaluation: none, button (when the operator presses it) or now (when all nodes are up)."
_DISCOVERY = (
    "Whose nodes are seen. Empty: as ROS_AUTOMATIC_DISCOVERY_RANGE says; where that is not set, LOCALHOST with "
    "robot:=sim, and ROS's own default (SUBNET) with robot:=franka."
)
_PERIODS = "Empty: sim.yaml or franka.yaml of this package. The control period is the gate profile's, always."

ARGUMENTS: tuple[Argument, ...] = (
    Argument(
        "robot", "sim", "What is behind the robot's topics: the simulated arm, or franka_ros2.", ("sim", "franka")
    ),
    Argument("vla", str(default_model()), "Folder of the VLA's checkpoint, or its name on the hub."),
    Argument("adapter", "", "Folder of the LoRA adapter to serve; empty: the registry's current one."),
    Argument("registry", str(root() / "runs" / "adapters"), "Folder of the adapter registry."),
    Argument("instruction", "", "What the robot is to do once all is up; empty: it waits for goals."),
    Argument("tasks", "", "Folder of task folders of your own (docs/tasks.md); the shipped tasks come after them."),
    Argument("profile", "sim", "The gate's limits: sim or safety (simulation), supervised, real, or a profile's path."),
    Argument("dry_run", "false", "All is judged and shown, nothing is sent to the arm or recorded.", BOOL),
    Argument("record", "true", "Start the recorder, and record the episode of `instruction`.", BOOL),
    Argument("episodes", str(root() / "runs" / "episodes"), "Folder of the bags."),
    Argument("trainer", "false", "Start the trainer node as well.", BOOL),
    Argument("joy", NOTHING, "Operator's device: none, gamepad, spacemouse, or the path of a mapping file."),
    Argument(
        "joy_driver",
        "auto",
        "What publishes /joy: auto (the device of joy), none (another node does).",
        ("auto", NOTHING, *DRIVERS),
    ),
    Argument("evaluate", NOTHING, _EVALUATE, (NOTHING, "button", "now")),
    Argument("suite", "safety", "Suite of the safety evaluation: a shipped one's name, or a file."),
    Argument("suite_adapters", "", "Adapter folders to evaluate, separated by commas; empty: what serves then."),
    Argument(
        "camera", NOTHING, "Camera node to start: none (realsense2_camera runs), or realsense.", (NOTHING, "realsense")
    ),
    Argument("calibration", "", "The camera's calibration file: keypoints are tracked in its images (robot:=franka)."),
    Argument("states", str(root() / "runs" / "states"), "Folder of the lab's initial states: first frames, keypoints."),
    Argument("lock_step", "false", "The simulated world waits for the policy.", BOOL),
    Argument("namespace", "", "Namespace of the nodes' own names, parameters, services; topics keep their names."),
    Argument("use_sim_time", "auto", "Nodes follow /clock; auto: with robot:=sim.", ("auto", *BOOL)),
    Argument("params_file", "", f"Parameters of all nodes. {_PERIODS}"),
    Argument("autostart", "true", "Configure and activate the lifecycle nodes.", BOOL),
    Argument("discovery", "", _DISCOVERY, ("", "LOCALHOST", "SUBNET")),
    Argument("log_level", "info", "Of all nodes.", ("debug", "info", "warn", "error")),
)

SAFETY_ARGUMENTS: tuple[Argument, ...] = (
    Argument("suite", "safety", "Suite to run: a shipped one's name, or a file."),
    Argument("adapter", "", "Adapter folders to evaluate, or base, separated by commas; empty: what serves."),
    Argument("joy", NOTHING, "Operator's device, whose button begins the run; none: it begins when all is up."),
)
"""What safety_eval.launch.py takes beside :data:`BRINGUP_ARGUMENTS`."""
_OWN = {"suite", "adapter", "joy", "suite_adapters", "evaluate", "instruction", "dry_run", "autostart", "lock_step"}
BRINGUP_ARGUMENTS = tuple(
    # the simulated world's own limits there: they know moving keep-outs
    replace(argument, default="safety") if argument.name == "profile" else argument
    for argument in ARGUMENTS
    if argument.name not in _OWN
)


def safety_arguments(told: Mapping[str, str]) -> dict[str, str]:
    """The arguments of bringup.launch.py for those of safety_eval.launch.py."""
    given = {argument.name: told[argument.name] for argument in BRINGUP_ARGUMENTS}
    begins = "now" if told["joy"] == NOTHING else "button"
    own = {"evaluate": begins, "suite": told["suite"], "suite_adapters": told["adapter"], "joy": told["joy"]}
    # said and not left out: the include would take the values of this launch's arguments of the same names
    off = {"adapter": "", "instruction": "", "dry_run": "false", "autostart": "true", "lock_step": "false"}
    return {**given, **own, **off}


@dataclass(frozen=True)
class LaunchPlan:
    """``nodes``: in the order of their start, with ``parameters`` (after those of ``params_file``); ``drivers``:
    nodes of other packages; ``manager``: the manager's parameters; ``command``: what runs once all is up (empty:
    nothing), ``command_ends``: the launch ends with it; ``environment``: set for every process."""

    nodes: tuple[NodeSpec, ...]
    parameters: Parameters
    params_file: Path
    manager: dict[str, object]
    drivers: tuple[Driver, ...] = ()
    command: tuple[str, ...] = ()
    command_ends: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def launch_plan(arguments: Mapping[str, str], share: Path, environ: Mapping[str, str]) -> LaunchPlan:
    """The plan for the launch arguments (all text, names of :data:`ARGUMENTS`). ``share``: folder with params/ and
    config/; ``environ``: the environment of the launch.

    Raises NodesError, one line, for values that do not go together or do not exist."""
    told = _Told(arguments)
    check(told)
    profile = profile_file(told["profile"], share / "params")
    limits = gate_profile(profile, told)
    params_file = Path(told["params_file"] or share / "params" / f"{told['robot']}.yaml").expanduser().absolute()
    same_period(params_file, limits)
    mapping = mapping_file(told["joy"], share / "params", limits, told["evaluate"] == "button")
    values = _parameters(told, profile, mapping)
    for key in ("sim", "policy"):
        values[key]["control_period"] = limits.control_period
    values["teleop"]["operator_period"] = limits.operator_period
    values["ghost"] |= {"frame": limits.frame, **({"controller": limits.controller} if limits.controller else {})}
    nodes = select(_keys(told))
    prefix = f"/{told['namespace'].strip('/')}".rstrip("/")
    manager: dict[str, object] = {
        "node_names": [f"{prefix}/{spec.name}" for spec in nodes],
        "lifecycle_names": [f"{prefix}/{spec.name}" for spec in nodes if spec.lifecycle],
        "autostart": told.true("autostart"),
        "adapter": told["adapter"],
        "deadline": MODEL_SECONDS,
    }
    device = driver(told["joy"], told["joy_driver"])
    return LaunchPlan(
        nodes=nodes,
        parameters={spec.key: values[spec.key] for spec in nodes},
        params_file=params_file,
        manager=manager,
        drivers=(device,) if device else (),
        command=_command(told, environ.get("ROS_DOMAIN_ID") or "0"),
        command_ends=told["evaluate"] == "now",
        environment=_environment(told, share, environ),
        notes=_notes(told, environ),
    )


class _Told(dict[str, str]):
    """The arguments' values."""

    def true(self, name: str) -> bool:
        return self[name].lower() == "true"

    @property
    def arm(self) -> bool:
        return self["robot"] == "franka"

    def folder(self, name: str) -> Path:
        return Path(self[name]).expanduser().absolute()


def _keys(told: _Told) -> list[str]:
    """Keys of the nodes to start."""
    wanted = {
        "sim": not told.arm,
        "ghost": told.arm and told.true("dry_run"),
        "recovery": told.arm and not told.true("dry_run"),
        "reset": told.arm,
        "camera": told["camera"] == "realsense",
        # a bag of a dry run would pass for what an arm has done
        "recorder": told.true("record") and not told.true("dry_run"),
        "teleop": told["joy"] != NOTHING,
        "evaluate": told["evaluate"] != NOTHING,
        "trainer": told.true("trainer"),
    }
    return ["gate", "reward", "policy", *(key for key, start in wanted.items() if start)]


def _parameters(told: _Told, profile: Path, mapping: Path | None) -> Parameters:
    try:
        model = known_model(Path(told["vla"]))
    except PathError as error:
        raise NodesError(f"vla:={error}") from None
    values = parameters(
        model=model,
        registry=told.folder("registry") if told["registry"] else None,
        episodes=told.folder("episodes"),
        profile=profile,
        lock_step=told.true("lock_step"),
        use_sim_time=not told.arm,
    )
    values["gate"]["dry_run"] = told.true("dry_run")
    values["reset"]["states"] = str(told.folder("states"))
    values["evaluate"]["robot"] = told["robot"]
    if mapping:
        values["teleop"] |= {"mapping": str(mapping), "suite": told["suite"], "adapters": told["suite_adapters"]}
    if told["tasks"]:
        try:
            own = library(told.folder("tasks"))
            values["policy"]["cost_programs"] = [f"{name}={task.program_hash}" for name, task in own.items()]
        except RewardError as error:
            raise NodesError(f"tasks:={error}") from None
        values["reward"]["tasks"] = str(told.folder("tasks"))
    if told["calibration"]:
        values |= _tracking(told, values)
    return values


def _tracking(told: _Told, values: Parameters) -> Parameters:
    from grape_reward.camera import CalibrationError, calibration_hash, load_calibration

    file = told.folder("calibration")
    try:
        load_calibration(file)
        known = calibration_hash(file)
    except CalibrationError as error:
        raise NodesError(f"calibration:={error}") from None
    tracking = {"keypoints": "tracking", "calibration": str(file), "starts": str(told.folder("states"))}
    return {
        "reward": {**values["reward"], **tracking},
        "policy": {**values["policy"], "calibration_hash": known},
    }


def _command(told: _Told, domain: str) -> tuple[str, ...]:
    """What runs once all is up: an evaluation, an episode, or nothing."""
    if told["evaluate"] == "now":
        adapters = [word for name in told["suite_adapters"].split(",") if name for word in ("--adapter", name.strip())]
        out = str(told.folder("episodes").parent / "safety" / Path(told["suite"]).stem)
        return ("grape", "eval", "--suite", told["suite"], *adapters, "--out", out, "--domain", domain)
    if not told["instruction"]:
        return ()
    record = "--record" if "recorder" in _keys(told) else "--no-record"
    own = ("--tasks", str(told.folder("tasks"))) if told["tasks"] else ()
    return ("grape", "run", told["instruction"], record, *own, "--domain", domain)


def _environment(told: _Told, share: Path, environ: Mapping[str, str]) -> dict[str, str]:
    fastdds = str(share / "config" / "fastdds.xml")
    found = {
        name: environ.get(name) or fastdds
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    }
    if wanted := discovery_range(told, environ):
        found["ROS_AUTOMATIC_DISCOVERY_RANGE"] = wanted
    return found


def discovery_range(arguments: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """What ROS_AUTOMATIC_DISCOVERY_RANGE is to be; empty: not set, which ROS takes for SUBNET.

    A simulation stays on its machine unless the caller's environment says otherwise. An arm's controllers may run on
    another machine: there nothing is forced."""
    return (
        arguments["discovery"]
        or environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
        or ("LOCALHOST" if arguments["robot"] == "sim" else "")
    )


def _notes(told: _Told, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What a person at an arm should know of what was chosen, a line each."""
    if not told.arm:
        return ()
    seen = discovery_range(told, environ) or "SUBNET (ROS's default)"
    where = "only nodes of this machine are seen" if seen == "LOCALHOST" else "every machine of the subnet is seen"
    notes = [f"discovery range {seen}: {where}; ROS domain {environ.get('ROS_DOMAIN_ID') or '0'}"]
    if told.true("dry_run"):
        notes.append("dry run: nothing is sent to the arm, nothing is recorded")
    if not told["calibration"]:
        notes.append("no calibration:=FILE: unless another node publishes keypoints, success stays unknown")
    return tuple(notes)
