"""A training run from files to files: it learns, stops at its bounds, survives kills, and names what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from grape_episode.reader import read_episode
from grape_episode.synthetic import write_episode
from grape_episode.testing import wait_for
from grape_policy.adapters import adapter_hash, read_adapter, read_manifest
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_trainer import learner as learner_module
from grape_trainer.config import TrainConfig
from grape_trainer.errors import NonFiniteError, SettingsError, TrainingError
from grape_trainer.files import read_json, read_lines, write_json
from grape_trainer.pairs import Excluded, build, read_pairs, write_pairs
from grape_trainer.ranking import Candidate
from grape_trainer.testing import QUICK, episode_for
from grape_trainer.train import main, read_config, train

STATES, ROLLOUTS = 6, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vla(model: Path) -> Vla:
    return load_checkpoint(model)


@pytest.fixture(scope="module")
def pairs_file(vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six initial states, three rollouts of 4 to 6 steps each; one of them too long to be among the pairs."""
    root = tmp_path_factory.mktemp("bags")
    entries: list[Candidate | Excluded] = []
    for state in range(STATES):
        for number in range(ROLLOUTS):
            seed = 10 * state + number
            episode = episode_for(vla, seed, 4 + number, number == 0, initial_state=100_000 + state)
            bag = write_episode(episode, root / episode.identity.episode_id)
            entries.append(
                Candidate(
                    episode.identity.episode_id,
                    str(bag),
                    episode.identity.task,
                    episode.identity.variant,
                    episode.identity.initial_state,
                    "task_completion",
                    vla.base_hash,
                    "",
                    "program",
                    len(episode.steps),
                    int(number == 0),
                    -1.0 - number,
                    -30.0,
                    -0.5 - 0.1 * number,
                )
            )
    path = root / "pairs.json"
    write_pairs(path, build(entries, m=1))
    assert len(read_pairs(path).pairs) == STATES
    return path


def config(model: Path, pairs_file: Path, output: Path, **overrides: Any) -> TrainConfig:
    told = {**QUICK, "epochs": 4, "batch_pairs": 2, "drift_bound": 0.0, "kl_bound": 0.0, **overrides}
    return TrainConfig(str(model), str(pairs_file), str(output), settings=told)


def test_it_learns_the_preferences_and_says_what_it_did(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    told = config(model, pairs_file, tmp_path / "out", epochs=8, learning_rate=3e-3)
    result = train(told, lambda done, total, metrics: seen.append((done, total)))
    assert (result.status, result.changed, result.updates) == ("finished", True, 24)
    assert (result.pairs, result.held_pairs) == (5, 1)
    assert seen == [(i + 1, 24) for i in range(24)]
    lines = [line for line in read_lines(tmp_path / "out/metrics.jsonl") if "loss" in line]
    assert lines[0]["preference_loss"] == pytest.approx(0.6931471805599453, abs=1e-12)
    assert lines[0]["margin"] == lines[0]["drift_chosen"] == 0.0
    last = lines[-3:]
    assert sum(line["preference_loss"] for line in last) / 3 < 0.35
    assert all(line["accuracy"] == 1.0 for line in last)
    assert all(line["reward_chosen"] > line["reward_rejected"] for line in last)
    checks = [line["check"] for line in read_lines(tmp_path / "out/metrics.jsonl") if "check" in line]
    assert checks[-1]["kl"] > checks[0]["kl"] >= 0 and checks[-1]["kl_steps"] > 0
    folder = tmp_path / "out/adapter"
    manifest = read_manifest(folder)
    assert manifest.adapter_id == adapter_hash(folder) and manifest.parent == "" and manifest.pairs == STATES
    assert manifest.settings["learning_rate"] == 3e-3 and len(manifest.episodes) == 2 * STATES
    assert read_adapter(folder, manifest.base_hash).rank == 32


def test_a_run_that_sees_actions_through_noise_starts_at_log_two_as_well(
    model: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """The reference is seen as the policy is, and the record is checked sharply."""
    told = config(model, pairs_file, tmp_path / "out", epochs=8, learning_rate=3e-3, action_blur=4.0)
    result = train(told)
    lines = [line for line in read_lines(tmp_path / "out/metrics.jsonl") if "loss" in line]
    assert lines[0]["preference_loss"] == pytest.approx(0.6931471805599453, abs=1e-12)
    assert lines[0]["margin"] == 0.0 and lines[-1]["margin"] > 0.0
    assert not result.left_out and result.changed


def test_snapshots_are_adapters_of_their_own_and_change_nothing(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    told = {"max_updates": 4, "epochs": 4, "check_every": 2, "learning_rate": 3e-3, "kl_bound": 0.0, "drift_bound": 0.0}
    plain = train(config(model, pairs_file, tmp_path / "plain", **told))
    train(config(model, pairs_file, tmp_path / "out", **told, snapshots=True))
    assert not (tmp_path / "plain/snapshots").exists() and plain.updates == 4
    kept = sorted((tmp_path / "out/snapshots").iterdir())
    assert [folder.name for folder in kept] == ["00002", "00004"]
    manifests = [read_manifest(folder) for folder in kept]
    assert [m.metrics["updates"] for m in manifests] == [2, 4] and manifests[0].metrics["check"]["kl"] > 0
    ids = [m.adapter_id for m in manifests]
    final = [read_manifest(tmp_path / name / "adapter").adapter_id for name in ("plain", "out")]
    assert ids[0] != ids[1] == final[0] == final[1]


def test_the_second_iteration_goes_on_with_the_same_lora(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    train(config(model, pairs_file, tmp_path / "one", max_updates=2))
    told = dataclasses.replace(
        config(model, pairs_file, tmp_path / "two", max_updates=1), adapter=str(tmp_path / "one/adapter")
    )
    train(told)
    first = read_manifest(tmp_path / "one/adapter")
    assert read_manifest(tmp_path / "two/adapter").parent == first.adapter_id
    start = next(line for line in read_lines(tmp_path / "two/metrics.jsonl") if "loss" in line)
    # the reference is the base model, not the first adapter
    assert start["preference_loss"] != pytest.approx(0.6931471805599453, abs=1e-9)


@pytest.mark.parametrize(
    ("bound", "status"),
    [({"drift_bound": -1e-6, "supervised_weight": 0.0, "beta": 50.0}, "drift"), ({"kl_bound": 1e-9}, "kl")],
)
def test_a_passed_bound_stops_the_run_and_keeps_the_last_good_weights(
    model: Path, pairs_file: Path, tmp_path: Path, bound: dict[str, float], status: str
) -> None:
    result = train(config(model, pairs_file, tmp_path / "out", epochs=20, learning_rate=1e-2, **bound))
    assert result.status == status and "bound" in result.reason and result.updates < 60
    assert f"weights after update {result.kept_update}" in result.reason
    weights = read_adapter(tmp_path / "out/adapter", read_manifest(tmp_path / "out/adapter").base_hash).layers
    if result.kept_update == 0:
        assert not result.changed and all(float(b.abs().max()) == 0 for _, b in weights.values())


def test_one_and_two_passes_train_the_same(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    for mb in (0, 512):
        train(config(model, pairs_file, tmp_path / str(mb), max_updates=2, gradient_mb=mb))
    one, two = (
        [line["grad_norm"] for line in read_lines(tmp_path / str(mb) / "metrics.jsonl") if "loss" in line]
        for mb in (0, 512)
    )
    assert one == pytest.approx(two, rel=1e-4)


def test_killed_runs_end_with_the_same_adapter(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    told = config(model, pairs_file, tmp_path / "whole", epochs=3)
    train(told)
    wanted = adapter_hash(tmp_path / "whole/adapter")

    class Killed(BaseException):
        pass

    broken = dataclasses.replace(told, output=str(tmp_path / "broken"))
    path = broken.write(tmp_path / "broken.json")
    command = [sys.executable, "-m", "grape_trainer.train", str(path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = tmp_path / "broken/metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 1, "the first update", 60.0)
    process.kill()
    process.wait()
    for last in (6, 8):

        def kill(done: int, total: int, metrics: dict, last: int = last) -> None:
            # before the checkpoint of this update
            if done >= last:
                raise Killed

        with pytest.raises(Killed):
            train(broken, kill)
    result = train(broken)
    assert result.updates == 9 and adapter_hash(tmp_path / "broken/adapter") == wanted
    steps = [line["update"] for line in read_lines(tmp_path / "broken/metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 10))
    assert train(broken) == result


def test_a_checkpoint_of_another_run_is_refused(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    train(config(model, pairs_file, tmp_path / "out", max_updates=1))
    with pytest.raises(TrainingError, match=r"result\.json"):
        train(config(model, pairs_file, tmp_path / "out", max_updates=2))
    (tmp_path / "out/result.json").unlink()
    with pytest.raises(TrainingError, match="checkpoints"):
        train(config(model, pairs_file, tmp_path / "out", max_updates=2))


def test_nan_stops_with_the_pair_named(
    model: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = read_pairs(pairs_file).pairs[0]
    plain = learner_module.Learner.log_probs

    def poisoned(self: Any, trajectory: Any, start: int, stop: int) -> torch.Tensor:
        values = plain(self, trajectory, start, stop)
        # grad is on in updates only: the reference stays finite
        return values * float("nan") if trajectory.episode_id == pair.rejected and torch.is_grad_enabled() else values

    monkeypatch.setattr(learner_module.Learner, "log_probs", poisoned)
    with pytest.raises(NonFiniteError, match=pair.rejected):
        train(config(model, pairs_file, tmp_path / "out", holdout=0.0))
    assert not (tmp_path / "out/result.json").exists()


def spoil(bag: Path, kind: str) -> str:
    file = next(bag.glob("*.mcap"))
    if kind == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
        bag.rmdir() if not list(bag.iterdir()) else None
    return bag.name


@pytest.mark.parametrize("kind", ["cut", "gone"])
def test_a_spoiled_bag_is_named(vla: Vla, model: Path, tmp_path: Path, kind: str) -> None:
    entries: list[Candidate | Excluded] = []
    for number in range(2):
        bag = write_episode(episode_for(vla, number, 4, number == 0), tmp_path / f"bag{number}")
        name = read_episode(bag, images=False).identity.episode_id
        told = (name, str(bag), "t", "clean", 1, "o", vla.base_hash, "", "p", 4, 1 - number, -1.0, -9.0, -0.5 - number)
        entries.append(Candidate(*told))
    write_pairs(tmp_path / "pairs.json", build(entries))
    name = spoil(tmp_path / "bag1", kind)
    with pytest.raises(TrainingError, match=name) as caught:
        train(config(model, tmp_path / "pairs.json", tmp_path / "out"))
    assert "\n" not in str(caught.value)


def test_bags_of_another_model_and_empty_pairs_are_refused(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    other = write_random_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(TrainingError, match="recorded with base model"):
        train(config(other, pairs_file, tmp_path / "out"))
    data = read_json(pairs_file)
    data["pairs"] = []
    write_json(tmp_path / "empty.json", data)
    with pytest.raises(TrainingError, match="holds no pair"):
        train(config(model, tmp_path / "empty.json", tmp_path / "out2"))
    with pytest.raises(TrainingError, match="no such model folder"):
        train(config(tmp_path / "nowhere", pairs_file, tmp_path / "out3"))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({"colour": 1}, "colour"),
        ({"model": ""}, "model"),
        ({"threads": "1"}, "threads"),
        ({"dtype": "int8"}, "dtype"),
        ({"preset": "best"}, "best"),
        ({"settings": {"beta": -1}}, "beta"),
    ],
)
def test_a_wrong_config_is_refused_by_field(tmp_path: Path, edit: dict[str, Any], text: str) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"model": "m", "pairs": "p", "output": "o", **edit})
    with pytest.raises(SettingsError, match=text):
        read_config(path)
    assert main([str(path)]) == 2


def test_the_process_trains_and_a_failure_is_one_line(model: Path, pairs_file: Path, tmp_path: Path) -> None:
    told = config(model, pairs_file, tmp_path / "out", max_updates=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(told: TrainConfig) -> subprocess.CompletedProcess[str]:
        path = told.write(tmp_path / "config.json")
        command = [sys.executable, "-m", "grape_trainer.train", str(path)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    done = start(told)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["status"] == "finished"
    failed = start(dataclasses.replace(told, pairs=str(tmp_path / "none.json")))
    assert failed.returncode == 1 and failed.stderr.strip().count("\n") == 0 and "none.json" in failed.stderr
