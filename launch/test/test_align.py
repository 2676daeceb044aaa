"""The canary refuses what is worse, domains are held by one run, bags without a pair are named."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from grape import align
from grape.domains import DomainError, reserve
from grape.evaluation import Job, Result
from grape_episode.synthetic import make_episode, write_episode
from grape_policy.checkpoint import load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_trainer import run_training
from grape_trainer.canary import FIRST_STATE
from grape_trainer.config import TrainConfig
from grape_trainer.errors import TrainerError
from grape_trainer.result import Result as Trained
from grape_trainer.testing import QUICK, episode_for
from grape_trainer.train import train


class Worlds:
    """Stands for worlds in processes: the adapter succeeds in a share of the states that its name tells."""

    def __init__(self, model: Path, workers: int) -> None:
        pass

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        for job in jobs:
            share = json.loads((Path(job.adapter) / "share.json").read_text()) if job.adapter else 0.5
            good = (job.initial_state - FIRST_STATE) % 20 < 20 * share
            yield Result(job, good, good, False, 30, int(good), "success" if good else "step_limit")


def adapter(folder: Path, share: float) -> Path:
    folder.mkdir()
    (folder / "share.json").write_text(json.dumps(share))
    (folder / "manifest.json").write_text(json.dumps({"adapter_id": "a" * 64, "base_hash": "b" * 64}))
    return folder


@pytest.mark.parametrize(
    ("share", "states", "accepted"),
    [(1.0, 20, True), (0.5, 200, True), (0.45, 200, False), (0.4, 200, False), (0.0, 20, False)],
)
def test_the_canary_takes_only_what_is_shown_to_be_no_worse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, states: int, accepted: bool
) -> None:
    monkeypatch.setattr(align, "WorldWorkers", Worlds)
    judge = align.canary(align.CanaryPlan(("t",), states, 0.05), tmp_path, tmp_path / "registry", tmp_path / "run")
    assert judge is not None
    verdict = judge(adapter(tmp_path / "adapter", share))
    assert verdict.accepted is accepted
    assert verdict.figures["success"]["difference"] == pytest.approx(share - 0.5)
    assert f"{states} paired states" in verdict.reason and ("cannot be excluded" in verdict.reason) is not accepted


def test_few_states_cannot_exclude_harm_and_so_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(align, "WorldWorkers", Worlds)
    judge = align.canary(align.CanaryPlan(("t",), 20, 0.05), tmp_path, tmp_path / "registry", tmp_path / "run")
    assert judge is not None and not judge(adapter(tmp_path / "adapter", 0.5)).accepted


def test_no_states_is_no_canary(tmp_path: Path) -> None:
    assert align.canary(align.CanaryPlan(("t",), states=0), tmp_path, tmp_path, tmp_path) is None


def test_a_domain_is_held_by_one_run_and_given_back() -> None:
    with reserve(91, 92) as one, reserve(91, 92) as two:
        assert {one, two} == {91, 92}
        with pytest.raises(DomainError, match="91 to 92"), reserve(91, 92):
            pass
    with reserve(91, 91) as again:
        assert again == 91


def test_training_on_bags_without_a_pair_says_so(tmp_path: Path) -> None:
    for seed in (1, 2):  # from different initial states: nothing to compare
        episode = make_episode(seed=seed, initial_state=100_000 + seed, episode_id=f"e{seed}")
        write_episode(episode, tmp_path / "bags" / f"e{seed}")
    arguments = (tmp_path, tmp_path / "registry", tmp_path / "out", "task_completion", "default", 0, "")
    with pytest.raises(TrainerError, match="no pair of a better and a worse"):
        align.train_on_bags([tmp_path / "bags"], *arguments)
    with pytest.raises(TrainerError, match="no bag here"):
        align.train_on_bags([tmp_path / "registry"], *arguments)


def test_bags_of_another_adapter_are_left_out(tmp_path: Path) -> None:
    episode = make_episode(seed=1, episode_id="e")
    other = dataclasses.replace(episode.identity, adapter_id="f" * 64)
    write_episode(dataclasses.replace(episode, identity=other), tmp_path / "bags" / "e")
    with pytest.raises(TrainerError, match="no pair"):
        align.train_on_bags(
            [tmp_path / "bags"], tmp_path, tmp_path / "r", tmp_path / "out", "task_completion", "default", 0, ""
        )
    told = json.loads((tmp_path / "out" / "iteration_1" / "pairs.json").read_text())
    assert len(told["excluded"]) == 1


@pytest.mark.parametrize("method", ["", "filtered_bc", "sft"])
def test_methods_share_scores_pairs_and_log_probs(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_and_bags: tuple[Path, Path]
) -> None:
    told: list[TrainConfig] = []

    def here(config: TrainConfig, progress: object, cancelled: object, processes: int) -> Trained | None:
        told.append(config)
        assert processes == 2
        quick = {**config.settings, **QUICK, "lora_rank": 4, "max_updates": 2, "kl_bound": 0.0, "drift_bound": 0.0}
        return train(dataclasses.replace(config, settings=quick))

    monkeypatch.setattr(run_training, "in_own_process", here)
    model, bags = model_and_bags
    arguments = ([bags], model, tmp_path / "registry", tmp_path / "out", "task_completion", "default", 0, "")
    made = align.train_on_bags(*arguments, method=method, processes=2)
    folder = tmp_path / "out/iteration_1" / (f"train_{method}" if method else "train")
    assert told[0].output == str(folder.resolve()) and told[0].cache == str((tmp_path / "out/log_probs").resolve())
    if method == "sft":
        assert made == str(folder / "model") and (folder / "model/dataset_statistics.json").is_file()
        assert told[0].pairs == "" and not (tmp_path / "registry").exists()
    else:
        assert (tmp_path / "registry" / made / "manifest.json").is_file()
        assert told[0].pairs.endswith("iteration_1/pairs.json")


@pytest.fixture(scope="module")
def model_and_bags(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("tiny")
    model = write_random_checkpoint(root / "model")
    vla = load_checkpoint(model)
    for state in range(2):
        for number in range(2):
            made = episode_for(vla, 10 * state + number, 9, number == 0, initial_state=state)
            write_episode(made, root / "bags" / made.identity.episode_id)
    return model, root / "bags"
