"""The image and its compose file, as far as they can be checked without a container engine: nothing is built here."""

import fnmatch
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
PINNED = re.compile(r"[\w./-]+:(?P<tag>[\w.-]+)(@sha256:[0-9a-f]{64})?")


def instructions():
    """[(instruction, its arguments)] of the Dockerfile: comments left out, continued lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.strip().split(None, 1)) for line in joined.splitlines() if line.strip()]


def of(name):
    return [arguments for instruction, arguments in instructions() if instruction == name]


def default_arguments():
    return dict(argument.split("=", 1) for argument in of("ARG"))


@pytest.fixture(scope="module")
def service():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["grape"]


# --- the image ---


def test_the_base_is_pinned_to_a_release():
    (base,) = of("FROM")
    image = PINNED.fullmatch(re.sub(r"\$\{(\w+)\}", lambda name: default_arguments()[name.group(1)], base))
    assert image is not None, base
    assert image["tag"].startswith("jazzy-")
    assert image["tag"] != "latest"


def test_it_runs_as_a_user_who_is_not_root():
    users = of("USER")
    assert users and users[-1] not in ("root", "0")
    last = max(i for i, (name, _) in enumerate(instructions()) if name == "USER")
    assert all(name != "USER" for name, _ in instructions()[last + 1 :])
    assert 'useradd --create-home --uid "${UID}"' in " ".join(of("RUN"))
    assert "sudo" not in (DOCKER / "Dockerfile").read_text()


def test_every_copied_path_is_there_and_not_ignored():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = [word for line in of("COPY") for word in line.split()[:-1] if not word.startswith("--")]
    assert "." in copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert not any(fnmatch.fnmatch(path, pattern) for pattern in ignored), path


def test_the_ignore_file_keeps_what_the_set_up_needs_and_nothing_of_this_machine():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def ignored(path):
        parts = [path, *(str(parent) for parent in Path(path).parents)]
        return any(
            fnmatch.fnmatch(part, p) or fnmatch.fnmatch(part, p.removeprefix("**/")) for p in patterns for part in parts
        )

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert not [path for path in tracked if path and ignored(path)]
    for path in (".git", ".venv", ".setup", "runs", "ros2_ws/build", "ros2_ws/install", "docker/.env"):
        assert ignored(path), path


def test_it_is_set_up_by_the_projects_own_script():
    """The one that `make setup` runs, over ROS's binaries: so it is exercised every day."""
    assert "sh scripts/setup.sh" in of("RUN")[-1]
    makefile = (ROOT / "Makefile").read_text()
    assert "@sh scripts/setup.sh" in makefile
    environment = " ".join(of("ENV"))
    assert "GRAPE_ROS_PREFIX=/opt/robot_ws/install" in environment
    assert "GRAPE_GPU=1" in environment


def test_every_script_of_the_project_that_is_named_exists():
    texts = [(DOCKER / name).read_text() for name in ("Dockerfile", "compose.yaml", "entrypoint.sh")]
    named = {
        name
        for text in texts
        for name in re.findall(r"(?:/opt/grape/)?((?:scripts|docker)/[\w./-]+\.(?:sh|py|txt|repos))", text)
    }
    assert {"scripts/setup.sh", "docker/entrypoint.sh", "docker/apt.txt", "docker/robot.repos"} <= named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_the_entrypoint_gives_a_command_the_projects_shell(tmp_path):
    entrypoint = DOCKER / "entrypoint.sh"
    assert os.access(entrypoint, os.X_OK)
    here = tmp_path / "entrypoint.sh"
    here.write_text(entrypoint.read_text().replace("/opt/grape", str(ROOT)))
    command = ["bash", str(here), "python", "-c", "import grape_interfaces, sys; print(sys.argv[1:])", "a b", "c"]
    bare = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "GRAPE_ROS_PREFIX": os.environ.get("GRAPE_ROS_PREFIX", ""),
    }
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['a b', 'c']", done.stderr


def test_the_distributions_packages_are_listed_once_and_those_of_ros_pinned():
    lines = [line for line in (DOCKER / "apt.txt").read_text().splitlines() if line and not line.startswith("#")]
    names = [line.split("=")[0] for line in lines]
    assert len(names) == len(set(names))
    assert {"ros-jazzy-control-msgs", "ros-jazzy-controller-manager-msgs", "ros-jazzy-joy", "python3-venv"} <= set(
        names
    )
    assert all(re.fullmatch(r"[a-z0-9.+-]+(=[0-9]+\.\S*)?", line) for line in lines), lines
    interfaces = [
        line for line in lines if re.match(r"ros-jazzy-(control|controller-manager|joy|spacenav|realsense)", line)
    ]
    assert all("=" in line for line in interfaces), interfaces


@pytest.mark.parametrize("name", ["robot.repos", "controllers.repos"])
def test_sources_are_pinned_to_a_commit(name):
    repositories = yaml.safe_load((DOCKER / name).read_text())["repositories"]
    assert repositories
    for source in repositories.values():
        assert source["type"] == "git"
        assert source["url"].startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{40}", source["version"])


# --- the compose file ---


def test_the_compose_file_builds_this_image(service):
    assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert set(service["build"]["args"]) <= set(default_arguments())
    assert not service["image"].endswith(":latest")


def test_nobody_but_a_person_starts_a_gate_again(service):
    assert service["restart"] == "no"
    assert service["stop_signal"] == "SIGINT"


def test_dds_gpu_real_time_and_devices(service):
    assert (service["network_mode"], service["ipc"]) == ("host", "host")
    (gpu,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["capabilities"] == ["gpu"]
    assert service["cap_add"] == ["SYS_NICE"]
    assert (service["ulimits"]["rtprio"], service["ulimits"]["memlock"]) == (99, -1)
    majors = {rule.split()[1].split(":")[0] for rule in service["device_cgroup_rules"]}
    assert majors == {"13", "81", "189"}  # input, video4linux, USB
    assert "/dev:/dev" in service["volumes"]
    assert "privileged" not in service


def test_the_command_is_one_that_the_launch_accepts(service):
    """And by default one that sends nothing to an arm."""
    from grape.launch_plan import ARGUMENTS, launch_plan

    words = re.fullmatch(r"\$\{GRAPE_COMMAND:-(.*)\}", service["command"])[1].split()
    assert words[:4] == ["ros2", "launch", "grape", "bringup.launch.py"]
    given = dict(word.split(":=", 1) for word in words[4:])
    values = {argument.name: argument.default for argument in ARGUMENTS}
    assert set(given) <= set(values)
    plan = launch_plan({**values, **given}, ROOT / "launch", {})
    assert plan.parameters["gate"]["dry_run"] is True


def test_the_healthcheck_asks_the_stack(service):
    kind, entrypoint, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert (ROOT / entrypoint.removeprefix("/opt/grape/")).is_file()
    assert command == ["python", "-m", "grape.health_node"]
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
