"""Processes without ROS: small Python modules instead of nodes."""

import os
import signal

import pytest
import yaml

from grape.processes import OWNER, Command, NodeProcess, parameter_document, stop
from grape_episode.testing import wait_for

PATIENT = """
import os, signal, sys, time
print('started', sys.argv[1:], os.environ['GRAPE_STACK'], flush=True)
def end(number, frame):
    print('ended by', signal.Signals(number).name, time.monotonic(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, end)
while True:
    time.sleep(0.05)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('started', flush=True)
while True:
    time.sleep(0.05)
"""
FAILING = "import sys; print('fine so far'); print('profile x.yaml: no limit max_speed', file=sys.stderr); sys.exit(3)"


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    running = []

    def begin(name, source, **settings):
        (tmp_path / f"stand_in_{name}.py").write_text(source)
        process = NodeProcess(Command(name, f"stand_in_{name}", tmp_path / "logs" / f"{name}.log", **settings))
        running.append(process)
        return process

    yield begin
    stop(running, grace=0.5)


def started(process):
    wait_for(lambda: "started" in process.log.read_text(), f"{process.name} to start")


def test_parameters_go_through_a_file_beside_the_log(start, tmp_path):
    extra = tmp_path / "extra.yaml"
    extra.write_text("{}")
    process = start("one", PATIENT, parameters={"text": "a: b", "many": [1, 2]}, parameter_files=[extra])
    started(process)
    own = process.log.with_suffix(".yaml")
    assert yaml.safe_load(own.read_text()) == {"/**/one": {"ros__parameters": {"text": "a: b", "many": [1, 2]}}}
    # the node's own file comes last: it has the last word
    assert f"['--ros-args', '--params-file', '{extra}', '--params-file', '{own}'] {os.getpid()}" in process.last_line()
    assert OWNER == "GRAPE_STACK"


def test_paths_become_text(tmp_path):
    assert str(tmp_path) in parameter_document("n", {"root": tmp_path})


def test_ended_quotes_the_end_of_the_log(start):
    process = start("gate", FAILING)
    assert process.wait(20)
    text = process.ended()
    assert text is not None and text.startswith("gate ended with status 3: profile x.yaml: no limit max_speed")
    assert "\n" not in text


def test_ended_names_the_signal(start):
    process = start("one", STUBBORN)
    assert process.ended() is None
    started(process)
    process.signal(signal.SIGKILL)
    assert process.wait(10)
    assert "was ended by SIGKILL" in (process.ended() or "")


def test_stop_tells_the_last_first_and_waits_for_it(start):
    processes = [start(name, PATIENT) for name in ("world", "policy")]
    for process in processes:
        started(process)
    assert stop(processes, grace=20.0) == []
    assert [process.process.returncode for process in processes] == [0, 0]
    world, policy = (float(process.last_line().split()[-1]) for process in processes)
    assert policy < world


def test_stop_kills_what_does_not_listen_and_names_it(start):
    process = start("deaf", STUBBORN)
    started(process)
    assert stop([process], grace=0.5) == ["deaf"]
    assert not process.running()
