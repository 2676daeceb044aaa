from pathlib import Path

import pytest
import yaml

from grape.launch_plan import ARGUMENTS, BRINGUP_ARGUMENTS, SAFETY_ARGUMENTS, launch_plan, safety_arguments
from grape.nodes import NODES, NodesError

LAUNCH = Path(__file__).resolve().parents[1]
PARAMS = LAUNCH / "params"
NAV2 = {"namespace", "use_sim_time", "params_file", "autostart", "log_level"}
ISSUE = {"robot", "vla", "adapter", "instruction", "profile", "record"}
LAB = {"robot": "franka", "profile": "real", "joy": "gamepad"}


def values(**changes):
    defaults = {argument.name: argument.default for argument in ARGUMENTS}
    return {**defaults, "vla": str(LAUNCH.parent / "models" / "grape-mini"), **changes}


def plan_of(environ=None, **changes):
    return launch_plan(values(**changes), LAUNCH, environ or {})


def keys(plan):
    return [spec.key for spec in plan.nodes]


def changed_profile(folder, name, **changes):
    """A copy of a shipped profile with other values; its path."""
    data = yaml.safe_load((PARAMS / f"gate_{name}.yaml").read_text()) | changes
    file = folder / f"{name}_changed.yaml"
    file.write_text(yaml.safe_dump(data))
    return str(file)


def test_every_argument_is_documented_once():
    names = [argument.name for argument in ARGUMENTS]
    assert len(names) == len(set(names))
    assert set(names) >= NAV2 | ISSUE
    assert all(argument.description for argument in ARGUMENTS)
    assert all(argument.default in argument.choices for argument in ARGUMENTS if argument.choices)


def test_the_simulated_arm_by_default():
    plan = plan_of()
    assert keys(plan) == ["sim", "gate", "reward", "recorder", "policy"]
    assert plan.params_file == PARAMS / "sim.yaml"
    assert plan.parameters["gate"]["use_sim_time"] is True
    assert plan.parameters["sim"]["use_sim_time"] is False
    assert (plan.command, plan.drivers, plan.notes) == ((), (), ())


def test_a_franka_has_no_simulator_and_no_simulated_time():
    plan = plan_of(**LAB, camera="realsense", trainer="true", evaluate="button")
    assert keys(plan) == [spec.key for spec in NODES if spec.key not in ("sim", "ghost")]
    assert plan.params_file == PARAMS / "franka.yaml"
    assert not any(values["use_sim_time"] for values in plan.parameters.values())
    assert not any(values.get("lock_step") for values in plan.parameters.values())
    assert plan.parameters["gate"]["profile"] == str((PARAMS / "gate_real.yaml").resolve())


def test_a_franka_whose_camera_runs_elsewhere():
    assert "camera" not in keys(plan_of(**LAB))


def test_lifecycle_nodes_come_up_in_the_order_of_the_table_in_their_namespace():
    plan = plan_of(namespace="/lab/")
    assert plan.manager["node_names"] == [f"/lab/{spec.name}" for spec in plan.nodes]
    assert plan.manager["lifecycle_names"] == ["/lab/grape_policy"]


@pytest.mark.parametrize("period", [0.1, 0.25])
def test_the_control_period_is_the_gate_profiles(tmp_path, period):
    profile = changed_profile(tmp_path, "real", control_period=period)
    plan = plan_of(**LAB | {"profile": profile})
    assert plan.parameters["policy"]["control_period"] == period


def test_a_parameter_file_with_another_period_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**/grape_policy:\n  ros__parameters: {control_period: 0.1}\n")
    with pytest.raises(NodesError, match=r"mine.yaml: /\*\*/grape_policy has control_period 0.1 s, gate profile real"):
        plan_of(**LAB, params_file=str(file))


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "No such file"), ("- 1", "no parameter file"), ("a: [", "no YAML"), (b"\xff\xfe", "no YAML")],
)
def test_a_parameter_file_that_is_none(tmp_path, content, text):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NodesError, match=f"params_file:={file}: {text}"):
        plan_of(params_file=str(file))


def test_a_dry_run_sends_and_records_nothing():
    plan = plan_of(**LAB, dry_run="true", instruction="put it there")
    assert plan.parameters["gate"]["dry_run"] is True
    assert "recorder" not in keys(plan)
    assert "recovery" not in keys(plan)
    assert "--no-record" in plan.command
    assert "dry run: nothing is sent to the arm, nothing is recorded" in plan.notes
    # what stands in for an arm that is powered off has the gate's controller and frame
    limits = yaml.safe_load((PARAMS / "gate_real.yaml").read_text())
    assert plan.parameters["ghost"]["controller"] == limits["controller"]
    assert plan.parameters["ghost"]["frame"] == limits["frame"]
    assert "ghost" not in keys(plan_of(dry_run="true"))
    assert plan_of(**LAB).parameters["gate"]["dry_run"] is False


def test_the_first_episode():
    plan = plan_of({"ROS_DOMAIN_ID": "7"}, instruction="put it there")
    assert plan.command == ("grape", "run", "put it there", "--record", "--domain", "7")
    assert not plan.command_ends
    assert "--no-record" in plan_of(instruction="put it there", record="false").command


def test_the_first_evaluation():
    told = {"suite": "mine.yaml", "suite_adapters": "a, base", "episodes": "/data/episodes"}
    plan = plan_of({"ROS_DOMAIN_ID": "7"}, evaluate="now", **told)
    assert plan.command[:4] == ("grape", "eval", "--suite", "mine.yaml")
    assert plan.command[4:8] == ("--adapter", "a", "--adapter", "base")
    # where the evaluation's node writes when the operator's button begins it: beside the bags
    assert plan.command[8:] == ("--out", "/data/safety/mine", "--domain", "7")
    assert plan.parameters["evaluate"]["out"] == "/data/safety"
    assert plan.command_ends
    assert "evaluate" in keys(plan)


def test_an_operators_device_brings_its_driver_and_its_mapping():
    plan = plan_of(**LAB, suite="mine")
    (driver,) = plan.drivers
    assert (driver.package, driver.executable, driver.remappings) == ("joy", "game_controller_node", (("joy", "/joy"),))
    # slower would be taken for a released button
    limits = yaml.safe_load((PARAMS / "gate_real.yaml").read_text())
    assert 1.0 / driver.parameters["autorepeat_rate"] < limits["dead_man"]["timeout"] / 2
    assert plan.parameters["teleop"]["mapping"] == str((PARAMS / "teleop_gamepad.yaml").resolve())
    assert plan.parameters["teleop"]["suite"] == "mine"
    assert plan_of(**LAB, joy_driver="none").drivers == ()


def test_a_mapping_of_ones_own(tmp_path):
    own = tmp_path / "pad.yaml"
    own.write_text((PARAMS / "teleop_gamepad.yaml").read_text())
    plan = plan_of(**LAB | {"joy": str(own)})
    assert plan.parameters["teleop"]["mapping"] == str(own.resolve())
    assert plan.drivers[0].package == "joy"
    assert plan_of(**LAB | {"joy": str(own)}, joy_driver="spacemouse").drivers[0].package == "spacenav"


def test_a_button_that_the_gate_does_not_watch_is_refused(tmp_path):
    """The operator would hold one button and the gate would look at another."""
    button = yaml.safe_load((PARAMS / "gate_real.yaml").read_text())["dead_man"]
    profile = changed_profile(tmp_path, "real", dead_man=button | {"button": button["button"] + 1})
    with pytest.raises(NodesError, match="dead-man"):
        plan_of(**LAB | {"profile": profile})


@pytest.fixture
def calibration(tmp_path):
    from grape_episode.geometry import Pose
    from grape_reward.camera import Calibration

    pose = Pose([1.0, 0.0, 0.6], [0.0, 1.0, 0.0, 0.0])
    file = tmp_path / "front.yaml"
    return file, Calibration(640, 480, 600.0, 600.0, 320.0, 240.0, pose).save(file)


def test_with_a_calibration_keypoints_are_tracked(calibration, tmp_path):
    file, known = calibration
    plan = plan_of(**LAB, calibration=str(file), states=str(tmp_path / "states"))
    reward = plan.parameters["reward"]
    assert (reward["keypoints"], reward["calibration"]) == ("tracking", str(file))
    assert reward["starts"] == plan.parameters["reset"]["states"] == str(tmp_path / "states")
    assert plan.parameters["policy"]["calibration_hash"] == known
    assert not any("calibration" in note for note in plan.notes)
    assert any("success stays unknown" in note for note in plan_of(**LAB).notes)


def test_tasks_of_ones_own():
    from grape_reward.tasks import SHIPPED

    plan = plan_of(tasks=str(SHIPPED), instruction="put it there")
    assert plan.parameters["reward"]["tasks"] == str(SHIPPED)
    assert plan.parameters["policy"]["cost_programs"] == plan_of().parameters["policy"]["cost_programs"]
    assert plan.command[plan.command.index("--tasks") + 1] == str(SHIPPED)
    with pytest.raises(NodesError, match=r"tasks:=/no/such: holds no task\.yaml"):
        plan_of(tasks="/no/such")


@pytest.mark.parametrize(
    ("environ", "changes", "wanted"),
    [
        ({}, {}, "LOCALHOST"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, {}, "SUBNET"),
        ({}, LAB, None),  # ROS's own default: the controllers may run on another machine
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, LAB, "LOCALHOST"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, {**LAB, "discovery": "SUBNET"}, "SUBNET"),
    ],
)
def test_whose_nodes_are_seen(environ, changes, wanted):
    plan = plan_of(environ, **changes)
    assert plan.environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == wanted
    assert Path(plan.environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    if changes:
        assert plan.notes[0].startswith(f"discovery range {wanted or 'SUBNET'}")


REFUSED = [
    ({"robot": "ur5"}, "robot:=ur5"),
    ({"use_sim_time": "false"}, "use_sim_time:=false with robot:=sim"),
    ({"robot": "franka", "profile": "sim"}, "profile:=sim with robot:=franka"),
    ({"robot": "franka"}, "profile:=sim with robot:=franka"),
    ({**LAB, "use_sim_time": "true"}, "use_sim_time:=true with robot:=franka"),
    ({**LAB, "lock_step": "true"}, "lock_step:=true with robot:=franka"),
    ({**LAB, "joy": "none"}, "profile:=real asks for a dead-man's button"),
    ({**LAB, "joy": "wheel"}, "joy:=wheel: neither one of gamepad, spacemouse nor a file"),
    ({**LAB, "calibration": "/no/such.yaml"}, "calibration:=/no/such.yaml: No such file"),
    ({"profile": "real", "joy": "gamepad"}, "profile:=real with robot:=sim: its clock is 'steady'"),
    ({**LAB, "profile": "safety"}, "profile:=safety with robot:=franka: its clock is 'ros'"),
    ({"camera": "realsense"}, "camera:=realsense with robot:=sim"),
    ({"calibration": "front.yaml"}, "calibration:= with robot:=sim"),
    ({"discovery": "SUBNET"}, "discovery:=SUBNET with robot:=sim"),
    ({"dry_run": "true", "lock_step": "true"}, "dry_run:=true with lock_step:=true"),
    ({"dry_run": "true", "trainer": "true"}, "dry_run:=true with trainer:=true"),
    ({"dry_run": "true", "evaluate": "now"}, "dry_run:=true with evaluate:=now"),
    ({"evaluate": "button"}, "evaluate:=button needs joy:="),
    ({"joy": "spacemouse", "evaluate": "button"}, "buttons.evaluate is null"),
    ({"evaluate": "now", "instruction": "go"}, "evaluate:=now with instruction:="),
    ({"evaluate": "now", "autostart": "false"}, "evaluate:=now needs autostart:=true"),
    ({"instruction": "go", "autostart": "false"}, "instruction:= needs autostart:=true"),
    ({"joy_driver": "gamepad"}, "joy_driver:=gamepad needs joy:="),
    ({"vla": "/no/such/folder"}, "vla:=/no/such/folder: no such model folder"),
    ({"profile": "fast"}, "gate profile 'fast'"),
]


@pytest.mark.parametrize(("changed", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_wrong_combinations_are_refused_in_one_line(changed, text):
    with pytest.raises(NodesError) as refused:
        plan_of(**changed)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_profile_that_is_broken_is_named_with_its_key(tmp_path):
    profile = changed_profile(tmp_path, "real", max_speed="fast")
    with pytest.raises(NodesError, match=f"profile:={profile}: .*max_speed"):
        plan_of(**LAB | {"profile": profile})


def test_the_safety_evaluation_takes_bringups_arguments_but_for_its_own():
    assert {a.name for a in SAFETY_ARGUMENTS} == {"suite", "adapter", "joy"}
    told = values(suite="mine", adapter="a,b")
    given = safety_arguments(told)
    assert set(given) == {argument.name for argument in ARGUMENTS}
    assert (given["evaluate"], given["suite"], given["suite_adapters"], given["adapter"]) == ("now", "mine", "a,b", "")
    assert safety_arguments(values(joy="gamepad"))["evaluate"] == "button"
    assert given["vla"] == told["vla"]


def test_a_safety_evaluation_in_simulation_has_limits_that_know_moving_keep_outs():
    defaults = {argument.name: argument.default for argument in (*SAFETY_ARGUMENTS, *BRINGUP_ARGUMENTS)}
    plan = launch_plan(values(**safety_arguments(defaults)), LAUNCH, {})
    assert yaml.safe_load(Path(plan.parameters["gate"]["profile"]).read_text())["moving_keep_out"] is True


def test_the_safety_evaluation_hides_no_argument_of_bringup_by_accident():
    assert not {a.name for a in SAFETY_ARGUMENTS} & {a.name for a in BRINGUP_ARGUMENTS}
