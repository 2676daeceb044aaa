"""Every method trains from the same pairs file, with the same loading, checks, checkpoints and metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from grape_policy.adapters import adapter_hash, read_manifest
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_trainer import peft_folder
from grape_trainer.data import source
from grape_trainer.errors import TrainingError
from grape_trainer.files import read_json, read_lines, write_json
from grape_trainer.learner import Learner
from grape_trainer.pairs import build, read_pairs
from grape_trainer.settings import Settings, settings
from grape_trainer.testing import quick_config, write_rollouts
from grape_trainer.train import train
from grape_trainer.trajectories import ByteCache

METHODS = ("tpo", "step_dpo", "success_only", "filtered_bc")


@pytest.fixture(scope="module")
def pairs(tiny_vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rollouts(tiny_vla, tmp_path_factory.mktemp("bags"), rollouts=4)


def lines(folder: Path) -> tuple[list[dict], list[dict]]:
    held = read_lines(folder / "metrics.jsonl")
    return [line for line in held if "loss" in line], [line["check"] for line in held if "check" in line]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_lowers_its_loss_and_reports_the_same_figures(
    tiny_model: Path, pairs: Path, tmp_path: Path, method: str
) -> None:
    told = quick_config(tiny_model, pairs, tmp_path / "out", method=method, epochs=6, learning_rate=3e-3)
    result = train(told)
    updates, checks = lines(tmp_path / "out")
    assert result.changed and updates[-1]["loss"] < updates[0]["loss"]
    clones = method == "filtered_bc"
    wanted = {"loss", "supervised_loss", "drift_chosen", "kl_sampled", "grad_norm", "learning_rate"}
    if not clones:
        wanted |= {"preference_loss", "reward_chosen", "reward_rejected", "margin", "accuracy", "drift_rejected"}
        assert updates[-1]["accuracy"] > 0.9 and updates[-1]["margin"] > 0
    assert wanted <= set(updates[0]) and updates[0]["kl_sampled"] == 0.0
    for name in ("kl", "kl_reverse", "entropy"):
        assert checks[-1][name] > 0
    manifest = read_manifest(tmp_path / "out/adapter")
    assert manifest.settings["method"] == method and manifest.pairs == (0 if clones else 6)
    assert adapter_hash(tmp_path / "out/adapter") == manifest.adapter_id


@pytest.mark.parametrize("method", ["step_dpo", "filtered_bc"])
def test_a_stopped_run_goes_on_to_the_same_adapter(tiny_model: Path, pairs: Path, tmp_path: Path, method: str) -> None:
    told = quick_config(tiny_model, pairs, tmp_path / "whole", method=method, epochs=2)
    train(told)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, metrics: dict) -> None:
        if done >= 3:
            raise Killed

    broken = dataclasses.replace(told, output=str(tmp_path / "broken"))
    with pytest.raises(Killed):
        train(broken, kill)
    train(broken)
    assert adapter_hash(tmp_path / "broken/adapter") == adapter_hash(tmp_path / "whole/adapter")


def chosen_items(tiny_vla: Vla, pairs: Path, told: Settings) -> list[tuple[str, ...]]:
    config = quick_config(Path("m"), pairs, Path("o"), method=told.method, m=told.m)
    return [item.episodes for item in source(config, told, tiny_vla, "").items]


def test_success_alone_chooses_other_pairs_of_the_same_rollouts(tiny_vla: Vla, pairs: Path) -> None:
    by_id = read_pairs(pairs).by_id
    plain = chosen_items(tiny_vla, pairs, settings(method="tpo"))
    alone = chosen_items(tiny_vla, pairs, settings(method="success_only", m=1))
    assert len(plain) == len(alone) == 6 and set(plain) != set(alone)
    assert all(by_id[w].success == 1 and by_id[ell].success == 0 for w, ell in alone)
    # what lies in the pairs of TPO is the worst by cost; success alone does not see costs
    assert {by_id[ell].steps for _, ell in plain} == {7} and len({by_id[ell].steps for _, ell in alone}) > 1
    assert chosen_items(tiny_vla, pairs, settings(method="success_only", m=1)) == alone


def test_pairs_made_by_success_are_taken_as_they_are(tiny_vla: Vla, pairs: Path, tmp_path: Path) -> None:
    held = read_pairs(pairs)
    made = build(held.candidates, "success", 1)
    data = read_json(pairs)
    data |= {"ranking": "success", "pairs": [dataclasses.asdict(p) for p in made.pairs[:2]]}
    write_json(tmp_path / "pairs.json", data)
    assert len(chosen_items(tiny_vla, tmp_path / "pairs.json", settings(method="success_only"))) == 2


def test_filtered_cloning_takes_every_success(tiny_vla: Vla, pairs: Path) -> None:
    taken = chosen_items(tiny_vla, pairs, settings(method="filtered_bc"))
    assert taken == [(c.episode_id,) for c in read_pairs(pairs).candidates if c.success]


@pytest.mark.parametrize("method", ["tpo", "step_dpo"])
def test_successes_in_no_pair_are_imitated_beside_the_pairs(
    tiny_model: Path, tiny_vla: Vla, pairs: Path, tmp_path: Path, method: str
) -> None:
    told, data = settings(method=method, supervised_on="successes"), read_json(pairs)
    paired = {pair[side] for pair in data["pairs"] for side in ("chosen", "rejected")}
    for name, entry in data["episodes"].items():
        entry |= {"success": 1} if name not in paired else {}
        entry["path"] = str(pairs.parent / entry["path"])
    pairs = tmp_path / "pairs.json"
    write_json(pairs, data)
    taken = chosen_items(tiny_vla, pairs, told)
    both = [item for item in taken if len(item) == 2]
    assert both == chosen_items(tiny_vla, pairs, settings(method=method))
    lone = {item[0] for item in taken if len(item) == 1}
    assert lone and lone == set(data["episodes"]) - paired and len(taken) == len(both) + len(lone)
    config = quick_config(tiny_model, pairs, tmp_path / "out", method=method, supervised_on="successes", epochs=4)
    result = train(config)
    updates, checks = lines(tmp_path / "out")
    assert result.changed and updates[-1]["supervised_loss"] < updates[0]["supervised_loss"]
    assert {"accuracy", "kl"} <= set(checks[-1]), "accuracy is of pairs, and so are the items of the checks"
    assert read_manifest(tmp_path / "out/adapter").pairs == len(both)
    assert lone < set(read_manifest(tmp_path / "out/adapter").episodes)


def test_its_control_takes_as_many_whatever_their_success(tiny_vla: Vla, pairs: Path) -> None:
    candidates = read_pairs(pairs).candidates
    taken = chosen_items(tiny_vla, pairs, settings(method="filtered_bc", ranking="random"))
    assert len(taken) == len(set(taken)) == sum(c.success for c in candidates) < len(candidates)
    failures = {(c.episode_id,) for c in candidates if not c.success}
    assert failures & set(taken)


@pytest.mark.parametrize(
    ("method", "text"), [("filtered_bc", "no success"), ("success_only", "no success and failure"), ("tpo", "no pair")]
)
def test_nothing_to_learn_from_is_said(tiny_model: Path, pairs: Path, tmp_path: Path, method: str, text: str) -> None:
    data = read_json(pairs)
    data["pairs"] = []
    for entry in data["episodes"].values():
        entry["success"] = 0
    write_json(tmp_path / "pairs.json", data)
    with pytest.raises(TrainingError, match=text):
        train(quick_config(tiny_model, tmp_path / "pairs.json", tmp_path / "out", method=method))


def test_the_previous_adapter_as_reference_starts_at_log_two(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    train(quick_config(tiny_model, pairs, tmp_path / "one", max_updates=3, learning_rate=3e-3))
    parent = str(tmp_path / "one/adapter")
    starts = {}
    for reference in ("sft", "previous"):
        told = quick_config(tiny_model, pairs, tmp_path / reference, max_updates=3, reference=reference)
        train(dataclasses.replace(told, adapter=parent))
        updates, checks = lines(tmp_path / reference)
        starts[reference] = updates[0]
        assert checks[-1]["kl"] > 0
    assert starts["previous"]["preference_loss"] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert abs(starts["previous"]["margin"]) < 1e-5 < abs(starts["sft"]["margin"])


def test_bf16_base_trains_fp32_adapters(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    learner = Learner(load_checkpoint(tiny_model, dtype=torch.bfloat16), settings(lora_rank=4), ByteCache(0))
    assert {p.dtype for p in learner.parameters} == {torch.float32} and learner.dtype == torch.bfloat16
    told = quick_config(tiny_model, pairs, tmp_path / "out", max_updates=3, learning_rate=3e-3)
    result = train(dataclasses.replace(told, dtype="bfloat16"))
    assert result.changed
    weights = peft_folder.read_weights(tmp_path / "out/adapter")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    config = peft_folder.read_config(tmp_path / "out/adapter")
    assert config.lora_dropout == 0.0 and isinstance(config.target_modules, set | list)
    assert all("." in name for name in config.target_modules)
