"""`make lock`: requirements.lock and requirements-ros.lock from the two .in files.

    python scripts/lock.py [--upgrade] PYTHON [PYTHON ...]

Each PYTHON (an interpreter; give 3.11 and 3.12) resolves the direct requirements in a throwaway virtual
environment; nothing is installed. Pins that are in the lock files stay unless --upgrade is given. The first
interpreter's version of a package wins. CUDA libraries are left out: set-up lets pip choose them on a machine
with a GPU. Hashes are not recorded, because PyTorch's builds for one version have different files."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (("requirements.in", "requirements.lock"), ("requirements-ros.in", "requirements-ros.lock"))
NO_DEPENDENCIES = ("pybullet-grasper==0.0.2",)
"""Installed as they are: what they ask for is not needed for the files we take from them."""
CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(python: str, files: list[str], constraints: Path) -> dict[str, str]:
    """{package: version} that pip would install for ``files``, without local version labels."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)
        command = [f"{folder}/venv/bin/pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", f"{folder}/report.json", "-c", str(constraints)]
        for file in files:
            command += ["-r", str(ROOT / file)]
        subprocess.run(command, check=True)
        report = json.loads(Path(folder, "report.json").read_text())
    found = (entry["metadata"] for entry in report["install"])
    return {canonical(m["name"]): m["version"].partition("+")[0] for m in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="resolve afresh instead of keeping the pins")
    parser.add_argument("python", nargs="+", help="interpreter to resolve for")
    args = parser.parse_args()
    sources, locks = zip(*PAIRS, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        kept = [] if args.upgrade else [ROOT / lock for lock in locks if (ROOT / lock).exists()]
        constraints.write_text("\n".join(file.read_text() for file in kept))
        core: dict[str, str] = {}
        every: dict[str, str] = {}
        for python in args.python:
            core = {**resolve(python, [sources[0]], constraints), **core}
            every = {**resolve(python, list(sources), constraints), **every}
    shared = {name: every[name] for name in core}
    extra = dict(item.split("==") for item in NO_DEPENDENCIES)
    ros = {name: version for name, version in every.items() if name not in core}
    for lock, pins in zip(locks, ({**shared, **extra}, ros), strict=True):
        lines = [f"{name}=={version}" for name, version in sorted(pins.items()) if not CUDA.match(name)]
        head = f"# Written by `make lock` from {lock.replace('.lock', '.in')}; installed without resolution."
        (ROOT / lock).write_text("\n".join([head, *lines]) + "\n")
        print(f"{lock}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
