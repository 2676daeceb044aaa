"""The benchmark's trial, twice, over made-up rollouts: killed in the middle, an alignment ends the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[4] / "benchmarks/kill_align.py"


def test_killed_alignments_end_with_the_same_adapters() -> None:
    command = [sys.executable, str(BENCHMARK), "--kills", "2", "--rig", "synthetic", "--seed", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 2 and told["different"] == told["damaged"] == 0 and len(set(told["adapters"])) == 2
