"""``grape serve`` as a command: what is wrong is said in one line, before a client can connect."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grape.cli import app
from grape.console import guarded
from grape.serve_model import PolicySettings, prepare_engine
from grape_policy.adapters import AdapterError, read_manifest
from grape_policy.checkpoint import load_checkpoint
from grape_policy.testing import INSTRUCTIONS, write_random_adapter, write_random_checkpoint

with_vla_eval = pytest.mark.skipif(
    importlib.util.find_spec("vla_eval") is None,
    reason="the dependency group `benchmark` is not installed (make setup-benchmark)",
)
CONFIGS = Path(__file__).parents[2] / "benchmarks" / "clients"
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny", seed=1)


@pytest.fixture
def refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command with wrong arguments; the one line it ends with."""

    def run(*arguments: str, model: Path = model) -> str:
        given = ["serve", "--model", str(model), "--registry", str(tmp_path / "none"), "--port", "0", *arguments]
        assert guarded(lambda: app(given, standalone_mode=False)) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("grape: ")
        return lines[0]

    return run


def test_without_vla_eval_the_group_to_install_is_named(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vla_eval" else found(name))
    line = refused()
    assert "vla_eval" in line and "`benchmark`" in line and "make setup-benchmark" in line


@with_vla_eval
def test_wrong_use_ends_in_one_line_that_names_it(refused: Refused, tmp_path: Path) -> None:
    assert "unnorm_key 'bridge'" in (line := refused("--unnorm-key", "bridge")) and "random" in line
    assert "--device gpu" in refused("--device", "gpu")
    assert "--dtype float8" in refused("--dtype", "float8")
    assert "no such adapter folder" in refused("--adapter", str(tmp_path / "missing"))
    assert "--temperature inf" in refused("--temperature", "inf")
    assert "gripper 'left'" in refused("--gripper", "left")
    assert "--host no.such.host.invalid" in refused("--host", "no.such.host.invalid")
    assert f"{tmp_path / 'config.json'}: no such file" in refused(model=tmp_path)
    assert "no such model folder" in refused(model=tmp_path / "missing")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"--port {port}" in refused("--port", port)


@with_vla_eval
def test_pickled_weights_are_refused(refused: Refused, model: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(model, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "pytorch_model.bin" in (line := refused(model=pickled)) and "safetensors" in line


@with_vla_eval
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_named(refused: Refused) -> None:
    assert "--device cuda: there is no such CUDA device" in refused("--device", "cuda")


def test_settings_reach_the_engine(model: Path) -> None:
    engine = prepare_engine(PolicySettings(str(model), "none", dtype="bfloat16", center_crop=True), batch=2)
    assert engine.vla.model.embeddings.weight.dtype == torch.bfloat16
    assert engine.vla.processor.center_crop and engine.serving.adapter_id == ""


def test_the_adapter_is_the_named_one_or_the_registrys_or_none(model: Path, tmp_path: Path) -> None:
    vla = load_checkpoint(model)
    named, current = (write_random_adapter(tmp_path / name, vla, 4, seed) for seed, name in ((1, "a"), (2, "b")))
    (tmp_path / "current").write_text("b\n")

    def serving(adapter: str) -> str:
        settings = PolicySettings(str(model), adapter, str(tmp_path))
        return prepare_engine(settings).serving.adapter_id

    assert serving(str(named)) == read_manifest(named).adapter_id
    assert serving("") == read_manifest(current).adapter_id
    assert serving("none") == ""
    with pytest.raises(AdapterError, match="rank 4"):
        prepare_engine(PolicySettings(str(model), str(named), adapter_rank=2))


@with_vla_eval
def test_the_command_serves_vla_evals_client_and_ends_by_ctrl_c(model: Path) -> None:
    import anyio
    import numpy as np
    from vla_eval.connection import Connection

    async def act(url: str) -> list[float]:
        async with Connection(url, timeout=60) as client:
            await client.start_episode({"task": {"name": INSTRUCTIONS[0], "episode_idx": 0}})
            image = np.zeros((256, 256, 3), np.uint8)
            observation = {"images": {"agentview": image}, "task_description": INSTRUCTIONS[0]}
            answer = await client.act(observation)
            return list(answer["actions"])

    command = [sys.executable, "-m", "grape.cli", "serve", "--model", str(model), "--adapter", "none", "--port", "0"]
    command += ["--host", "0.0.0.0", "--max-batch-size", "2"]
    # a terminal narrower than the line would break it
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None and running.stderr is not None
        told = ""
        while "Ctrl-C ends" not in told:
            line = running.stdout.readline()
            assert line, running.stderr.read()
            told += line
        text = " ".join(told.split())
        assert "0.0.0.0 is not loopback" in text
        url = re.search(r"ws://[\d.]+: ?\d+", text)
        assert url is not None
        action = anyio.run(act, url[0].replace(" ", "").replace("0.0.0.0", "127.0.0.1"))
        assert len(action) == 7 and action[6] in (-1.0, 1.0)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
        errors = running.stderr.read()
        assert "Traceback" not in errors and "Task exception" not in errors
    finally:
        running.kill()
        running.communicate()


@with_vla_eval
@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_clients_configurations_are_read_by_vla_eval(file: Path) -> None:
    from vla_eval.cli.config_loader import load_config
    from vla_eval.config import EvalConfig, ServerConfig
    from vla_eval.registry import resolve_import_string

    config = load_config(str(file))
    assert ServerConfig.from_dict(config["server"]).url == "ws://127.0.0.1:8000"  # what `grape serve` listens on
    names = set()
    for entry in config["benchmarks"]:
        evaluated = EvalConfig.from_dict(entry)
        benchmark = resolve_import_string(evaluated.benchmark)(**evaluated.params)
        assert benchmark.get_metadata()["max_steps"] in (60, 120, 220)
        names.add(evaluated.resolved_name())
    assert len(names) == len(config["benchmarks"])


def test_the_configurations_are_there() -> None:
    assert {"libero_spatial", "simpler_widowx"} <= {file.stem for file in CONFIGS.glob("*.yaml")}
