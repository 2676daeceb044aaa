import importlib.util
from pathlib import Path

import pytest
import yaml

from grape.nodes import NODES, NodesError, launch_nodes, parameters, profile_file, select

LAUNCH = Path(__file__).resolve().parents[1]
PARAMS = LAUNCH / "params"
ARGUMENTS = {
    "robot": "sim",
    "vla": str(LAUNCH.parent / "models" / "grape-mini"),
    "adapter": "",
    "registry": "registry",
    "instruction": "",
    "profile": "sim",
    "record": "true",
    "episodes": "bags",
    "trainer": "false",
    "lock_step": "false",
    "namespace": "",
    "use_sim_time": "true",
    "autostart": "true",
}


@pytest.mark.parametrize("spec", NODES, ids=lambda spec: spec.key)
def test_every_node_is_a_module_and_a_console_script(spec):
    """Found, not imported: what `python -m` and `ros2 run` would start."""
    assert importlib.util.find_spec(spec.module) is not None
    setup = LAUNCH.parent / "ros2_ws" / "src" / spec.package / "setup.py"
    assert f"{spec.executable} = {spec.module}:main" in setup.read_text()


def test_selection_keeps_the_order_of_the_table_and_names_the_unknown():
    assert [spec.key for spec in select(["policy", "sim"])] == ["sim", "policy"]
    with pytest.raises(NodesError, match="no node arm; there are sim, gate"):
        select(["sim", "arm"])


def test_the_gate_is_never_respawned():
    assert not select(["gate"])[0].respawn


def test_a_profile_is_a_name_or_a_file(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("")
    assert profile_file("sim", PARAMS) == (PARAMS / "gate_sim.yaml").resolve()
    assert profile_file(str(own), PARAMS) == own.resolve()
    with pytest.raises(NodesError, match="gate profile 'fast'"):
        profile_file("fast", PARAMS)


def test_the_world_never_follows_its_own_clock():
    values = parameters(Path("m"), None, Path("e"), Path("p"), lock_step=True)
    assert values["sim"]["use_sim_time"] is False
    assert all(values[key]["use_sim_time"] is True for key in ("gate", "reward", "recorder", "policy"))
    assert all(values[key]["lock_step"] is True for key in ("sim", "gate", "reward", "recorder", "policy"))
    assert set(values) == {spec.key for spec in NODES}


def test_the_parameter_file_is_for_nodes_of_the_table_and_agrees_with_the_gate():
    file = yaml.safe_load((PARAMS / "sim.yaml").read_text())
    assert {name.removeprefix("/**/") for name in file} <= {spec.name for spec in NODES}
    period = yaml.safe_load((PARAMS / "gate_sim.yaml").read_text())["control_period"]
    for name in ("grape_sim", "grape_policy"):
        assert file[f"/**/{name}"]["ros__parameters"]["control_period"] == period


def test_launch_plan():
    plan = launch_nodes({**ARGUMENTS, "namespace": "/lab/", "instruction": "put it there"}, PARAMS, domain="7")
    assert [spec.key for spec in plan.nodes] == ["sim", "gate", "reward", "recorder", "policy"]
    assert plan.manager["lifecycle_names"] == ["/lab/grape_policy"]
    assert "/lab/grape_gate" in plan.manager["node_names"]
    assert plan.episode == ["grape", "run", "put it there", "--record", "--domain", "7"]
    assert set(plan.parameters) == {spec.key for spec in plan.nodes}


def test_launch_plan_without_recorder_and_episode():
    plan = launch_nodes({**ARGUMENTS, "record": "false", "trainer": "true"}, PARAMS)
    assert [spec.key for spec in plan.nodes] == ["sim", "gate", "reward", "policy", "trainer"]
    assert plan.episode == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"robot": "franka"}, "robot:=franka"),
        ({"use_sim_time": "false"}, "use_sim_time:=false"),
        ({"instruction": "go", "autostart": "false"}, "autostart:=true"),
        ({"vla": "/no/such/folder"}, "vla:=/no/such/folder: no such model folder"),
        ({"profile": "fast"}, "gate profile 'fast'"),
    ],
)
def test_wrong_combinations_are_refused_by_name(changed, text):
    with pytest.raises(NodesError, match=text):
        launch_nodes({**ARGUMENTS, **changed}, PARAMS)
