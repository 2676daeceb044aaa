"""Several processes give what one gives, whoever starts them, and end together."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grape_episode.testing import wait_for
from grape_policy.checkpoint import Vla
from grape_trainer.config import TrainConfig
from grape_trainer.files import read_lines
from grape_trainer.peft_folder import read_weights
from grape_trainer.processes import Team, join_team
from grape_trainer.testing import quick_config, write_rollouts
from grape_trainer.train import main, train

STEPS = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 200), min_size=1, max_size=20)


@given(STEPS, st.integers(1, 5))
def test_shares_are_balanced_and_leave_nothing_out(steps: dict[str, int], size: int) -> None:
    shares = [Team(rank, size).balanced(steps, list(steps)) for rank in range(size)]
    assert sorted(name for share in shares for name in share) == sorted(steps)
    loads = [sum(steps[name] for name in share) for share in shares]
    assert max(loads) - min(loads) <= max(steps.values())
    assert sorted(n for rank in range(size) for n in Team(rank, size).share(sorted(steps))) == sorted(steps)


def test_alone_nothing_is_sent() -> None:
    team, device = join_team("cpu")
    assert (team.rank, team.size, team.first, device) == (0, 1, True, "cpu")
    assert team.gather({"a": 1}) == [{"a": 1}] and team.agree(True)
    one = torch.ones(2, 7)
    assert team.log_probs({"a": one, "b": one}, {"a": 2, "b": 2}, ["a"]) == {"a": one}
    team.barrier()


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tiny_vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """A run in one process: three episodes or four a batch, of unequal lengths."""
    root = tmp_path_factory.mktemp("alone")
    pairs = write_rollouts(tiny_vla, root / "bags", 5, 3)
    config = quick_config(tiny_model, pairs, root / "out", epochs=3, supervised_weight=1.0, chunk=3)
    train(config)
    return config, root / "out/adapter"


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def close(a: Path, b: Path) -> bool:
    one, two = read_weights(a), read_weights(b)
    gap = sum(float((one[name] - two[name]).double().pow(2).sum()) for name in one) ** 0.5
    return gap <= 1e-6 * sum(float(t.double().pow(2).sum()) for t in one.values()) ** 0.5


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_two_processes_equal_one_and_a_killed_pair_goes_on(alone: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    config, wanted = alone
    told = dataclasses.replace(config, output=str(tmp_path / "out"))
    path = told.write(tmp_path / "config.json")
    command = [sys.executable, "-m", "grape_trainer.train", str(path), "--processes", "2"]
    first = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    metrics = tmp_path / "out/metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, "two updates", 120.0)
    (other,) = children(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_for(lambda: not running(other), "the end of the other process", 60.0)
    assert not (tmp_path / "out/result.json").exists()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == 1
    updates = [line["update"] for line in read_lines(metrics) if "loss" in line]
    assert updates == list(range(1, updates[-1] + 1))
    assert close(tmp_path / "out/adapter", wanted)


def test_accelerate_starts_it_as_well(alone: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    config, wanted = alone
    told = dataclasses.replace(config, output=str(tmp_path / "out"))
    path = told.write(tmp_path / "config.json")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--cpu", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "grape_trainer.train", str(path)]
    world = environment() | {"GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=world, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert close(tmp_path / "out/adapter", wanted)


def test_a_mistake_ends_all_of_them_with_one_line(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = quick_config(tiny_model, tmp_path / "none.json", tmp_path / "out")
    before = set(children(os.getpid()))
    assert main([str(told.write(tmp_path / "config.json")), "--processes", "2"]) == 1
    assert set(children(os.getpid())) == before and "WORLD_SIZE" not in os.environ
    lines = set(capfd.readouterr().err.strip().splitlines())
    assert len(lines) == 1 and "none.json" in lines.pop()
