"""`grape costs`: what is wrong with a program is said in lines, with a non-zero exit; costs come as one JSON object."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grape_reward.program.shipped import shipped_names, shipped_program

REWARD_TESTS = Path(__file__).resolve().parents[2] / "ros2_ws" / "src" / "grape_reward" / "test"
PAPER = REWARD_TESTS / "paper"

# Every program through the command in one process, as `main` runs it: 60 starts of Python would tell nothing more.
# Seconds are the process's own, so that a busy machine does not count.
CHECK_ALL = """
import contextlib, io, json, re, sys, time
from pathlib import Path
from grape.cli import main
for path in sorted(Path(sys.argv[1]).iterdir()):
    out, err, code, start = io.StringIO(), io.StringIO(), None, time.process_time()
    sys.argv = ["grape", "costs", "check", str(path)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    # ru_maxrss would count what the starting process held before this program took its place
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps([path.name, code, err.getvalue(), time.process_time() - start, peak]), flush=True)
"""


def grape(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grape.cli", "costs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    found = done.stderr.splitlines()
    assert all(line.startswith("grape: ") for line in found), done.stderr
    return found


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    np.savez(path, end_effector=generator.uniform(-1, 1, (7, 3)), keypoints=generator.uniform(-1, 1, (7, 4, 3)))
    return path


def test_a_sound_program_is_described_with_its_hash() -> None:
    done = grape("check", "carrot_on_plate", "--keypoints", "3")
    assert (done.returncode, lines(done)) == (0, [])
    assert "3 stages, 13 constraints (collision, grasp, path, target)" in done.stdout
    assert shipped_program("carrot_on_plate").hash in done.stdout


def test_a_program_that_lost_its_indentation_is_printed_repaired(tmp_path: Path) -> None:
    done = grape("check", str(PAPER / "efficiency.txt"))
    assert done.returncode == 1
    first, last = lines(done)
    assert "efficiency.txt:14:1: a code fence" in first and "its indentation was lost" in last
    (tmp_path / "repaired.txt").write_text(done.stdout)
    assert grape("check", str(tmp_path / "repaired.txt")).returncode == 0
    again = grape("check", str(PAPER / "efficiency.txt"), "--repair", str(tmp_path / "other.txt"))
    assert again.returncode == 1 and again.stdout == ""
    assert (tmp_path / "other.txt").read_text().strip() == done.stdout.strip()
    kept = grape("check", str(PAPER / "efficiency.txt"), "--repair", str(tmp_path / "other.txt"))
    assert kept.returncode == 1 and "File exists" in kept.stderr


def test_every_finding_has_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(
        "import os\nnum_stages = 1\ndef stage1_path_constraint1(end_effector, keypoints):\n    return np.load('x')\n"
    )
    for arguments in (("check",), ("show",), ("eval", "--inputs", "nothing.npz")):
        if arguments[0] == "eval":
            np.savez(tmp_path / "x.npz", end_effector=np.zeros((1, 3)), keypoints=np.zeros((1, 1, 3)))
            arguments = ("eval", "--inputs", str(tmp_path / "x.npz"))
        done = grape(*arguments, str(path))
        assert done.returncode == 1 and done.stdout == ""
        assert [line.split(": ")[1] for line in lines(done)] == [f"{path}:1:1", f"{path}:4:12"]


def test_keypoints_are_held_against_their_number() -> None:
    done = grape("check", "carrot_on_plate", "--keypoints", "1")
    assert done.returncode == 1 and all("keypoints[1] does not exist: K = 1" in line for line in lines(done))


def test_the_task_file_beside_a_program_says_how_many_keypoints_there_are(tmp_path: Path) -> None:
    for name in ("program.txt", "other.txt"):
        (tmp_path / name).write_text(
            "num_stages = 1\ndef stage1_path_constraint1(end_effector, keypoints):\n    return keypoints[2][0]\n"
        )
    (tmp_path / "task.yaml").write_text("program: program.txt\nkeypoints: [{name: cup}, {name: shelf}]\n")
    done = grape("check", str(tmp_path / "program.txt"))
    assert done.returncode == 1 and "program.txt:3:12: keypoints[2] does not exist: K = 2" in lines(done)[0]
    assert grape("check", str(tmp_path / "program.txt"), "--keypoints", "3").returncode == 0
    assert grape("check", str(tmp_path / "other.txt")).returncode == 0


def test_costs_come_as_one_json_object_of_lists(trajectory: Path, tmp_path: Path) -> None:
    done = grape("eval", "spoon_on_towel", "--inputs", str(trajectory), "--json", "-")
    assert (done.returncode, lines(done)) == (0, [])
    with np.load(trajectory) as data:
        expected = shipped_program("spoon_on_towel").evaluate_all(data["end_effector"], data["keypoints"])
    printed = json.loads(done.stdout)
    assert printed == {name: values.tolist() for name, values in expected.items()}
    assert all(len(values) == 7 for values in printed.values()) and len(done.stdout.splitlines()) == 1
    written = grape("eval", "spoon_on_towel", "--inputs", str(trajectory), "--json", str(tmp_path / "costs.json"))
    assert written.returncode == 0 and written.stdout == ""
    assert json.loads((tmp_path / "costs.json").read_text()) == printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "nothing.txt"), ("nothing.txt", "no such file", "carrot_on_plate")),
        (("show", "."), (".", "directory")),
        (("eval", "carrot_on_plate", "--inputs", "nothing.npz"), ("nothing.npz", "No such file")),
        (("eval", "carrot_on_plate", "--inputs", "X", "--json", "no/such/folder/x"), ("no/such/folder/x",)),
    ],
)
def test_wrong_use_ends_in_one_line(arguments: tuple[str, ...], words: tuple[str, ...], trajectory: Path) -> None:
    done = grape(*(str(trajectory) if word == "X" else word for word in arguments))
    (line,) = lines(done)
    assert done.returncode == 1 and all(word in line for word in words), line


def test_a_cost_that_is_no_number_ends_in_one_line_that_names_its_instant(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(
        "num_stages = 1\ndef stage1_path_constraint1(end_effector, keypoints):\n    return np.log(end_effector[0])\n"
    )
    np.savez(tmp_path / "x.npz", end_effector=np.eye(3), keypoints=np.zeros((3, 2, 3)))
    done = grape("eval", str(path), "--inputs", str(tmp_path / "x.npz"))
    assert (done.returncode, done.stdout) == (1, "")
    assert lines(done) == ["grape: p: stage1_path_constraint1 is -inf at instant 1"]


def test_show_gives_stages_hash_and_canonical_text_and_list_the_shipped_ones(tmp_path: Path) -> None:
    program = shipped_program("eggplant_in_basket")
    shown = grape("show", "eggplant_in_basket")
    assert shown.returncode == 0 and program.hash in shown.stdout and program.canonical in shown.stdout
    assert all(term.name in shown.stdout for term in program.terms) and "Close the fingers" in shown.stdout
    listed = grape("list")
    assert listed.returncode == 0 and all(name in listed.stdout for name in shipped_names())
    assert program.hash[:12] in listed.stdout


def test_docstrings_cannot_play_tricks_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(
        "num_stages = 1\ndef stage1_path_constraint1(end_effector, keypoints):\n"
        '    "\\x1b[2J[bold]harmless[/bold]"\n    return 1.0\n'
    )
    done = grape("show", str(path))
    assert done.returncode == 0 and "\x1b" not in done.stdout and "[bold]harmless[/bold]" in done.stdout


def test_every_hostile_program_is_refused_in_lines_within_a_second_and_200_mb(tmp_path: Path) -> None:
    hostile = runpy.run_path(str(REWARD_TESTS / "hostile_programs.py"))["HOSTILE"]
    names = {f"{number:03d}.txt": name for number, name in enumerate(hostile)}
    for file, name in names.items():
        (tmp_path / file).write_bytes(hostile[name][0])
    command = [sys.executable, "-c", CHECK_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(hostile) >= 60
    for file, code, stderr, seconds, peak in rows:
        assert code == 1, names[file]
        assert hostile[names[file]][1] in stderr and "Traceback" not in stderr, (names[file], stderr)
        assert all(line.startswith("grape: ") for line in stderr.splitlines()), (names[file], stderr)
        assert seconds < 1.0 and peak < 200.0, (names[file], seconds, peak)
