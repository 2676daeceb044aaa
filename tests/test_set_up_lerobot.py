"""The set-up of the group `lerobot`: which Python it takes, what its lock holds; nothing is installed."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lerobot(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delenv("GRAPE_LEROBOT_BASE", raising=False)
    return script("set_up_lerobot")


@pytest.fixture
def python(tmp_path):
    """A made-up interpreter: asked whether it is new enough, it says so, or not."""

    def make(name: str, fit: bool) -> str:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\nexit {int(not fit)}\n")
        file.chmod(0o755)
        return str(file)

    return make


def test_a_python_is_asked_for_its_version(lerobot, tmp_path):
    assert lerobot.new_enough(sys.executable) == (sys.version_info >= (3, 12))
    assert not lerobot.new_enough(str(tmp_path / "nowhere"))


def test_the_python_that_is_named_is_taken_or_refused_by_name(lerobot, python, monkeypatch):
    new, old = python("mine", True), python("old", False)
    monkeypatch.setenv("GRAPE_LEROBOT_BASE", new)
    assert lerobot.base_python() == new
    for other in (old, "/nowhere/python"):
        monkeypatch.setenv("GRAPE_LEROBOT_BASE", other)
        with pytest.raises(lerobot.SetUpError, match=f"LeRobot needs Python 3.12: {other}"):
            lerobot.base_python()


def test_this_python_is_taken_where_it_is_new_enough_else_one_on_path(lerobot, python, monkeypatch, tmp_path):
    monkeypatch.setattr(lerobot.sys, "executable", python("this", False))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    python("python3.12", False)  # as pyenv's shims do, it is there and cannot be used
    expected = python("python3.13", True)
    assert lerobot.base_python() == expected
    monkeypatch.setattr(lerobot.sys, "executable", python("newer", True))
    assert lerobot.base_python() == str(tmp_path / "newer")


def test_where_there_is_none_one_line_says_what_to_do(lerobot, python, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lerobot, "PYTHON", tmp_path / "none")
    monkeypatch.setattr(lerobot, "STATE", tmp_path)
    monkeypatch.setattr(lerobot.set_up, "STATE", tmp_path)
    monkeypatch.setattr(lerobot.sys, "executable", python("this", False))
    monkeypatch.setattr(lerobot.shutil, "which", lambda name: None)
    assert lerobot.main() == 1
    said = capsys.readouterr().err
    assert said == "setup: LeRobot needs Python 3.12: none on PATH; name one in GRAPE_LEROBOT_BASE\n"


def test_the_lock_holds_what_is_asked_for_and_no_library_of_cuda(lerobot):
    named = re.findall(r"^([a-z-]+)(?:\[.*\])?==(\S+)", (ROOT / "requirements-lerobot.in").read_text(), re.MULTILINE)
    assert named and {f"{name}=={version}" for name, version in named} <= set(lerobot.LOCK.read_text().splitlines())
    assert len(lerobot.pins("torch", "torchvision")) == 2
    with pytest.raises(lerobot.SetUpError, match=r"requirements-lerobot.lock does not pin torch and horse"):
        lerobot.pins("torch", "horse")
    assert not re.search(r"^(nvidia-|cuda-|triton==)", lerobot.LOCK.read_text(), re.MULTILINE)


def test_a_lock_without_a_python_for_it_is_left_as_it_is(monkeypatch, python, capsys, lerobot):
    lock = script("lock")
    monkeypatch.setattr(lock, "resolve", lambda *_: pytest.fail("resolved by a Python that LeRobot does not take"))
    lock.lock_apart([python("old", False)], False)
    assert "requirements-lerobot.lock: left as it is" in capsys.readouterr().err
