"""`make setup-benchmark`: the optional group `benchmark`, after `make setup`.

vla-eval goes beside the core into `.venv`, for `grape serve`. The LIBERO simulator goes into `.venv-benchmark`, because
its OpenCV and ours are the same module. Stamps and logs as in set_up.py, whose steps these are."""

from __future__ import annotations

import ctypes.util
import os
import sys

import machine
import set_up
import torch_build
from set_up import ROOT, STATE, SetUpError, digest, install, pinned, run

VENV = ROOT / ".venv-benchmark"
PYTHON = VENV / "bin" / "python"
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
SERVER_LOCK = ROOT / "requirements-benchmark.lock"
CLIENT_LOCK = ROOT / "requirements-libero.lock"


def make_client_venv() -> None:
    """An empty environment that git ignores."""
    clear = ["--clear"] if VENV.exists() else []
    run([sys.executable, "-m", "venv", str(VENV), *clear], "benchmark-venv")
    (VENV / ".gitignore").write_text("*\n")


def install_client() -> str:
    """The client's packages, exactly as locked; PyTorch is the build that suits the machine."""
    requirement = pinned("torch")
    gpu = machine.has_gpu()
    try:
        index, cuda = torch_build.choose(PIP, requirement, gpu, os.environ.get("GRAPE_TORCH_INDEX"))
    except torch_build.TorchError as error:
        raise SetUpError(str(error)) from None
    bound = ["-c", str(CLIENT_LOCK)] if cuda else ["--no-deps"]
    quiet = ["--no-compile", "--progress-bar", "off"]
    options = torch_build.index_options(index)
    run([*PIP, "install", *quiet, *options, *bound, requirement], "benchmark-torch")
    run([*PIP, "install", *quiet, "--no-deps", "-r", str(CLIENT_LOCK)], "benchmark-client")
    return "with OSMesa" if ctypes.util.find_library("OSMesa") else "to render: apt install libosmesa6 libegl1"


def main() -> int:
    if not (STATE / "packages.stamp").is_file():
        print("setup: run `make setup` first", file=sys.stderr)
        return 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = digest([], version, str(ROOT))
    steps = set_up.Steps(3)
    core = (STATE / "packages.stamp").read_text()
    try:
        steps(
            "benchmark-server",
            "vla-eval beside the core",
            digest([SERVER_LOCK], base, core),
            lambda: install(SERVER_LOCK, "benchmark-server"),
        )
        if not PYTHON.exists():
            (STATE / "benchmark-venv.stamp").unlink(missing_ok=True)
            (STATE / "benchmark-client.stamp").unlink(missing_ok=True)
        steps("benchmark-venv", f"virtual environment in {VENV.name}", base, make_client_venv)
        steps("benchmark-client", "LIBERO and its assets", digest([CLIENT_LOCK], base), install_client)
    except SetUpError as error:
        set_up.tell(error)
        return 1
    print("setup: the group `benchmark` is ready (docs/benchmarks.md)" if steps.done else "setup: nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
