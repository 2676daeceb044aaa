"""Profile `real`: a replayed bag, a /clock, a second publisher of steps. Each is refused by name, and moves nothing.

The controller is a mock that counts target poses and gripper goals. Gate and replay are processes of their own.
"""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, GateStatus, Heartbeat, PolicyStep  # noqa: E402
from lab_node import GRIPPERS, Intruder, Lab, second_policy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from grape_episode import topics  # noqa: E402
from grape_episode.ros import CLOCK, EVENT, LATCHED, set_stamp  # noqa: E402
from grape_episode.synthetic import make_episode, write_episode  # noqa: E402
from grape_episode.testing import NodeProcess, Timeout, free_domain, wait_for  # noqa: E402

pytestmark = pytest.mark.ros

PROFILE = ROOT / "launch/params/gate_real.yaml"
MOVE = [0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


class Policy:
    """The one policy: it announces, beats, and sends steps that nothing is wrong with."""

    def __init__(self, domain: int) -> None:
        self.node = Intruder(domain, "grape_policy", PolicyStep, topics.POLICY_STEP)
        create = self.node.node.create_publisher
        self._identity = create(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = create(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._beat = create(Heartbeat, topics.HEARTBEAT, EVENT)
        self.episodes = 0

    @property
    def episode(self) -> str:
        return f"real_{self.episodes}"

    def announce(self) -> None:
        self.episodes += 1
        self._identity.publish(EpisodeIdentity(episode_id=self.episode, control_period=0.2))

    def end(self) -> None:
        self._outcome.publish(EpisodeOutcome(episode_id=self.episode))

    def beat(self) -> None:
        self._beat.publish(Heartbeat(source="policy", episode_id=self.episode))

    def message(self, index: int) -> PolicyStep:
        message = PolicyStep(episode_id=self.episode, step=index, action=MOVE, rotation="euler_xyz")
        message.header.frame_id = topics.BASE_FRAME
        set_stamp(message.header.stamp, self.node.node.get_clock().now().nanoseconds)
        return message


class Bench:
    """Lab, gate and policy in one domain."""

    def __init__(self, domain: int, lab: Lab, policy: Policy) -> None:
        self.domain, self.lab, self.policy = domain, lab, policy

    def begin(self) -> None:
        """A fresh episode with nothing counted; the gate is armed for it, whatever it was before."""
        self.lab.heal()
        self.status(lambda m: True, "the gate's word")
        if self.lab.seen.gate[-1][1].state == GateStatus.STOPPED:
            wait_for(lambda: self.lab.reset_gate().success, "the reset", 30.0, poll=0.3)
        self.lab.heal()
        self.policy.announce()
        self.status(
            lambda m: m.state == GateStatus.ACTIVE and m.episode_id == self.policy.episode, "the gate to be armed"
        )
        self.lab.heal()

    def status(self, condition: Any, what: str) -> GateStatus:
        def look() -> Any:
            return next((m for _, m in list(self.lab.seen.gate) if condition(m)), None)

        return wait_for(look, what, 30.0)

    def step(self, say: Any, index: int) -> GateStatus:
        """The gate's verdict on a step that ``say`` publishes, each second anew: a publisher knows of the gate before
        the gate knows of it, and what it says in between is lost."""
        judged = (GateStatus.ACCEPTED, GateStatus.VETOED)
        due = 0.0

        def look() -> Any:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + 1.0
                self.policy.beat()
                say(self.policy.message(index))
            return next((m for _, m in list(self.lab.seen.gate) if m.verdict in judged and m.step == index), None)

        return wait_for(look, f"the verdict on step {index}", 30.0)

    def counted(self) -> tuple[int, int]:
        """Target poses and gripper goals since ``begin``."""
        return len(self.lab.seen.targets), len(self.lab.seen.goals)


@pytest.fixture(scope="module", params=sorted(GRIPPERS))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    domain, folder = free_domain(), tmp_path_factory.mktemp("real")
    profile = yaml.safe_load(PROFILE.read_text())
    lab = Lab(domain, profile["dead_man"]["button"], request.param)
    lab.controller(profile["controller"])
    policy = Policy(domain)
    try:
        with NodeProcess("grape_robot.gate_node", domain, folder / "gate.log", {"profile": PROFILE}) as gate:
            wait_for(lambda: lab.seen.gate or not gate.running(), "the gate", 60.0)
            wait_for(policy.node.heard, "the gate to subscribe")
            # a stranger in its first seconds ends the gate (test_gate_node); later it is a fault
            born = time.monotonic()
            wait_for(lambda: time.monotonic() > born + 3.5, "the gate to be past its start")
            yield Bench(domain, lab, policy)
    finally:
        policy.node.__exit__()
        lab.close()


def test_the_one_policy_moves_the_arm(bench: Bench) -> None:
    """What the others below must not: otherwise their zero would say nothing."""
    bench.begin()
    status = bench.step(bench.policy.node.say, 0)
    assert status.verdict == GateStatus.ACCEPTED, f"{status.check}: {status.reason}"

    def moved() -> bool:
        bench.policy.beat()  # its silence would hold the arm
        return bool(bench.counted()[0]) and np.ptp([pose[0] for _, pose in bench.lab.seen.targets]) > 0.005

    # a busy machine may keep this test from beating in time, and a held arm waits for the next step
    for index in range(1, 4):
        try:
            wait_for(moved, "target poses that move", 3.0)
            break
        except Timeout:
            bench.step(bench.policy.node.say, index)
    wait_for(moved, "target poses that move")
    assert bench.counted()[1] == 1
    bench.policy.end()


def test_a_clock_is_refused_by_name(bench: Bench) -> None:
    bench.begin()
    with Intruder(bench.domain, "timekeeper", Clock, topics.CLOCK, CLOCK) as clock:
        clock.say(Clock())
        named = lambda m: m.state == GateStatus.STOPPED and m.check == "foreign" and "/timekeeper" in m.reason  # noqa: E731
        assert topics.CLOCK in bench.status(named, "the fault with a name").reason
        assert bench.step(bench.policy.node.say, 0).check == "stopped"
        assert "/timekeeper" in bench.lab.reset_gate().message
    assert bench.counted() == (0, 0)


def test_a_second_publisher_of_steps_is_refused_by_name(bench: Bench) -> None:
    """Its very first step, and one of the policy's, while two of them are there."""
    bench.begin()
    with second_policy(bench.domain) as intruder:
        wait_for(intruder.heard, "the gate to hear the intruder")
        assert bench.step(intruder.say, 0).check == "stopped"
        named = lambda m: m.state == GateStatus.STOPPED and m.check == "foreign" and "/intruder" in m.reason  # noqa: E731
        assert topics.POLICY_STEP in bench.status(named, "the fault with a name").reason
        assert bench.step(bench.policy.node.say, 1).check == "stopped"
    assert bench.counted() == (0, 0)


def test_a_replay_leaves_when_it_sees_the_gate(bench: Bench, tmp_path: Path) -> None:
    bench.begin()
    bag = write_episode(make_episode(seed=3, steps=4), tmp_path / "bag")
    arguments = {"bag": bag, "discovery_seconds": 5.0}
    with NodeProcess("grape_episode.replay_node", bench.domain, tmp_path / "replay.log", arguments) as replay:
        assert replay.wait(60.0) == 1
    # whichever of the robot's nodes and publishers is discovered first
    there = r"(/(grape_gate|grape_policy) is running|is (published|obeyed) by .*/(grape_gate|grape_policy|lab))"
    assert re.search(rf"{there}.*: replay needs a domain without", replay.output), replay.output
    assert bench.counted() == (0, 0)


def test_a_bag_that_is_played_onto_its_own_topics_moves_nothing(bench: Bench) -> None:
    """As another player would do it, with the policy gone: the steps are all there, and all of yesterday."""
    bench.begin()
    old = bench.policy.message(0)
    old.header.stamp.sec -= 86_400
    assert (status := bench.step(lambda _: bench.policy.node.say(old), 0)).check == "age", status.reason
    assert "86400" in status.reason
    assert bench.counted() == (0, 0)
