"""mypy over every package of the workspace, in one run, and over the scripts.

The packages lie in folders of their own, `ros2_ws/src/NAME/NAME`, so they are named as packages and found
through MYPYPATH; naming folders instead would give each module two names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def package_roots() -> list[Path]:
    """Folders that hold a Python package of the same name as their ROS package (`launch` holds `grape`)."""
    roots = [ROOT / "launch", *sorted((ROOT / "ros2_ws" / "src").glob("grape_*"))]
    return [root for root in roots if (root / "setup.py").is_file()]


def main() -> int:
    roots = package_roots()
    names = ["grape" if root.name == "launch" else root.name for root in roots]
    missing = [name for name, root in zip(names, roots, strict=True) if not (root / name / "__init__.py").is_file()]
    if missing:
        print(f"typecheck: no __init__.py in package {', '.join(missing)}", file=sys.stderr)
        return 1
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, roots))}
    packages = [word for name in names for word in ("-p", name)]
    scripts = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "scripts").glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    status = 0
    for what, arguments, settings in (
        ("packages", packages, environment),
        ("scripts", scripts, {**os.environ, "MYPYPATH": str(ROOT / "scripts")}),
    ):
        print(f"mypy: {what}", flush=True)
        status |= subprocess.run([*command, *arguments], cwd=ROOT, env=settings, check=False).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
