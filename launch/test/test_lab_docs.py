"""The lab's guide keeps up with the code: every check and every end of an episode is explained, commands exist."""

import re
from pathlib import Path

import typer.main

from grape.cli import app
from grape.launch_plan import ARGUMENTS, SAFETY_ARGUMENTS
from grape.replay_plan import ARGUMENTS as REPLAY_ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]
LAB = (ROOT / "docs" / "lab.md").read_text()
LAUNCH = (ROOT / "docs" / "launch.md").read_text()
ROBOT = ROOT / "ros2_ws" / "src" / "grape_robot" / "grape_robot"


def explained(heading: str) -> set[str]:
    """Names in the first column of the table with this heading."""
    table = LAB.split(heading, 1)[1].split("\n\n", 1)[0]
    return {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }


def checks() -> set[str]:
    """Names that the gate's code gives to what it refuses, holds and stops for."""
    found = set()
    before = r"(?:Verdict\((?:True|False), |stop\(state, |\.stop\(|old\(|return |return (?:True|False), )"
    said = before + r'"([a-z_]+)", '
    for name in ("checks", "sensed", "gate", "keeper", "gate_node"):
        found |= set(re.findall(said, (ROBOT / f"{name}.py").read_text()))
    return found


def test_every_check_of_the_gate_is_explained():
    from grape_robot.checks import PROPER

    known = {name for name, _ in PROPER} | {"speed", "box", "keep_out", "joints", "links", "state", "wrench", "length"}
    found = checks() | known
    assert {"robot_mode", "controller", "dead_man", "foreign", "gripper", "timeout", "heartbeat"} <= found
    told = explained("| check | what | meaning | do |")
    assert found - told - {"error", "warning"} == set()
    assert told <= found | {"controller", "operator"}


def test_every_end_of_an_episode_is_explained():
    from grape_policy import ending

    ends = {value for name, value in vars(ending).items() if name.isupper() and isinstance(value, str)}
    assert ends <= explained("| an episode's end | meaning | do |")


def words(text: str) -> list[list[str]]:
    """The `grape` commands in a text's code blocks and code spans, as words."""
    found = re.findall(r"^(?:[ ]*)grape ([^#\n]*)", text, re.MULTILINE) + re.findall(r"`grape ([^`]*)`", text)
    return [line.split() for line in found]


def test_every_command_of_the_guides_exists():
    command = typer.main.get_command(app)
    lines = words(LAB) + words(LAUNCH)
    assert len(lines) > 15
    for line in lines:
        found = command
        while line and hasattr(found, "commands"):
            if line[0] not in found.commands and "make" in found.commands:  # `grape pairs BAGS` makes them
                found = found.commands["make"]
                continue
            assert line[0] in found.commands, f"grape {' '.join(line)}"
            found, line = found.commands[line[0]], line[1:]
        options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
        wrong = [word for word in line if word.startswith("--") and word not in options]
        assert not wrong, f"{found.name}: {wrong}"


def test_every_launch_argument_of_the_guides_exists():
    known = {
        "bringup": {argument.name for argument in ARGUMENTS},
        "replay": {argument.name for argument in REPLAY_ARGUMENTS},
        "safety_eval": {argument.name for argument in (*SAFETY_ARGUMENTS, *ARGUMENTS)},
    }
    for text in (LAB, LAUNCH):
        for file, line in re.findall(r"ros2 launch grape (\w+)\.launch\.py([^#\n`]*)", text):
            given = set(re.findall(r"(\w+):=", line))
            assert given <= known[file], f"{file}: {given - known[file]}"


def test_every_argument_of_bringup_is_in_the_guide():
    table = LAUNCH.split("| argument | default | |", 1)[1].split("\n\n", 1)[0]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines() if "|" in row)))
    assert named == {argument.name for argument in ARGUMENTS}


def test_every_file_that_the_guides_name_is_there():
    for text in (LAB, LAUNCH, (ROOT / "docker" / "README.md").read_text()):
        for name in re.findall(r"(?:docker|launch|scripts|tests)/[\w./-]+\.(?:md|yaml|txt|repos|py|sh)", text):
            assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", LAB + LAUNCH):
        assert (ROOT / "docs" / target).exists(), target


def test_it_says_what_the_gate_is_not():
    assert "**GRAPE's gate is no certified safety function.**" in LAB
