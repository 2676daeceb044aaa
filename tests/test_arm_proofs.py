"""The proofs of the arm in short: what stops before contact, and half of the faults over real processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pinocchio")

ROOT = Path(__file__).resolve().parents[1]


def measured(name: str, *arguments: object) -> tuple[dict[str, Any], str]:
    """What the benchmark prints: its report, and what it says to people."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_three_drives_are_stopped_before_contact() -> None:
    found, said = measured("stopped_before_contact.py", "--n", 3, "--first", 15)
    assert found["met"] and found["stopped_before_contact"] == 3, said
    goals = found["goals"]
    assert set(goals) == {"table", "joint", "obstacle"}
    # they did come close: what stops them is the gate, not their own choice
    assert 0.0 < goals["table"]["nearest"]["min"] < 200.0 and goals["table"]["refused"]


def test_without_the_gates_limits_the_same_drive_comes_into_contact() -> None:
    found, _ = measured("stopped_before_contact.py", "--n", 1, "--first", 15, "--without-gate")
    assert not found["met"] and found["stopped_before_contact"] == 0


@pytest.mark.ros
@pytest.mark.alone
def test_half_of_the_faults_end_in_hold_or_stop() -> None:
    pytest.importorskip("rclpy")
    # the promises' own bounds are for a machine that nobody else uses; that each fault is seen and named is for any
    found, said = measured("fault_matrix.py", "--half", "--slack", 1.0)
    rows = {row["fault"]: row for row in found["rows"]}
    assert len(rows) == 8
    assert found["met"], said
    checks = {"wrench_above_limit": "wrench", "user_stop": "robot_mode", "joy_lost": "dead_man"}
    checks |= {"controller_deactivated": "controller", "second_publisher": "foreign"}
    for name, check in checks.items():
        assert f" {check}: " in rows[name]["seen"], rows[name]
    assert "/intruder" in rows["second_publisher"]["seen"]
    assert all(row["record"].startswith(("whole", "recovered")) for row in rows.values())
