"""`grape costs propose`, `approve`, `revoke`: what a person types, sees, and gets for a mistake."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from grape_reward.approvals import APPROVALS, approved, read_approvals
from grape_reward.proposal_check import read_program
from grape_reward.tasks import SHIPPED
from grape_reward.vlm_testing import KEY, ScriptedEndpoint, completion

pytest.importorskip("openai", reason="the openai package is not installed")

PROGRAM = '''# put the carrot on the plate
num_stages = 3

def stage1_target_constraint1(end_effector, keypoints):
    """Reach the carrot."""
    return np.linalg.norm(end_effector - keypoints[0])

def stage2_target_constraint1(end_effector, keypoints):
    """Bring it to the plate."""
    return np.linalg.norm(keypoints[0] - keypoints[1])

def stage3_target_constraint1(end_effector, keypoints):
    """Leave it there."""
    return np.linalg.norm(keypoints[0] - keypoints[1])
'''


def grape(*arguments: str, cwd: Path, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grape.cli", "costs", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAPE_VLM_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False, input=typed, env=kept | variables
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1 and lines and lines[-1].startswith("grape: "), done
    assert "Traceback" not in done.stderr and all(word in done.stderr for word in words), done.stderr


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.new("RGB", (64, 48), (90, 60, 30)).save(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "program.txt").write_text(PROGRAM)
    yield folder / "program.txt"


def test_a_proposal_is_made_said_and_approved(tmp_path: Path, picture: Path) -> None:
    out = tmp_path / "out"
    asking = ("propose", "--task", "carrot_on_plate", "--image", str(picture), "--cache", str(tmp_path / "cache"))
    with ScriptedEndpoint([completion(f"```python\nimport os\n{PROGRAM}```"), completion(PROGRAM)]) as server:
        done = grape(*asking, "--out", str(out), cwd=tmp_path, **server.environment)
        again = grape(*asking, "--out", str(tmp_path / "again"), cwd=tmp_path, **server.environment)
        assert len(server.asked) == 2, done
    assert done.returncode == 0 and again.returncode == 0, (done, again)
    leaving = [line for line in done.stderr.splitlines() if line.startswith("sending to 127.0.0.1:")]
    assert len(leaving) == 2 and "image 64x48" in leaving[0] and "sending" not in again.stderr
    text, program_hash = read_program(out / "program.txt", 2)
    assert text == PROGRAM and program_hash in done.stdout and "scores nothing yet" in done.stdout
    rounds = json.loads((out / "transcript.json").read_text())["rounds"]
    assert len(rounds) == 2 and "import" in rounds[0]["findings"][0]
    for seen in (done.stdout, done.stderr, *(path.read_text() for path in tmp_path.rglob("*.json"))):
        assert KEY not in seen
    assert approved(out, program_hash) is None
    done = grape("approve", str(out / "program.txt"), "--note", "read it", "--who", "ana", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "approved by ana" in done.stdout, done
    assert approved(out, program_hash) is not None


def test_a_task_of_ones_own_is_named_by_its_folder(tmp_path: Path, picture: Path) -> None:
    folder = tmp_path / "carrot_on_plate"
    shutil.copytree(SHIPPED / "carrot_on_plate", folder)
    file = folder / "task.yaml"
    file.write_text(file.read_text().replace("put the carrot on the plate", "serve the carrot"))
    asking = ("propose", "--task", str(folder), "--image", str(picture), "--cache", str(tmp_path / "cache"))
    with ScriptedEndpoint([completion(PROGRAM)]) as server:
        done = grape(*asking, "--out", str(tmp_path / "out"), cwd=tmp_path, **server.environment)
        assert done.returncode == 0, done
        (asked,) = server.asked
    assert 'task: "serve the carrot"' in asked.text and "keypoints[2:]: obstacles" in asked.text
    assert "keypoints[1]: plate" in asked.text and "  2. move the carrot to the plate" in asked.text


def test_rounds_that_are_over_end_in_one_line(tmp_path: Path, picture: Path) -> None:
    out = tmp_path / "out"
    asking = ("propose", "--instruction", "wave", "--image", str(picture), "--cache", str(tmp_path / "cache"))
    with ScriptedEndpoint([completion("I'd rather not.")] * 9) as server:
        done = grape(*asking, "--out", str(out), "--rounds", "2", cwd=tmp_path, **server.environment)
        assert len(server.asked) == 2
    refused(done, "no usable scene in 2 rounds", "I'd rather not.")
    assert [path.name for path in out.iterdir()] == ["transcript.json"]


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (("--task", "juggle"), {}, ("juggle", "carrot_on_plate")),
        ((), {}, ("--task", "--instruction")),
        (("--task", "carrot_on_plate"), {}, ("GRAPE_VLM_BASE_URL is not set",)),
        (("--task", "carrot_on_plate"), {"GRAPE_VLM_BASE_URL": "http://127.0.0.1:9/v1"}, ("GRAPE_VLM_MODEL",)),
        (("--task", "carrot_on_plate", "--image", "no.png"), {}, ("no.png",)),
        (("--task", "carrot_on_plate", "--keypoints", "1"), {}, ("1 keypoints",)),
    ],
    ids=["task", "nothing", "address", "model", "image", "keypoints"],
)
def test_a_mistake_is_named_before_anything_is_sent(
    tmp_path: Path, picture: Path, arguments: tuple[str, ...], variables: dict[str, str], words: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    done = grape("propose", "--image", str(picture), "--out", str(out), *arguments, cwd=tmp_path, **variables)
    refused(done, *words)
    assert not out.exists()


def test_approving_shows_the_program_and_asks(tmp_path: Path, file: Path) -> None:
    shown = grape("approve", str(file), "--note", "read it", cwd=tmp_path, typed="n\n")
    refused(shown, str(file), "not approved")
    assert "   6      return np.linalg.norm(end_effector - keypoints[0])" in shown.stdout
    assert read_program(file, None)[1] in shown.stdout
    refused(grape("approve", str(file), "--note", "read it", cwd=tmp_path), "not approved")
    assert not (file.parent / APPROVALS).exists()
    done = grape("approve", str(file), "--note", "read it", cwd=tmp_path, typed="y\n")
    assert done.returncode == 0, done
    (entry,) = read_approvals(file.parent)
    assert (entry.who, entry.note, entry.action) == (getpass.getuser(), "read it", "approve")


def test_a_program_cannot_hide_from_its_reader(tmp_path: Path, file: Path) -> None:
    file.write_text(PROGRAM + "# \x1b[2J\n")
    done = grape("approve", str(file), "--note", "read it", "--yes", cwd=tmp_path)
    assert done.returncode == 1 and "\x1b" not in done.stdout + done.stderr


def test_what_does_not_compile_cannot_be_approved(tmp_path: Path, file: Path) -> None:
    file.write_text(PROGRAM.replace("np.linalg.norm(end_effector - keypoints[0])", "open('x')"))
    refused(grape("approve", str(file), "--note", "n", "--yes", cwd=tmp_path), f"{file}:6:")
    file.write_text(PROGRAM)
    refused(grape("approve", str(file), "--note", "n", "--yes", "--keypoints", "1", cwd=tmp_path), f"{file}:10:")
    refused(grape("approve", str(file), "--note", " ", "--yes", cwd=tmp_path), "--note")
    refused(grape("approve", str(tmp_path / "no.txt"), "--note", "n", "--yes", cwd=tmp_path), "no.txt")
    assert not (file.parent / APPROVALS).exists()


def test_an_approval_is_revoked_by_file_or_by_hash(tmp_path: Path, file: Path) -> None:
    program_hash = read_program(file, None)[1]
    refused(grape("revoke", str(file), "--note", "why", cwd=tmp_path), "no approval", program_hash[:12])
    for program in ((str(file),), (program_hash[:12], "--folder", str(file.parent))):
        assert grape("approve", str(file), "--note", "read it", "--yes", cwd=tmp_path).returncode == 0
        done = grape("revoke", *program, "--note", "stage 2 is wrong", "--who", "ben", cwd=tmp_path)
        assert done.returncode == 0 and "revoked by ben" in done.stdout, done
        assert approved(file.parent, program_hash) is None
    assert [entry.action for entry in read_approvals(file.parent)] == ["approve", "revoke"] * 2
    refused(grape("revoke", "12345678", "--folder", str(file.parent), "--note", "n", cwd=tmp_path), "0 programs begin")
