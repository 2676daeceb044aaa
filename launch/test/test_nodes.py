import importlib.util
from pathlib import Path

import pytest
import yaml

from grape.nodes import NODES, NodesError, parameters, profile_file, select

LAUNCH = Path(__file__).resolve().parents[1]
PARAMS = LAUNCH / "params"


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


def test_what_acts_or_decides_what_reaches_the_arm_is_never_respawned():
    """The gate latches: a new one would have forgotten why. Resets drive the arm; the policy and the world hold what
    an episode rests on."""
    assert [spec.key for spec in NODES if not spec.respawn] == ["sim", "gate", "reset", "policy"]


def test_a_profile_is_a_name_or_a_file(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("")
    assert profile_file("sim", PARAMS) == (PARAMS / "gate_sim.yaml").resolve()
    assert profile_file(str(own), PARAMS) == own.resolve()
    with pytest.raises(NodesError, match="gate profile 'fast'"):
        profile_file("fast", PARAMS)


def test_no_two_nodes_share_a_name():
    assert len({spec.name for spec in NODES}) == len({spec.key for spec in NODES}) == len(NODES)


def test_the_world_never_follows_its_own_clock():
    values = parameters(Path("m"), None, Path("e"), Path("p"), lock_step=True)
    assert values["sim"]["use_sim_time"] is False
    assert all(values[key]["use_sim_time"] is True for key in ("gate", "reward", "recorder", "policy"))
    assert all(values[key]["lock_step"] is True for key in ("sim", "gate", "reward", "recorder", "policy"))
    assert set(values) == {spec.key for spec in NODES}


@pytest.mark.parametrize("name", ["sim", "franka"])
def test_the_parameter_file_is_for_nodes_of_the_table(name):
    file = yaml.safe_load((PARAMS / f"{name}.yaml").read_text())
    assert {node.removeprefix("/**/") for node in file} <= {spec.name for spec in NODES}


def test_the_period_of_the_simulators_parameters_is_its_gates():
    file = yaml.safe_load((PARAMS / "sim.yaml").read_text())
    period = yaml.safe_load((PARAMS / "gate_sim.yaml").read_text())["control_period"]
    for name in ("grape_sim", "grape_policy"):
        assert file[f"/**/{name}"]["ros__parameters"]["control_period"] == period


def test_the_arms_parameters_leave_the_period_to_the_gate_profile():
    file = yaml.safe_load((PARAMS / "franka.yaml").read_text())
    assert not [node for node, content in file.items() if "control_period" in content["ros__parameters"]]
