"""Does the policy node keep its timers while it infers, and what does it add to an inference?

    python benchmarks/policy_node_timing.py

Runs the policy node in real time under a 640x480 camera at 30 Hz, a pose at 100 Hz and a gate, first idle, then acting
on every frame it can. The heartbeat's period is taken from the stamps that the node itself gives its heartbeats, the
latency of a step from the step (frame received to step published). ``machine_acting_ms`` is the same period error of
a process that does nothing but sleep, meanwhile: what the machine itself takes, where others use it. After the node has
ended: the engine alone, in this process, on frames of the same size. Prints one JSON object; times in milliseconds.
Exits with 1 where the heartbeat's period error while acting is above ``--limit`` at its 99th percentile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, GateStatus, Heartbeat, PolicyStep
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rich.console import Console
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.ros import CAMERA, EVENT, JOINTS, LATCHED, ask, image_to_msg, robot_state, set_stamp, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for

ROOT = Path(__file__).resolve().parents[1]
HEARTBEAT_MS = 50.0
INSTRUCTION = "put the carrot on the plate"


class World:
    """Camera, robot state and a gate that accepts everything, in real time; spins in a thread of its own."""

    def __init__(self, domain: int, frames: list[np.ndarray]) -> None:
        self._frames, self._sent, self._episode = frames, 0, ""
        self.beats: list[int] = []
        self.steps: list[PolicyStep] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        node = self.node = Node("timing_world", context=self.context)
        self._color = node.create_publisher(Image, topics.COLOR, CAMERA)
        self._pose = node.create_publisher(PoseStamped, topics.CURRENT_POSE, robot_state(False))
        self._joints = node.create_publisher(JointState, topics.JOINT_STATES, JOINTS)
        self._gate = node.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
        node.create_subscription(Heartbeat, topics.HEARTBEAT, self._on_beat, EVENT)
        node.create_subscription(PolicyStep, topics.POLICY_STEP, self._on_step, EVENT)
        node.create_subscription(EpisodeIdentity, topics.EPISODE, self._on_identity, LATCHED)
        node.create_subscription(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        self.action = ActionClient(node, RunEpisode, topics.RUN_EPISODE)
        node.create_timer(1 / 30, self._observe)
        node.create_timer(0.01, self._move)
        node.create_timer(0.1, self._say_gate)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self.context.try_shutdown()

    def _now(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def _observe(self) -> None:
        self._sent += 1
        frame = self._frames[self._sent % len(self._frames)]
        self._color.publish(image_to_msg(frame, self._now(), topics.CAMERA_FRAME))

    def _move(self) -> None:
        pose, joints = PoseStamped(), JointState(name=[topics.KNUCKLE_JOINT], position=[0.1])
        pose.header.frame_id, pose.pose.orientation.w = topics.BASE_FRAME, 1.0
        for message in (pose, joints):
            set_stamp(message.header.stamp, self._now())
        self._pose.publish(pose)
        self._joints.publish(joints)

    def _say_gate(self, step: int = 0, verdict: int = GateStatus.NONE) -> None:
        state = GateStatus.ACTIVE if self._episode else GateStatus.IDLE
        self._gate.publish(GateStatus(episode_id=self._episode, step=step, verdict=verdict, state=state))

    def _on_beat(self, message: Heartbeat) -> None:
        self.beats.append(stamp_ns(message.header.stamp))

    def _on_step(self, message: PolicyStep) -> None:
        self.steps.append(message)
        self._say_gate(message.step, GateStatus.ACCEPTED)

    def _on_identity(self, message: EpisodeIdentity) -> None:
        self._episode = message.episode_id
        self._say_gate()

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        self._episode = ""

    def finished(self, future: Any, what: str) -> Any:
        wait_for(future.done, what, 30.0)
        return future.result()

    def ask(self, send: Any) -> Any:
        return ask(self._executor, send)


def period_errors(beats: list[int]) -> dict[str, float]:
    """Of stamps in nanoseconds: the deviation of their distances from the heartbeat's period, milliseconds."""
    errors = np.abs(np.diff(beats) / 1e6 - HEARTBEAT_MS)
    return {**percentiles(errors), "max": round(float(errors.max()), 2), "samples": len(errors)}


def percentiles(values: Any) -> dict[str, float]:
    return {f"p{rank}": round(float(np.percentile(np.asarray(values), rank)), 2) for rank in (50, 90, 99)}


class Sleeper:
    """A process that wakes every 50 ms and notes when; a context manager."""

    CODE = """
import sys, time
due = time.monotonic()
while True:
    due += 0.05
    time.sleep(max(0.0, due - time.monotonic()))
    print(time.time_ns(), flush=True)
"""

    def __enter__(self) -> Sleeper:
        self._process = subprocess.Popen([sys.executable, "-c", self.CODE], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        said = self._process.communicate()[0]
        self.beats = [int(line) for line in said.splitlines()[1:-1]]


def measure_node(model: Path, seconds: float, control_period: float, say: Any) -> dict[str, Any]:
    """The heartbeat idle and acting, and the steps' latencies."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(8)]
    params: dict[str, object] = {"model": model, "reset": "none", "control_period": control_period, "lock_step": False}
    domain = free_domain()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "node.log"
        with NodeProcess("grape_policy.policy_node", domain, log, params) as node:
            world = World(domain, frames)
            try:
                wait_for(lambda: world.beats or not node.running(), "the node's first heartbeat", 300.0)
                if not node.running():
                    sys.exit(f"the policy node ended: {node.output}")
                say("idle")
                idle = _beats(world, seconds)
                say("acting")
                goal = RunEpisode.Goal(task="carrot_on_plate", temperature=1.0, step_limit=1_000_000)
                wait_for(world.action.server_is_ready, "the action server")
                handle = world.finished(world.ask(lambda: world.action.send_goal_async(goal)), "the goal")
                wait_for(lambda: len(world.steps) > 3, "steps", 60.0)
                world.steps.clear()
                with Sleeper() as sleeper:
                    acting = _beats(world, seconds)
                steps = list(world.steps)
                began = time.monotonic()
                world.finished(world.ask(handle.cancel_goal_async), "the cancel")
                cancel = 1e3 * (time.monotonic() - began)
                world.finished(world.ask(handle.get_result_async), "the result")
            finally:
                world.close()
    return {
        "heartbeat_idle_ms": idle,
        "heartbeat_acting_ms": acting,
        "machine_acting_ms": period_errors(sleeper.beats),
        "step_latency_ms": percentiles([1e3 * step.latency for step in steps]),
        "steps_per_second": round(len(steps) / seconds, 1),
        "cancel_accepted_ms": round(cancel, 1),
    }


def _beats(world: World, seconds: float) -> dict[str, float]:
    world.beats.clear()
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > end, "the end of the measurement", seconds + 10.0, poll=0.1)
    return period_errors(list(world.beats))


def measure_engine(model: Path, count: int) -> dict[str, float]:
    """Camera frame to tokens in this process with nothing beside it."""
    from grape_policy.loading import load_engine
    from grape_policy.parameters import EngineSettings

    engine = load_engine(EngineSettings(str(model), warmup=5))
    random, times = np.random.default_rng(0), []
    for step in range(count):
        frame = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        began = time.perf_counter()
        engine.act(engine.vla.processor.model_input(frame), INSTRUCTION, 0, step, 1.0)
        times.append(1e3 * (time.perf_counter() - began))
    return percentiles(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/grape-mini")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two measurements")
    parser.add_argument("--control-period", type=float, default=0.03, help="seconds; the camera gives a frame in 0.033")
    parser.add_argument("--limit", type=float, default=5.0, help="milliseconds of the heartbeat's error at p99")
    arguments = parser.parse_args()
    with Console(stderr=True).status("starting the policy node") as status:
        report = measure_node(arguments.model, arguments.seconds, arguments.control_period, status.update)
        status.update("the engine alone")
        report["engine_alone_ms"] = measure_engine(arguments.model, 100)
    report["latency_ratio"] = round(report["step_latency_ms"]["p50"] / report["engine_alone_ms"]["p50"], 2)
    report["limit_ms"] = arguments.limit
    report["met"] = report["heartbeat_acting_ms"]["p99"] <= arguments.limit
    print(json.dumps(report))
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
