"""The set-up scripts, on machines that lack things: folders and indexes made up, nothing is installed."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine():
    return script("machine")


@pytest.fixture
def torch_build():
    return script("torch_build")


# --- what is missing is said in one line each ---


def test_this_machine_lacks_nothing(machine):
    assert machine.missing(ROOT) == []


def test_an_empty_path_lacks_compiler_git_and_make(machine, tmp_path):
    lines = machine.missing(ROOT, {"PATH": str(tmp_path)})
    assert [line.split(":")[0] for line in lines] == ["no C++ compiler (c++, g++ or clang++)", "no git", "no make"]
    assert all("apt install" in line for line in lines)


def test_a_compiler_that_cannot_compile_is_named(machine, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    lines = machine.missing(ROOT, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert lines == [f"{broken} cannot build a C++17 program: install its standard library (apt install g++)"]


def test_a_gpu_can_be_declared_for_the_machine_that_an_image_is_for(machine):
    assert machine.has_gpu({"GRAPE_GPU": "1"})
    assert not machine.has_gpu({"GRAPE_GPU": "0"})


def test_ros2_runs_by_the_environments_python(tmp_path):
    """Not by the system's, which ROS's own script names: launch files import what the environment has."""
    own, ros = tmp_path / "venv", tmp_path / "ros"
    for folder in (own, ros):
        folder.mkdir()
    (own / "python").symlink_to(sys.executable)
    (own / "ros2").symlink_to(SCRIPTS / "ros2")
    program = ros / "ros2"
    program.write_text("#!/bin/false\nimport sys\nprint(sys.executable, sys.argv)\nsys.exit(3)\n")
    program.chmod(0o755)
    path = {"PATH": f"{own}:{ros}:/usr/bin:/bin"}
    done = subprocess.run([own / "ros2", "launch", "a:=b"], env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.strip() == f"{own / 'python'} {[str(program), 'launch', 'a:=b']}"
    alone = subprocess.run(
        [own / "ros2"], env={"PATH": f"{own}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert (alone.returncode, "ros2: not on PATH" in alone.stderr) == (1, True)


def test_a_link_that_became_a_file_is_named(machine, tmp_path):
    assert any("ros2_ws/src/grape must be a link" in line for line in machine.missing(tmp_path))


def test_ros_binaries_are_found_and_can_be_passed_over(machine, tmp_path):
    (tmp_path / "setup.bash").touch()
    assert machine.ros_prefix({"GRAPE_ROS_PREFIX": str(tmp_path)}) == tmp_path
    assert machine.ros_prefix({"GRAPE_ROS_PREFIX": ""}) is None
    assert machine.ros_prefix({"GRAPE_ROS_PREFIX": str(tmp_path / "none")}) is None


@pytest.mark.parametrize("wanted", ["/no/such/python", "cat"])
def test_a_wrong_python_ends_in_one_line(wanted):
    environment = {**os.environ, "PYTHON": wanted}
    done = subprocess.run(["sh", SCRIPTS / "setup.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"setup: PYTHON={wanted} is not a Python 3.11 or 3.12\n"


# --- which PyTorch ---


def make_index(folder, version, requires):
    """A package index on disk with one torch wheel."""
    wheel = folder / "torch" / f"torch-{version}-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    metadata = "".join(f"Requires-Dist: {line}\n" for line in requires)
    with zipfile.ZipFile(wheel, "w") as archive:
        info = f"torch-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{metadata}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (wheel.parent / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
    return folder.as_uri()


@pytest.fixture
def indexes(tmp_path, monkeypatch, torch_build):
    """(CPU index, CUDA index); pip knows no other, and the CUDA one is its own."""
    cpu = make_index(tmp_path / "cpu", "2.13.0+cpu", ["filelock"])
    cuda = make_index(tmp_path / "cuda", "2.13.0", ["filelock", "nvidia-cudnn-cu13==9; platform_system == 'Linux'"])
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", cuda)
    monkeypatch.setattr(torch_build, "CPU_INDEX", cpu)
    return cpu, cuda


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
TORCH = "torch==2.13.0"


def test_without_a_gpu_a_cuda_build_gives_way_to_the_cpu_index(indexes, torch_build):
    assert torch_build.choose(PIP, TORCH, gpu=False, override=None) == (indexes[0], False)


def test_with_a_gpu_the_configured_index_is_kept(indexes, torch_build):
    assert torch_build.choose(PIP, TORCH, gpu=True, override=None) == (None, True)


def test_the_override_comes_first_and_is_checked(indexes, torch_build):
    cpu, cuda = indexes
    assert torch_build.choose(PIP, TORCH, gpu=False, override=cpu) == (cpu, False)
    with pytest.raises(torch_build.TorchError, match=r"GRAPE_TORCH_INDEX=.* offers a CUDA build"):
        torch_build.choose(PIP, TORCH, gpu=False, override=cuda)


def test_no_cpu_build_to_be_had_ends_in_one_line(indexes, torch_build, monkeypatch, tmp_path):
    monkeypatch.setattr(torch_build, "CPU_INDEX", (tmp_path / "nothing").as_uri())
    with pytest.raises(torch_build.TorchError, match="set GRAPE_TORCH_INDEX") as caught:
        torch_build.choose(PIP, TORCH, gpu=False, override=None)
    assert "\n" not in str(caught.value)


def test_an_extra_is_no_requirement(torch_build):
    metadata = {"version": "2.13.0", "requires_dist": ['nvidia-nccl-cu13; extra == "nccl"', "filelock"]}
    assert not torch_build.wants_cuda({"install": [{"metadata": metadata}]})


# --- lock files ---

DIRECT = ("requirements.in", "requirements-ros.in", "requirements-benchmark.in")
"""What the packages import; the simulators' environment is another."""


def pins(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = dict(line.split("==") for line in lines if line)
    return {re.sub(r"\[.*\]", "", key): value for key, value in found.items()}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", ["requirements", "requirements-ros", "requirements-benchmark", "requirements-libero"])
def test_the_lock_holds_every_direct_pin_and_gives_a_reason(name):
    lock, direct = pins(f"{name}.lock"), pins(f"{name}.in")
    assert {canonical(key): value for key, value in direct.items()}.items() <= lock.items()
    assert not [key for key in lock if key.startswith(("nvidia-", "cuda-")) or key == "triton"]


def test_every_direct_requirement_says_why():
    for name in ("requirements.in", "requirements-benchmark.in", "requirements-libero.in"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if "==" in line]
        assert lines and all("#" in line for line in lines)


def test_the_optional_group_moves_no_pin_of_the_core():
    core = pins("requirements.lock") | pins("requirements-ros.lock")
    assert {name: version for name, version in pins("requirements-benchmark.lock").items() if name in core} == {
        "anyio": core["anyio"]
    }
    client = pins("requirements-libero.lock")
    assert client["torch"] == core["torch"] and client["numpy"] == core["numpy"]


def test_everything_that_is_imported_is_declared():
    """Third-party imports of the packages are pinned directly, not by the grace of another package."""
    from importlib.metadata import packages_distributions

    direct = {canonical(name) for file in DIRECT for name in pins(file)}
    direct |= {canonical(line.split("==")[0]) for line in script("lock").NO_DEPENDENCIES}
    distributions = packages_distributions()
    undeclared = {}
    for root in [ROOT / "launch" / "grape", *(ROOT / "ros2_ws" / "src").glob("grape_*/grape_*")]:
        for file in root.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    names = [node.module]
                for module in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                    owners = {canonical(owner) for owner in distributions.get(module, [])}
                    owners |= {f"{owner}-headless" for owner in owners}  # the same modules with windows
                    # ROS's own packages come together with rclpy, ours have no distribution
                    ros = any(owner.startswith("ros-") or owner in ("rclpy",) for owner in owners)
                    own = module == "grape" or module.startswith("grape_")
                    if owners and not own and not ros and not owners & direct and not module.endswith("_msgs"):
                        undeclared[module] = str(file.relative_to(ROOT))
    assert undeclared == {}


# --- repeated, interrupted, changed ---


def test_a_finished_step_is_not_repeated_and_a_failed_one_is(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    set_up = script("set_up")
    monkeypatch.setattr(set_up, "STATE", tmp_path)
    done = []

    def fail():
        raise set_up.SetUpError("the network is gone")

    steps = set_up.Steps(2)
    steps("one", "first", "key", lambda: done.append("one"))
    with pytest.raises(set_up.SetUpError):
        steps("two", "second", "key", fail)
    again = set_up.Steps(2)
    again("one", "first", "key", lambda: done.append("one again"))
    again("two", "second", "key", lambda: done.append("two"))
    assert done == ["one", "two"] and again.done == 1
    again("one", "first", "another key", lambda: done.append("one changed"))
    assert done[-1] == "one changed"
    assert "[2/2] second" in capsys.readouterr().out


def test_a_failure_quotes_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    set_up = script("set_up")
    monkeypatch.setattr(set_up, "STATE", tmp_path)
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    with pytest.raises(
        set_up.SetUpError, match=r"build failed with status 2; the end of build\.log:\n    no such file"
    ):
        set_up.run(["sh", "-c", "echo no such file; exit 2"], "build")


def test_the_build_depends_on_interfaces_and_launch_files_not_on_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    set_up = script("set_up")
    names = {str(path.relative_to(ROOT)) for path in set_up.build_inputs()}
    assert "ros2_ws/src/grape_interfaces/msg/PolicyStep.msg" in names
    assert "ros2_ws/src/grape/setup.py" in names
    assert not any(name.endswith("up.py") and not name.endswith("setup.py") for name in names)
    assert "launch/launch/bringup.launch.py" in set_up.installed_names()


# --- the shell ---


def test_env_sh_refuses_where_nothing_is_set_up(tmp_path):
    (tmp_path / "env.sh").write_text((ROOT / "env.sh").read_text())
    done = subprocess.run(["bash", "-c", f". {tmp_path}/env.sh; echo $?"], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n"
    assert done.stderr == f"env.sh: {tmp_path} is not set up: run `make setup` there first\n"


@pytest.mark.skipif(not (ROOT / "ros2_ws/install/local_setup.bash").exists(), reason="the workspace is not built here")
def test_env_sh_sets_the_shell_up_and_keeps_what_was_set(tmp_path):
    show = 'python -c "import json, os; print(json.dumps(dict(os.environ)))"'
    command = f"set -eu; . {ROOT}/env.sh; . {ROOT}/env.sh; {show}"
    given = {"PATH": "/usr/bin:/bin", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert Path(found["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    assert found["PATH"].split(":").count(f"{ROOT}/.venv/bin") == 1
    # the wheels' libraries are found although the caller's mark said that this had been done
    assert f"{ROOT}/.venv/lib" in found.get("LD_LIBRARY_PATH", "") or Path("/opt/ros/jazzy").is_dir()
