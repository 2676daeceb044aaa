"""`make setup-lerobot`: LeRobot in `.venv-lerobot`, to check exported datasets with its own reader.

It wants another Python, torch and huggingface-hub than the core: nothing is shared, and `make setup` need not have
run. Takes 2 to 6 GB. Stamps and logs as in set_up.py, whose steps these are. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import machine
import set_up
import torch_build
from set_up import ROOT, STATE, SetUpError, digest, run

VENV = ROOT / ".venv-lerobot"
PYTHON = VENV / "bin" / "python"
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
LOCK = ROOT / "requirements-lerobot.lock"
OLDEST = (3, 12)
"""What LeRobot asks for."""
BASE = "GRAPE_LEROBOT_BASE"


def new_enough(python: str) -> bool:
    """Whether ``python`` runs and is one that LeRobot takes."""
    code = f"import sys; sys.exit(sys.version_info[:2] < {OLDEST})"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def base_python() -> str:
    """The Python to make the environment of: the one in GRAPE_LEROBOT_BASE, this one, or one on PATH.

    Raises SetUpError where there is none."""
    named = os.environ.get(BASE)
    offered = [named] if named else [sys.executable, shutil.which("python3.12"), shutil.which("python3.13")]
    for python in offered:
        if python and new_enough(python):
            return python
    wanted = ".".join(map(str, OLDEST))
    raise SetUpError(f"LeRobot needs Python {wanted}: {named or f'none on PATH; name one in {BASE}'}")


def pins(*names: str) -> list[str]:
    """The lock file's lines for these packages. Raises SetUpError for one that is not there."""
    lines = LOCK.read_text().splitlines()
    found = [line for name in names for line in lines if line.startswith(f"{name}==")]
    if len(found) != len(names):
        raise SetUpError(f"{LOCK.name} does not pin {' and '.join(names)}")
    return found


def make_venv() -> None:
    """An empty environment that git ignores. Raises SetUpError."""
    clear = ["--clear"] if VENV.exists() else []
    run([base_python(), "-m", "venv", str(VENV), *clear], "lerobot-venv")
    (VENV / ".gitignore").write_text("*\n")


def install() -> str:
    """What the lock file says; returns which build of PyTorch it is."""
    torch = pins("torch", "torchvision")
    try:
        index, cuda = torch_build.choose(PIP, torch[0], machine.has_gpu(), os.environ.get("GRAPE_TORCH_INDEX"))
    except torch_build.TorchError:
        index, cuda = None, True  # reading needs no GPU: where nothing else is offered, a CUDA build will do
    quiet = ["--no-compile", "--progress-bar", "off"]
    bound = ["-c", str(LOCK)] if cuda else ["--no-deps"]
    run([*PIP, "install", *quiet, *torch_build.index_options(index), *bound, *torch], "lerobot-torch")
    run([*PIP, "install", *quiet, "--no-deps", "-r", str(LOCK)], "lerobot")
    return f"{'CUDA' if cuda else 'CPU'} build of PyTorch"


def main() -> int:
    STATE.mkdir(exist_ok=True)
    steps = set_up.Steps(2)
    try:
        if not new_enough(str(PYTHON)):
            for name in ("lerobot-venv", "lerobot"):
                (STATE / f"{name}.stamp").unlink(missing_ok=True)
        key = digest([], str(ROOT))
        steps("lerobot-venv", f"virtual environment in {VENV.name}", key, make_venv)
        steps("lerobot", "LeRobot", digest([LOCK], key), install)
    except SetUpError as error:
        set_up.tell(error)
        return 1
    print("setup: the group `lerobot` is ready (docs/export.md)" if steps.done else "setup: nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
