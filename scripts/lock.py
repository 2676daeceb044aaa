"""`make lock`: requirements*.lock from the .in files.

    python scripts/lock.py [--upgrade] PYTHON [PYTHON ...]

Each PYTHON (an interpreter; give 3.11 and 3.12) resolves the direct requirements in a throwaway virtual
environment; nothing is installed. Pins that are in the lock files stay unless --upgrade is given. The first
interpreter's version of a package wins. The optional groups follow the core's pins, save LeRobot's. CUDA libraries are
left out: set-up lets pip choose them on a machine with a GPU. Hashes are not recorded, because PyTorch's builds for one
version have different files."""

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
BESIDE_CORE = ("requirements-benchmark.in", "requirements-benchmark.lock")
"""Installed into the core's environment, where it is wanted: its lock holds what the core's does not."""
OF_ITS_OWN = ("requirements-libero.in", "requirements-libero.lock")
"""Installed into an environment of its own."""
APART = ("requirements-lerobot.in", "requirements-lerobot.lock")
"""As OF_ITS_OWN, but of versions other than the core's, and for Python 3.12 or newer only."""
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


def lock_apart(pythons: list[str], upgrade: bool) -> None:
    """Lock APART by the first interpreter that is new enough, bound by its own pins alone."""
    code = "import sys; sys.exit(sys.version_info[:2] < (3, 12))"
    fit = [python for python in pythons if subprocess.run([python, "-c", code], check=False).returncode == 0]
    if not fit:
        print(f"{APART[1]}: left as it is, no interpreter of 3.12 or newer was named", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = ROOT / APART[1]
        bound = Path(folder) / "constraints.txt"
        bound.write_text("" if upgrade or not kept.exists() else kept.read_text())
        write(APART, resolve(fit[0], [APART[0]], bound))


def write(pair: tuple[str, str], pins: dict[str, str]) -> None:
    """The lock file of a pair (.in, .lock)."""
    lines = [f"{name}=={version}" for name, version in sorted(pins.items()) if not CUDA.match(name)]
    head = f"# Written by `make lock` from {pair[0]}; installed without resolution."
    (ROOT / pair[1]).write_text("\n".join([head, *lines]) + "\n")
    print(f"{pair[1]}: {len(lines)} packages")


def direct(file: str) -> set[str]:
    """Packages that a .in file names."""
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {canonical(re.split(r"[\[=]", line)[0]) for line in lines if line}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="resolve afresh instead of keeping the pins")
    parser.add_argument("python", nargs="+", help="interpreter to resolve for")
    args = parser.parse_args()
    sources, locks = zip(*PAIRS, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        every_lock = [*locks, BESIDE_CORE[1], OF_ITS_OWN[1]]
        kept = [] if args.upgrade else [ROOT / lock for lock in every_lock if (ROOT / lock).exists()]
        constraints.write_text("\n".join(file.read_text() for file in kept))
        core: dict[str, str] = {}
        every: dict[str, str] = {}
        for python in args.python:
            core = {**resolve(python, [sources[0]], constraints), **core}
            every = {**resolve(python, list(sources), constraints), **every}
        found = "\n".join(f"{name}=={version}" for name, version in every.items())
        constraints.write_text(f"{constraints.read_text()}\n{found}\n")
        beside: dict[str, str] = {}
        own: dict[str, str] = {}
        for python in args.python:
            beside = {**resolve(python, [sources[0], BESIDE_CORE[0]], constraints), **beside}
            own = {**resolve(python, [OF_ITS_OWN[0]], constraints), **own}
    shared = {name: every[name] for name in core}
    extra = dict(item.split("==") for item in NO_DEPENDENCIES)
    ros = {name: version for name, version in every.items() if name not in core}
    for pair, pins in zip(PAIRS, ({**shared, **extra}, ros), strict=True):
        write(pair, pins)
    named = direct(BESIDE_CORE[0])
    write(BESIDE_CORE, {name: version for name, version in beside.items() if name not in core or name in named})
    write(OF_ITS_OWN, own)
    lock_apart(args.python, args.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
