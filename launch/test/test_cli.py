"""Wrong use of the command ends in one line that names what is wrong, and a non-zero exit."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from grape.serve import ServeError, task_of
from grape_episode.episode import Outcome
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.errors import TaskError


def grape(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grape.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip() and "pybullet build" not in line]
    assert done.returncode == 1, done
    assert len(lines) == 1 and lines[0].startswith("grape: "), done.stderr
    for word in words:
        assert word in lines[0]


def test_an_unknown_task_is_named_with_the_known_ones(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    done = grape("align", "--task", "juggle", "--model", str(model), "--out", str(tmp_path / "o"), cwd=tmp_path)
    refused(done, "juggle", "carrot_on_plate")


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    refused(
        grape("eval", "--model", str(tmp_path / "no"), "--out", str(tmp_path / "o"), cwd=tmp_path), str(tmp_path / "no")
    )


def test_a_bag_without_steps_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    good = write_episode(make_episode(seed=1, episode_id="good"), tmp_path / "bags" / "good")
    episode = make_episode(seed=2, steps=1, episode_id="empty")
    outcome = Outcome("cancelled", "", 0, 0, False, episode.steps[0].stamp)
    from dataclasses import replace

    bad = write_episode(replace(episode, steps=(), gate=(), outcome=outcome), tmp_path / "bags" / "empty")
    done = grape("score", str(good), str(bad), "--out", str(tmp_path / "scores.jsonl"), cwd=tmp_path)
    assert done.returncode == 1 and "no steps" in done.stderr and str(bad) in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 1


def test_a_path_without_a_bag_is_named(tmp_path: Path) -> None:
    refused(grape("score", str(tmp_path / "nothing"), cwd=tmp_path), str(tmp_path / "nothing"))


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(grape("adapters", "show", "abc", "--registry", str(tmp_path / "reg"), cwd=tmp_path), "abc", "reg")


def test_wrong_arguments_exit_with_two(tmp_path: Path) -> None:
    done = grape("eval", "--states", "none", cwd=tmp_path)
    assert done.returncode == 2 and "--states" in done.stderr


@pytest.mark.parametrize("words", ["put the carrot on the plate", "  Put the CARROT on the plate "])
def test_an_instruction_finds_its_task(words: str) -> None:
    assert task_of(words, "") == "carrot_on_plate"


def test_an_instruction_of_no_task_needs_one() -> None:
    assert task_of("lift it", "spoon_on_towel") == "spoon_on_towel"
    with pytest.raises(ServeError, match="--task"):
        task_of("lift it", "")


def test_a_task_of_ones_own_is_found_by_its_words_and_its_folder(tmp_path: Path) -> None:
    import shutil

    from grape_reward.tasks import SHIPPED

    own = tmp_path / "tasks" / "carrot_in_pot"
    shutil.copytree(SHIPPED / "carrot_on_plate", own)
    file = own / "task.yaml"
    file.write_text(
        file.read_text()
        .replace("name: carrot_on_plate", "name: carrot_in_pot", 1)
        .replace("put the carrot on the plate", "put the carrot in the pot")
    )
    assert task_of("put the carrot in the pot", "", own.parent) == "carrot_in_pot"
    assert task_of("put the carrot on the plate", "", own.parent) == "carrot_on_plate"
    with pytest.raises(TaskError, match="unknown task 'carrot_in_pot'"):
        task_of("", "carrot_in_pot")


def test_a_worker_process_that_imports_the_script_does_not_run_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parents[1] / "bin" / "grape"
    monkeypatch.setattr(sys, "argv", ["grape", "--help"])
    runpy.run_path(str(script), run_name="__mp_main__")  # what multiprocessing does with the parent's main file
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
