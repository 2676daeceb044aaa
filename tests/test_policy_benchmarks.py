"""The policy's benchmarks in short: what they measure at length, on a machine that others use, too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grape_policy.testing import write_random_checkpoint

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[1]


def measured(name: str, *arguments: object) -> dict[str, Any]:
    """What the benchmark prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_ten_swaps_and_twenty_refusals_while_acting(tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "model")
    found = measured("swap_under_load.py", "--model", model, "--swaps", 10)
    # how long a gap may be is for a quiet machine; that no tick waits for a load is for any
    assert set(found["missed"]) <= {"a gap above 1.5 periods"}, found
    assert found["gap_periods"]["p50"] < 1.2
    assert (found["swaps"], found["rollbacks"], len(found["refusals"])) == (10, 2, 20)
    assert found["logprob_error"] < 1e-4 < found["logprob_distance_to_others"]
    assert found["flip_ms"]["p99"] < 1.0


@pytest.mark.ros
def test_the_heartbeat_keeps_its_time_while_the_node_infers() -> None:
    """Against a process that only sleeps, at the same time on the same machine. Under rclpy's own executor every tenth
    heartbeat is late by more than three periods."""
    pytest.importorskip("rclpy")
    found = measured("policy_node_timing.py", "--seconds", 4)
    assert found["steps_per_second"] > 5 and found["heartbeat_acting_ms"]["samples"] > 60
    assert found["heartbeat_acting_ms"]["p90"] < 5.0 + 3.0 * found["machine_acting_ms"]["p90"], found
