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
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from timing_world_node import TimingWorld

from grape_episode.testing import NodeProcess, free_domain, wait_for

ROOT = Path(__file__).resolve().parents[1]
HEARTBEAT_MS = 50.0
INSTRUCTION = "put the carrot on the plate"


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
            world = TimingWorld(domain, frames)
            try:
                wait_for(lambda: world.beats or not node.running(), "the node's first heartbeat", 300.0)
                if not node.running():
                    sys.exit(f"the policy node ended: {node.output}")
                say("idle")
                idle = _beats(world, seconds)
                say("acting")
                episode = world.start_episode()
                wait_for(lambda: len(world.steps) > 3, "steps", 60.0)
                world.steps.clear()
                with Sleeper() as sleeper:
                    acting = _beats(world, seconds)
                steps = list(world.steps)
                began = time.monotonic()
                episode.cancel()
                cancel = 1e3 * (time.monotonic() - began)
                episode.wait()
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


def _beats(world: TimingWorld, seconds: float) -> dict[str, float]:
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
