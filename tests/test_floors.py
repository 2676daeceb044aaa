"""The house keeps its floors: who may import whom, and who may import rclpy. Read from the source, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {p.name: p / p.name for p in sorted((ROOT / "ros2_ws/src").glob("grape_*")) if (p / "setup.py").exists()}
PACKAGES["grape"] = ROOT / "launch/grape"
MAY_IMPORT = {
    "grape_episode": set(),
    "grape_policy": {"grape_episode"},
    "grape_reward": {"grape_episode"},
    "grape_robot": {"grape_episode"},
    "grape_sim": {"grape_episode"},
    "grape_trainer": {"grape_episode", "grape_policy", "grape_reward"},
    "grape": set(PACKAGES) - {"grape"},
}
ROS = {
    "rclpy",
    "grape_interfaces",
    "control_msgs",
    "controller_manager_msgs",
    "franka_msgs",
    "std_msgs",
    "sensor_msgs",
    "geometry_msgs",
    "lifecycle_msgs",
    "std_srvs",
}
SOURCES = [(name, path) for name, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]
IDS = [str(path.relative_to(ROOT)) for _, path in SOURCES]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.split(".")[0]


def test_every_package_is_here() -> None:
    assert set(PACKAGES) == set(MAY_IMPORT)


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_nothing_imports_upwards_or_sideways(package: str, path: Path) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [(line, name) for line, name in imported(path) if name in PACKAGES and name not in allowed]
    assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_only_nodes_and_one_ros_module_speak_ros(package: str, path: Path) -> None:
    if path.name.endswith("_node.py") or path.name == "ros.py":
        return
    wrong = [(line, name) for line, name in imported(path) if name in ROS]
    assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_nothing_unsafe_is_called(package: str, path: Path) -> None:
    """No pickle, no evaluation of text, no remote code, anywhere in what ships."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [
        (line, name) for line, name in imported(path) if name in {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"eval", "exec", "compile", "torch.load", "torch.save"} or name.endswith("__import__"):
                wrong.append((node.lineno, name))
            wrong += [
                (node.lineno, k.arg)
                for k in node.keywords
                if k.arg in {"trust_remote_code", "allow_pickle"} and getattr(k.value, "value", None) is not False
            ]
    assert not wrong, f"{path}: {wrong}"
