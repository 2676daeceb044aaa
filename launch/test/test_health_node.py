"""The healthcheck, over real ROS, with small nodes in place of the gate and the policy."""

import os
import subprocess
import sys

import pytest

from grape_episode.testing import free_domain

pytestmark = pytest.mark.ros

# one process: a gate that speaks, and a policy in a namespace of its choice, brought up as far as it is told
STACK = """
import sys, rclpy
from grape_interfaces.msg import GateStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from grape_episode import topics
from grape_episode.ros import EVENT
rclpy.init()
gate, policy = Node('grape_gate'), LifecycleNode('grape_policy', namespace=sys.argv[2])
speaks = gate.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
stopped = GateStatus(state=GateStatus.STOPPED, check='wrench', reason='external force 31 N')
gate.create_timer(0.1, lambda: speaks.publish(stopped))
policy.trigger_configure()
if sys.argv[1] == 'active':
    policy.trigger_activate()
executor = SingleThreadedExecutor()
executor.add_node(gate); executor.add_node(policy)
print('up', flush=True)
executor.spin()
"""


@pytest.fixture(scope="module")
def domain():
    return free_domain()


def health(domain, *words):
    command = [sys.executable, "-m", "grape.health_node", *words]
    return subprocess.run(
        command, env=os.environ | {"ROS_DOMAIN_ID": str(domain)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("state", "namespace", "status", "told"),
    [
        # a gate that stopped has done its duty
        ("active", "/", 0, "gate stopped (wrench: external force 31 N), policy active"),
        ("inactive", "/lab", 1, "unwell: /lab/grape_policy is inactive instead of active"),
    ],
)
def test_it_asks_gate_and_policy(state, namespace, status, told, domain):
    command = [sys.executable, "-c", STACK, state, namespace]
    with subprocess.Popen(
        command, env=os.environ | {"ROS_DOMAIN_ID": str(domain)}, stdout=subprocess.PIPE, text=True
    ) as stack:
        assert stack.stdout is not None
        assert stack.stdout.readline().strip() == "up"
        done = health(domain, "--namespace", namespace, "--seconds", "30")
        stack.kill()
    assert (done.returncode, (done.stdout + done.stderr).strip()) == (status, told)


def test_where_nobody_answers_it_says_who():
    done = health(free_domain(), "--seconds", "0.5")
    assert done.returncode == 1
    assert done.stderr.strip() == "unwell: /grape/gate_status: silent for 0.5 s"
