"""A person's hand in the simulated workspace, and a script that drives at it: gate and world as processes, over topics.

With the safety evaluation's profile the arm is refused before it touches the hand; with the same profile deaf to moving
keep-outs the same script runs into it. When the boxes fall silent the gate holds the arm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import (
    EpisodeIdentity,
    EpisodeOutcome,
    GateStatus,
    Heartbeat,
    KeepOutBoxes,
    PolicyStep,
    WorldStatus,
)
from grape_interfaces.srv import ResetWorld

from grape.ros import Client
from grape_episode import topics
from grape_episode.ros import EVENT, LATCHED, robot_state, set_stamp, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, rehearse, wait_for
from grape_robot.profile import load_profile

pytestmark = pytest.mark.ros

PARAMS = Path(__file__).resolve().parents[1] / "launch" / "params"
PROFILE = PARAMS / "gate_safety.yaml"
PERIOD = 200_000_000
STRIDE = 0.05
"""Metres of a step of the script: 0.25 m/s."""
STEPS = 40
"""Enough for the slowest hand to come and for the arm to reach it."""
WITHIN = 0.3
"""Metres to the side of the robot: where a palm is within the workspace."""
STATES = (58_000, 59_001)
"""Initial states of the shipped suite; in one the hand comes from the left, in the other from the right."""
QUIET = "/quiet"
"""Where the world tells of the hand while a test stands between it and the gate."""


class Script:
    """The policy: it announces, resets, beats and drives straight at the palm. ``heard``: the newest of each topic."""

    def __init__(self, client: Client, lock_step: bool) -> None:
        self.node, self._client, self._lock_step = client.node, client, lock_step
        self.heard: dict[str, Any] = {}
        self.verdicts: dict[int, GateStatus] = {}
        self.episode, self.told = "", 0
        create, hear = self.node.create_publisher, self.node.create_subscription
        self._identity = create(EpisodeIdentity, topics.EPISODE, LATCHED)
        self._outcome = create(EpisodeOutcome, topics.OUTCOME, EVENT)
        self._beat = create(Heartbeat, topics.HEARTBEAT, EVENT)
        self._step = create(PolicyStep, topics.POLICY_STEP, EVENT)
        self._world = self.node.create_client(ResetWorld, topics.RESET_WORLD)
        for kind, topic in ((KeepOutBoxes, topics.KEEP_OUT), (WorldStatus, topics.WORLD_STATUS)):
            hear(kind, topic, lambda message, topic=topic: self.heard.update({topic: message}), EVENT)
        hear(PoseStamped, topics.CURRENT_POSE, lambda m: self.heard.update({"tcp": m}), robot_state(lock_step))
        hear(GateStatus, topics.GATE_STATUS, self._hear_gate, EVENT)
        self.node.create_timer(0.05, self.beat)

    def _hear_gate(self, message: GateStatus) -> None:
        self.heard["gate"] = message
        if message.episode_id == self.episode and message.verdict != GateStatus.NONE:
            self.verdicts[message.step] = message

    def beat(self) -> None:
        if self.episode:
            self._beat.publish(Heartbeat(source="policy", episode_id=self.episode))

    def connect(self) -> None:
        for publisher in (self._identity, self._beat, self._step, self._outcome):
            wait_for(publisher.get_subscription_count, f"the gate to hear {publisher.topic}", 60.0)
        wait_for(lambda: "gate" in self.heard and topics.KEEP_OUT in self.heard, "gate and world", 60.0)
        if self._lock_step:
            rehearse(self._first_step)

    def _first_step(self, deadline: float) -> None:
        try:
            stamp = self.begin(STATES[0])
            self.say(stamp, [0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 1.0])
            for topic in (topics.WORLD_STATUS, topics.KEEP_OUT, "tcp"):
                self.at(topic, stamp + PERIOD, deadline)
        finally:
            self.end()

    def begin(self, state: int) -> int:
        """Announce an episode and reset the world to one with a hand; the stamp of its first observation."""
        self.told, self.verdicts = 0, {}
        self.episode = f"hand_{state}_{time.monotonic_ns()}"
        identity = EpisodeIdentity(episode_id=self.episode, control_period=PERIOD * 1e-9, lock_step=self._lock_step)
        self._identity.publish(identity)
        wait_for(lambda: self.heard["gate"].episode_id == self.episode, "the gate to be armed")
        request = ResetWorld.Request(
            episode_id=self.episode, task="carrot_on_plate", variant="moving_hand", initial_state=state
        )
        answer = self._client.call(self._world, request, 30.0, topics.RESET_WORLD)
        assert answer.accepted, answer.reason
        return stamp_ns(answer.first_observation)

    def end(self) -> None:
        self._outcome.publish(EpisodeOutcome(episode_id=self.episode))

    def at(self, topic: str, stamp: int, deadline: float = 20.0) -> Any:
        """The newest message of a topic, once it is of ``stamp`` or later."""
        there = lambda: topic in self.heard and stamp_ns(self.heard[topic].header.stamp) >= stamp  # noqa: E731
        wait_for(there, f"{topic} at {stamp}", deadline)
        return self.heard[topic]

    def drive(self, stamp: int) -> GateStatus:
        """The gate's verdict on one step straight at the palm, for the observation of ``stamp``; none while it is out
        of the workspace."""
        tcp, boxes = self.at("tcp", stamp).pose.position, self.at(topics.KEEP_OUT, stamp)
        low, high = boxes.low[0], boxes.high[0]
        palm = np.array([low.x + high.x, low.y + high.y, low.z + high.z]) / 2
        way = palm - np.array([tcp.x, tcp.y, tcp.z]) if abs(palm[1]) < WITHIN else np.zeros(3)
        way *= min(1.0, STRIDE / max(np.linalg.norm(way), 1e-9))
        return self.say(stamp, [*way.tolist(), 0.0, 0.0, 0.0, 1.0])

    def say(self, stamp: int, action: list[float]) -> GateStatus:
        index, self.told = self.told, self.told + 1
        message = PolicyStep(episode_id=self.episode, step=index, action=action, rotation="axis_angle")
        message.header.frame_id = topics.BASE_FRAME
        set_stamp(message.header.stamp, stamp)
        self.beat()
        self._step.publish(message)
        return wait_for(lambda: self.verdicts.get(index), f"the verdict on step {index}")


@contextmanager
def bench(folder: Path, profile: Path, lock_step: bool, remap: tuple[str, ...] = ()) -> Iterator[Script]:
    domain = free_domain()
    gate = {"profile": profile, "lock_step": lock_step, "use_sim_time": True}
    sim = {"lock_step": lock_step, "image_size": 16}
    with ExitStack() as held:
        held.enter_context(NodeProcess("grape_sim.sim_node", domain, folder / "sim.log", sim, remap))
        held.enter_context(NodeProcess("grape_robot.gate_node", domain, folder / "gate.log", gate))
        script = Script(held.enter_context(Client(domain, "grape_policy")), lock_step)
        yield script


def drive_at_the_hand(script: Script, state: int) -> tuple[list[GateStatus], WorldStatus]:
    """The gate's verdicts on the whole drive, and the world's judgement at its end."""
    stamp, said = script.begin(state), []
    for _ in range(STEPS):
        said.append(script.drive(stamp))
        stamp += PERIOD
        world = script.at(topics.WORLD_STATUS, stamp)
        if script.heard["gate"].state == GateStatus.STOPPED:
            break
    script.end()
    return said, world


def test_the_arm_is_refused_before_it_touches_the_hand(tmp_path: Path) -> None:
    with bench(tmp_path, PROFILE, lock_step=True) as script:
        script.connect()
        for state in STATES:
            said, world = drive_at_the_hand(script, state)
            refused = [status for status in said if status.verdict == GateStatus.VETOED]
            assert refused and len(refused) < len(said) == STEPS, [status.reason for status in said]
            assert {status.check for status in refused} <= {"keep_out", "links"}, [s.reason for s in refused]
            assert all("palm" in status.reason or "forearm" in status.reason for status in refused)
            # it did come close: what stops it is the gate, not its own choice
            assert not world.collision and 0.02 < world.clearance < 0.12, (world.clearance, world.contact_force)


def test_the_same_script_runs_into_the_hand_where_moving_keep_outs_are_not_heard(tmp_path: Path) -> None:
    """What the test above would see if the gate ignored the boxes."""
    deaf = tmp_path / "deaf.yaml"
    deaf.write_text(yaml.safe_dump(yaml.safe_load(PROFILE.read_text()) | {"moving_keep_out": False}))
    with bench(tmp_path, deaf, lock_step=True) as script:
        script.connect()
        _, world = drive_at_the_hand(script, STATES[0])
        assert world.collision and world.clearance == 0.0


def test_silent_boxes_hold_the_arm_and_it_goes_on_when_they_are_back(tmp_path: Path) -> None:
    """In real time, with this test between the world and the gate."""
    heard = threading.Event()
    heard.set()
    profile = tmp_path / "patient.yaml"
    # a busy machine may starve this test's policy, whose silence is not what is tested
    patient = {"hold_margin": 4.0, "stop_margin": 20.0, "heartbeat_timeout": 4.0, "age_margin": 3.0}
    profile.write_text(yaml.safe_dump(yaml.safe_load(PROFILE.read_text()) | patient))
    with bench(tmp_path, profile, False, ("--ros-args", "-r", f"{topics.KEEP_OUT}:={QUIET}")) as script:
        told = script.node.create_publisher(KeepOutBoxes, topics.KEEP_OUT, EVENT)
        script.node.create_subscription(
            KeepOutBoxes, QUIET, lambda m: told.publish(m) if heard.is_set() else None, EVENT
        )
        script.connect()
        script.begin(STATES[0])

        def ask() -> GateStatus:
            return script.say(stamp_ns(script.heard["tcp"].header.stamp), [0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 1.0])

        def holds() -> bool:
            gate = script.heard["gate"]
            return gate.state == GateStatus.HOLD and gate.check == "keep_out"

        first = ask()
        assert first.verdict == GateStatus.ACCEPTED, first.reason
        heard.clear()
        wait_for(holds, "the gate to hold the arm")
        refused = ask()
        assert (refused.verdict, refused.check) == (GateStatus.VETOED, "keep_out"), refused.reason
        heard.set()
        wait_for(lambda: ask().verdict == GateStatus.ACCEPTED, "a step that is accepted again")
        script.end()


def test_the_profile_has_the_arm_as_the_lab_s_profile_has_it() -> None:
    safety, real = load_profile(PROFILE), load_profile(PARAMS / "gate_real.yaml")
    assert safety.link_spheres == real.link_spheres
    # a hand at 0.3 m/s and an arm at max_speed close in on each other; the hand stops at 5 cm
    assert safety.keep_out_margin > 0.3 * (safety.max_speed * safety.control_period) / (safety.max_speed + 0.3)
