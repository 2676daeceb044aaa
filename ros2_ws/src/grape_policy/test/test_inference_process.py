"""The inference process against the same engine in this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grape_episode.testing import wait_for
from grape_policy.checkpoint import load_checkpoint
from grape_policy.engine import Engine
from grape_policy.errors import AdapterError, InferenceError, LoadError, ProcessEndedError, ProcessingError, received
from grape_policy.inference_process import EngineProcess
from grape_policy.parameters import EngineSettings
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint

TEXT = INSTRUCTIONS[0]
FRAMES = np.random.default_rng(5).integers(0, 256, (4, 120, 160, 3), dtype=np.uint8)
IMAGE = FRAMES[0, :56, :56]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def process(model: Path) -> Iterator[EngineProcess]:
    with EngineProcess(EngineSettings(str(model))) as engine:
        yield engine


def test_it_computes_what_the_engine_computes(process: EngineProcess, model: Path) -> None:
    engine = Engine(load_checkpoint(model))
    assert (process.facts.base_hash, process.facts.image_size) == (engine.vla.base_hash, 56)
    assert process.facts.rotation == engine.vla.spec.rotation and process.serving.adapter_seq == 0
    for step, frame in enumerate(FRAMES):
        answer = process.decide(frame, TEXT, 7, step, 1.0).result(20.0)
        image = engine.vla.processor.model_input(frame)
        np.testing.assert_array_equal(answer.image, image)
        for made in (answer.decision, process.act(image, TEXT, 7, step, 1.0)):
            expected = engine.act(image, TEXT, 7, step, 1.0)
            for name in ("tokens", "logprobs", "margins", "action"):
                one, other = getattr(made, name), getattr(expected, name)
                assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name


def test_errors_cross_with_their_type_and_text(process: EngineProcess, tmp_path: Path) -> None:
    with pytest.raises(ProcessingError, match="the instruction is empty"):
        process.decide(FRAMES[0], " ", 0, 0, 0.0).result(20.0)
    with pytest.raises(ProcessingError, match=r"image must be \(56, 56, 3\) uint8"):
        process.act(FRAMES[0], TEXT, 0, 0, 0.0)
    with pytest.raises(AdapterError, match="nowhere: no such adapter folder"):
        process.load_adapter(tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="nothing"):
        process.rollback()
    assert process.act(IMAGE, TEXT, 0, 0, 0.0).adapter_seq == 0
    assert str(received("KeyError", "'x'")) == "KeyError: 'x'" and isinstance(received("Any", ""), InferenceError)


def test_the_base_model_is_an_adapter_too(process: EngineProcess) -> None:
    before = process.serving
    staged = process.load_adapter(None)
    assert staged.adapter_id == "" and process.serving == before
    assert process.flip().adapter_seq == before.adapter_seq + 1 == process.serving.adapter_seq
    assert process.previous == before and 0.0 < process.flip_seconds < 1.0
    assert process.act(IMAGE, TEXT, 0, 0, 0.0).adapter_seq == process.serving.adapter_seq
    assert process.rollback().adapter_seq == before.adapter_seq + 2


def stopped(process: EngineProcess) -> None:
    """From now on every inference takes as long as the test wants: until SIGCONT."""
    os.kill(process.process.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{process.process.pid}/stat")
    wait_for(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", "the process to stop")


def test_a_request_that_nobody_waits_for_any_more_is_dropped_for_a_newer_one(process: EngineProcess) -> None:
    stopped(process)
    try:
        asked = [process.decide(IMAGE, TEXT, 0, step, 0.0) for step in range(6)]
    finally:
        os.kill(process.process.pid, signal.SIGCONT)
    assert asked[-1].result(20.0).image.shape == (56, 56, 3)
    kinds = [type(one.exception(20.0)).__name__ for one in asked]
    assert kinds[-1] == "NoneType" and "SupersededError" in kinds[:-1]
    assert set(kinds[:-1]) <= {"SupersededError", "NoneType"}


def test_a_load_is_not_queued_before_an_act(process: EngineProcess) -> None:
    """Requests to act and to load go over channels of their own, so that an act answers while a load lasts."""
    done = threading.Event()

    def load() -> None:
        for _ in range(50):
            with pytest.raises(AdapterError):
                process.load_adapter(Path("/no/such/folder"))
        done.set()

    threading.Thread(target=load).start()
    acts = 0
    while not done.is_set() or acts < 3:
        process.act(IMAGE, TEXT, 0, acts, 0.0)
        acts += 1
    assert done.wait(20.0)


def test_a_model_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LoadError, match=str(empty)) as caught:
        EngineProcess(EngineSettings(str(empty)))
    assert "\n" not in str(caught.value)


def test_a_killed_process_is_noticed_at_once_in_every_call(model: Path) -> None:
    said: list[str] = []
    with EngineProcess(EngineSettings(str(model), warmup=0), ended=said.append) as process:
        stopped(process)
        pending = process.decide(IMAGE, TEXT, 0, 0, 0.0)
        began = time.monotonic()
        os.kill(process.process.pid, signal.SIGKILL)
        with pytest.raises(ProcessEndedError, match=rf"inference process {process.process.pid} was ended by SIGKILL"):
            pending.result(20.0)
        assert time.monotonic() - began < 1.0
        assert said == [process.problem]
        for call in (process.flip, process.rollback, lambda: process.load_adapter(None)):
            with pytest.raises(ProcessEndedError, match="SIGKILL"):
                call()
        with pytest.raises(ProcessEndedError, match="SIGKILL"):
            process.act(IMAGE, TEXT, 0, 0, 0.0)
    assert said == [process.problem], "once"


def test_closing_ends_it_also_within_an_inference_and_is_no_failure(model: Path) -> None:
    said: list[str] = []
    process = EngineProcess(EngineSettings(str(model), warmup=0), ended=said.append)
    pending = [process.decide(FRAMES[step % 4], TEXT, 0, step, 0.0) for step in range(20)]
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 3.0 and process.process.returncode == 0
    for one in pending:
        error = one.exception(5.0)
        assert error is None or "closed" in str(error) or "newer" in str(error)
    process.close()
    assert not said


def test_a_signal_to_the_whole_group_is_not_for_it(process: EngineProcess) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.process.pid, number)
    assert process.act(IMAGE, TEXT, 0, 0, 0.0).tokens.shape == (7,)


PARENT = """
import sys
from grape_policy.inference_process import EngineProcess
from grape_policy.parameters import EngineSettings
engine = EngineProcess(EngineSettings(sys.argv[1], warmup=0))
print(engine.process.pid, sorted({"torch", "transformers", "rclpy"} & set(sys.modules)), flush=True)
sys.stdin.read()
"""


def test_it_ends_when_its_parent_is_killed_and_the_parent_needs_no_torch(model: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    number, imported = parent.stdout.readline().split(maxsplit=1)
    assert json.loads(imported) == []
    maps = Path(f"/proc/{number}/maps").read_text()
    assert "libtorch" in maps and "rclpy" not in maps
    parent.kill()
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{number}").exists() or _zombie(int(number)), "the inference process to end", 5.0)


def _zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
