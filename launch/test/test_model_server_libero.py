"""LIBERO-Spatial by vla-eval's client, without containers, rendered on the CPU, against `grape serve`, grape-mini."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from grape.paths import default_model

pytest.importorskip("vla_eval", reason="the dependency group `benchmark` is not installed (make setup-benchmark)")
from grape.model_wire import bind
from grape_policy.checkpoint import base_hash

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / ".venv-benchmark" / "bin"
CONFIG = ROOT / "benchmarks" / "clients" / "libero_spatial.yaml"
# the client's environment is its own: nothing of the shell that the nodes need
ENVIRONMENT = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
ENVIRONMENT |= {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa", "OMP_NUM_THREADS": "1"}


def missing() -> str:
    """Why LIBERO cannot run here; empty where it can."""
    if not (CLIENT / "vla-eval").exists():
        return "LIBERO is not installed in .venv-benchmark (make setup-benchmark)"
    probe = "import libero.libero, mujoco; mujoco.GLContext(64, 64).free()"
    tried = subprocess.run(
        [CLIENT / "python", "-c", probe], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    return f"LIBERO cannot render here: {tried.stderr.strip().splitlines()[-1]}" if tried.returncode else ""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`grape serve` with grape-mini in a process of its own."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "grape.cli", "serve", "--model", str(default_model()), "--adapter", "none"]
    running = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + 180
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (URLError, OSError):
                assert running.poll() is None, running.communicate()[0]
                assert time.monotonic() < until
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        running.kill()
        running.communicate()


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_libero_spatial_completes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if reason := missing():
        pytest.skip(reason)
    address = request.getfixturevalue("address")
    command = [CLIENT / "vla-eval", "run", "--config", CONFIG, "--no-docker", "--render", "cpu"]
    command += ["--server-url", f"ws://{address}", "--output-dir", tmp_path]
    command += ["--benchmark-field", "max_tasks=1", "--benchmark-field", "episodes_per_task=2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=1700, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert "Spec validation passed" in said and "env_seed=0" in said
    assert "episodes errored" not in said
    written = list(tmp_path.glob("*aggregate.json"))
    assert len(written) == 1, said[-4000:]
    result = json.loads(written[0].read_text())
    episodes = [episode for task in result["tasks"] for episode in task["episodes"]]
    assert len(episodes) == 2
    served = result["server_info"]["action_spec"]["position"]["description"]
    assert f"base {base_hash(default_model())[:12]}, adapter none" in served
    for episode in episodes:
        assert "failure_reason" not in episode or not episode["failure_reason"]
        # an episode ends by success, or at the suite's limit
        assert episode["metrics"]["success"] or episode["steps"] == 220
