"""Bringing up, over real ROS, with small nodes in place of the house's own."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grape import up
from grape.up import Stack, StackConfig, StackError
from grape_episode.testing import free_domain, wait_for

pytestmark = pytest.mark.ros

PLAIN = """
import rclpy, sys
from rclpy.node import Node
from grape_episode.ros import run_node
class Plain(Node):
    def __init__(self):
        super().__init__('grape_sim')
        for name in ('lock_step', 'extra', 'image_size'):
            self.declare_parameter(name, 0 if name == 'image_size' else name == 'never')
        value = lambda name: self.get_parameter(name).value
        print('parameters', value('lock_step'), value('extra'), value('image_size'), flush=True)
sys.exit(run_node(Plain))
"""
LIFECYCLE = """
import rclpy, sys
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from grape_episode.ros import run_node
class Managed(LifecycleNode):
    def __init__(self):
        super().__init__('grape_policy')
        self.declare_parameter('model', '')
    def on_configure(self, state):
        model = self.get_parameter('model').value
        print('configure', model, flush=True)
        good = not model.endswith('broken')
        if not good:
            print(model + ': no file config.json', flush=True)
        return TransitionCallbackReturn.SUCCESS if good else TransitionCallbackReturn.FAILURE
    def on_activate(self, state):
        print('activate', flush=True)
        return super().on_activate(state)
sys.exit(run_node(Managed))
"""
FAILING = "import sys; print('grape_sim: /clock is published by /other_sim', file=sys.stderr); sys.exit(1)"
SILENT = "import time\nwhile True: time.sleep(0.1)"


@pytest.fixture(scope="module")
def domain():
    return free_domain()


@pytest.fixture
def stack_of(tmp_path, monkeypatch, domain):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    config = StackConfig(
        domain=domain,
        log_dir=tmp_path / "logs",
        lock_step=True,
        model=tmp_path / "model",
        registry=None,
        episodes_root=tmp_path / "bags",
        nodes=("sim", "policy"),
        extra_params={"sim": {"extra": True}},
    )

    def make(sim=PLAIN, policy=LIFECYCLE, **changes):
        for key, source in (("sim", sim), ("policy", policy)):
            (tmp_path / f"stand_in_{key}.py").write_text(source)
        return Stack(replace(config, **changes), {"sim": "stand_in_sim", "policy": "stand_in_policy"})

    return make


def test_up_and_down(stack_of):
    with stack_of() as stack:
        assert stack.failed() is None
        sim, policy = stack.process("sim"), stack.process("policy")
        # the mode, the extra one, and the parameter file's, which names the node in any namespace
        assert "parameters True True 112" in sim.log.read_text()
        assert policy.last_line() == "activate"
        sim.process.kill()
        problem = wait_for(stack.failed, "the end of the simulator to be seen")
        assert problem.startswith("grape_sim was ended by SIGKILL")
    assert policy.process.returncode == 0


def test_a_node_that_ends_is_named_with_its_last_line(stack_of):
    stack = stack_of(sim=FAILING)
    with pytest.raises(StackError, match="grape_sim ended with status 1: grape_sim: /clock is published by /other_sim"):
        stack.start()
    assert stack.processes == []


def test_a_refused_transition_is_named_with_the_reason(stack_of, tmp_path):
    with pytest.raises(StackError, match=r"grape_policy: did not configure: .*broken: no file config\.json"):
        stack_of(model=tmp_path / "broken").start()


def test_a_node_that_never_answers_ends_in_one_line(stack_of, monkeypatch):
    monkeypatch.setattr(up, "READY_SECONDS", 1.0)
    # that it ends at all shows that it does not wait for ever: how fast, a busy machine decides
    with pytest.raises(StackError, match="grape_sim: did not get ready within 1 s: it printed nothing"):
        stack_of(sim=SILENT, nodes=("sim",)).start()


OWNER = """
import sys, time
from pathlib import Path
from grape.up import Stack, StackConfig
folder, domain = Path(sys.argv[1]), int(sys.argv[2])
config = StackConfig(domain, folder / "logs", True, folder, None, folder, ("sim",))
with Stack(config, {"sim": "stand_in_sim"}) as stack:
    print(stack.processes[0].process.pid, flush=True)
    time.sleep(600)
"""


def test_a_terminated_owner_takes_its_nodes_along(stack_of, tmp_path, domain):
    stack_of()  # writes the stand-in
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path, str(domain)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        node = Path("/proc") / owner.stdout.readline().strip()
        assert node.name and node.exists()
        owner.terminate()
        assert owner.wait(30) == 128 + signal.SIGTERM
        assert not node.exists()
    finally:
        owner.kill()
        owner.wait()


def test_an_unknown_node_starts_nothing(stack_of, tmp_path):
    with pytest.raises(StackError, match="no node arm"):
        stack_of(nodes=("sim", "arm")).start()
    assert not (tmp_path / "logs").exists()
