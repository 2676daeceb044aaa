"""What the machine offers: ROS binaries or none, a GPU or none, and what is missing for a build."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROS_PREFIX = Path("/opt/ros/jazzy")
FRESH_DISK_GB = 4.0
"""A fresh virtual environment and build take 2.4 GB; pip unpacks beside it."""


def ros_prefix(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of the ROS 2 binaries, None where there are none. GRAPE_ROS_PREFIX overrides the usual place;
    when it is set and empty, binaries that are there are not used."""
    text = environment.get("GRAPE_ROS_PREFIX", str(ROS_PREFIX))
    return Path(text) if text and (Path(text) / "setup.bash").is_file() else None


def has_gpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an NVIDIA GPU is visible (device file, or a driver tool that answers). GRAPE_GPU=1 or 0 overrides what is
    seen: an image is built where no GPU is, for a machine that has one."""
    if environment.get("GRAPE_GPU") in ("0", "1"):
        return environment["GRAPE_GPU"] == "1"
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def compiler(environment: Mapping[str, str] = os.environ) -> str | None:
    """Path of the C++ compiler CMake will take: $CXX, c++, g++ or clang++."""
    names = [environment["CXX"]] if environment.get("CXX") else ["c++", "g++", "clang++"]
    path = environment.get("PATH")
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def compiles(program: str) -> bool:
    """Whether the compiler builds and links a program that uses the standard library."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <string>\nint main() { return std::string().size(); }\n")
        command = [program, "-std=c++17", str(source), "-o", str(Path(folder) / "probe")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def missing(root: Path, environment: Mapping[str, str] = os.environ) -> list[str]:
    """One line for each thing that set-up needs and this machine lacks; empty when all is there."""
    lines = []
    path = environment.get("PATH")
    program = compiler(environment)
    if program is None:
        lines.append("no C++ compiler (c++, g++ or clang++): install one (Debian, Ubuntu: apt install g++)")
    elif not compiles(program):
        lines.append(f"{program} cannot build a C++17 program: install its standard library (apt install g++)")
    if shutil.which("git", path=path) is None:
        lines.append("no git: install it (apt install git); episodes and adapters record the version of the code")
    if shutil.which("make", path=path) is None:
        lines.append("no make: install it (apt install make)")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        lines.append(f"Python {version} cannot make virtual environments: apt install python{version}-venv")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        lines.append(f"no headers for Python {version}: apt install python{version}-dev")
    if ros_prefix(environment) is None and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        lines.append(
            f"{sys.platform} on {platform.machine()}: ROS 2 wheels exist for Linux on x86_64 only; "
            f"elsewhere install the ROS 2 Jazzy binaries to {ROS_PREFIX}"
        )
    if not (root / "ros2_ws" / "src" / "grape" / "package.xml").is_file():
        lines.append("ros2_ws/src/grape must be a link to ../../launch: clone with git on a file system with links")
    free = shutil.disk_usage(root).free / 1e9
    if not (root / ".venv").exists() and free < FRESH_DISK_GB:
        lines.append(f"{free:.1f} GB free at {root}: set-up takes {FRESH_DISK_GB:g} GB")
    return lines
