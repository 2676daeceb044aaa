"""The drift check: who is left out, with which words, and what is not computed twice."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from grape_episode.episode import Episode
from grape_episode.synthetic import write_episode
from grape_policy.adapters import read_manifest
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import Engine
from grape_policy.testing import write_random_adapter, write_random_checkpoint
from grape_trainer import log_probs as log_probs_module
from grape_trainer import tpo
from grape_trainer.errors import TrainingError
from grape_trainer.files import read_json, read_lines, write_json
from grape_trainer.learner import Learner
from grape_trainer.log_probs import Adapters, LogProbs
from grape_trainer.pairs import read_pairs
from grape_trainer.processes import Team
from grape_trainer.recorded import check, difference, tolerance
from grape_trainer.settings import settings
from grape_trainer.testing import Score, edited, episode_for, quick_config, write_rollouts
from grape_trainer.train import main, train
from grape_trainer.trajectories import ByteCache, Library

SMALL = settings(lora_rank=4)


def library(pairs: Path, vla: Vla) -> Library:
    paths = {c.episode_id: c.path for c in read_pairs(pairs).candidates}
    return Library(paths, vla.processor.prompt, vla.spec.image_size, vla.base_hash)


def scorer(model: Path, folder: Path) -> Score:
    engine = Engine(load_checkpoint(model))
    engine.load_adapter(folder)
    engine.flip()
    return engine.score


def test_rollouts_as_recorded_pass_and_are_used_as_the_reference(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    compute = LogProbs._compute

    def counted(self: LogProbs, trajectory, adapter_id: str) -> torch.Tensor:
        computed.append(trajectory.episode_id)
        return compute(self, trajectory, adapter_id)

    monkeypatch.setattr(LogProbs, "_compute", counted)
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", score=Engine(load_checkpoint(tiny_model)).score)
    result = train(quick_config(tiny_model, pairs, tmp_path / "out", max_updates=2))
    assert result.left_out == [] and 0 < result.recorded_difference < 1e-4
    assert len(computed) == len(set(computed)) == 12
    first = next(line for line in read_lines(tmp_path / "out/metrics.jsonl") if "loss" in line)
    assert first["preference_loss"] == pytest.approx(np.log(2), abs=0)
    # another method, the same cache
    told = quick_config(tiny_model, pairs, tmp_path / "dpo", max_updates=2, method="step_dpo")
    train(dataclasses.replace(told, cache=str(tmp_path / "out/log_probs")))
    assert len(computed) == 12


def test_edited_log_probs_are_refused_by_name_and_the_rest_trains(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names: list[str] = []

    def change(episode: Episode) -> Episode:
        if episode.identity.initial_state == 100_002 and not names:
            names.append(episode.identity.episode_id)
            return edited(episode)
        return episode

    pairs = write_rollouts(tiny_vla, tmp_path / "bags", change=change)
    result = train(quick_config(tiny_model, pairs, tmp_path / "out", max_updates=1, holdout=0.0))
    assert [one["episode_id"] for one in result.left_out] == names and result.pairs == 5
    reason = result.left_out[0]["reason"]
    assert names[0] in reason and "step 1, token 3 differs by 0.01 nats, bound 0.0001" in reason
    assert "served in bfloat16" in reason
    assert capfd.readouterr().err.count("left out: ") == 1
    assert read_json(tmp_path / "out/left_out.json")["left_out"] == result.left_out
    manifest = read_manifest(tmp_path / "out/adapter")
    assert names[0] not in manifest.episodes and manifest.pairs == 5
    # the bag is as it was, and told to be lenient the run takes it
    for bound in (0.1, 0.0):
        lenient = quick_config(tiny_model, pairs, tmp_path / str(bound), max_updates=1, recorded_tolerance=bound)
        assert train(lenient).left_out == []
    assert (
        train(quick_config(tiny_model, pairs, tmp_path / "all", max_updates=1, recorded_tolerance=0.1)).left_out == []
    )
    assert (
        train(quick_config(tiny_model, pairs, tmp_path / "off", max_updates=1, recorded_tolerance=0.0)).left_out == []
    )


def test_an_edit_of_a_thousandth_is_seen_and_nan_is_no_pass(tiny_model: Path, tiny_vla: Vla, tmp_path: Path) -> None:
    vla = load_checkpoint(tiny_model)
    learner = Learner(vla, SMALL, ByteCache(0))
    held = LogProbs(learner, Adapters(vla.base_hash, None), tmp_path / "cache")
    for amount in (0.0, 1e-3, float("nan")):
        pairs = write_rollouts(tiny_vla, tmp_path / str(amount), 1, 2, change=lambda e, a=amount: edited(e, a))  # type: ignore[misc]
        shelf = library(pairs, vla)
        gap, step, token = difference(shelf[read_pairs(pairs).pairs[0].chosen], held)
        if amount == 0.0:
            assert gap < 1e-4
        else:
            assert (step, token) == (1, 3)
            assert gap == (pytest.approx(1e-3, abs=5e-5) if amount == amount else np.inf)


@pytest.fixture
def adapted(tiny_model: Path, tiny_vla: Vla, tmp_path: Path) -> tuple[Path, str]:
    """A registry with one adapter, random on towers and language model, and its id."""
    vla = load_checkpoint(tiny_model)
    made = write_random_adapter(tmp_path / "made", vla, 4, 1, targets="all-linear")
    adapter_id = read_manifest(made).adapter_id
    shutil.copytree(made, tmp_path / "registry" / adapter_id)
    return tmp_path / "registry", adapter_id


def test_the_recorded_adapter_is_looked_up_in_the_registry(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path, adapted: tuple[Path, str]
) -> None:
    registry, adapter_id = adapted
    score = scorer(tiny_model, registry / adapter_id)
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", 2, 2, adapter_id, score)
    told = quick_config(tiny_model, pairs, tmp_path / "out", max_updates=1)
    result = train(dataclasses.replace(told, registry=str(registry)))
    assert result.left_out == [] and result.recorded_difference < 1e-4
    # the base model's log-probs are others: without the adapter this would not pass
    base = write_rollouts(tiny_vla, tmp_path / "base", 2, 2, adapter_id)
    with pytest.raises(TrainingError, match="are not what the model that recorded it computes"):
        train(dataclasses.replace(told, registry=str(registry), pairs=str(base), output=str(tmp_path / "x")))


@pytest.mark.parametrize("kind", ["no registry", "absent", "no manifest", "cut"])
def test_an_adapter_that_is_not_at_hand_is_the_reason(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path, adapted: tuple[Path, str], kind: str
) -> None:
    registry, adapter_id = adapted
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", 1, 2, adapter_id)
    told = dataclasses.replace(quick_config(tiny_model, pairs, tmp_path / "out"), registry=str(registry))
    wanted = adapter_id[:12]
    if kind == "no registry":
        told = dataclasses.replace(told, registry="")
    elif kind == "absent":
        shutil.rmtree(registry / adapter_id)
    elif kind == "no manifest":
        (registry / adapter_id / "manifest.json").unlink()
        wanted = "manifest.json"
    else:
        file = registry / adapter_id / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:200])
        wanted = "the files are"
    with pytest.raises(TrainingError, match=wanted) as caught:
        train(told)
    assert "nothing is left to learn from" in str(caught.value) and "\n" not in str(caught.value)
    assert len(list((tmp_path / "bags").glob("*/*.mcap"))) == 2


def test_a_starting_adapter_without_a_manifest_is_one_line(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path, adapted: tuple[Path, str], capfd: pytest.CaptureFixture[str]
) -> None:
    registry, adapter_id = adapted
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", 1, 2)
    (registry / adapter_id / "manifest.json").unlink()
    told = dataclasses.replace(quick_config(tiny_model, pairs, tmp_path / "out"), adapter=str(registry / adapter_id))
    assert main([str(told.write(tmp_path / "config.json"))]) == 1
    said = capfd.readouterr().err.strip()
    assert said.startswith("error: ") and "manifest.json" in said and "\n" not in said


def test_damaged_bags_are_left_out_each_with_its_reason(tiny_model: Path, tiny_vla: Vla, tmp_path: Path) -> None:
    other = load_checkpoint(write_random_checkpoint(tmp_path / "other", seed=1))
    foreign = write_rollouts(other, tmp_path / "foreign", 1, 2)
    kinds = {100_000: "cut", 100_001: "no steps", 100_002: "gone", 100_003: "foreign"}

    def change(episode: Episode) -> Episode:
        good = episode.identity.seed % 10 == 0
        if good and kinds.get(episode.identity.initial_state) == "no steps":
            outcome = dataclasses.replace(episode.outcome, steps=0) if episode.outcome else None
            return dataclasses.replace(episode, steps=(), outcome=outcome)
        return episode

    pairs = write_rollouts(tiny_vla, tmp_path / "bags", change=change)
    data = read_json(pairs)
    hit: dict[str, str] = {}
    for pair in data["pairs"]:
        kind, name = kinds.get(pair["initial_state"], ""), pair["chosen"]
        bag = tmp_path / "bags" / name
        if kind == "cut":
            file = next(bag.glob("*.mcap"))
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif kind == "gone":
            shutil.rmtree(bag)
        elif kind == "foreign":
            shutil.rmtree(bag)
            shutil.copytree(tmp_path / "foreign" / read_pairs(foreign).pairs[0].chosen, bag)
            # as a pairs file would name it after a mix-up of folders
            data["episodes"][name]["path"] = str(bag)
        if kind:
            hit[name] = {"cut": "cut off", "no steps": "no steps", "gone": "no such bag", "foreign": "holds episode"}[
                kind
            ]
    write_json(pairs, data)
    result = train(quick_config(tiny_model, pairs, tmp_path / "out", max_updates=1, holdout=0.0))
    assert {one["episode_id"] for one in result.left_out} == set(hit) and result.pairs == 2
    for one in result.left_out:
        assert hit[one["episode_id"]] in one["reason"] and "\n" not in one["reason"]


def test_a_run_goes_on_only_with_the_episodes_it_began_with(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path, adapted: tuple[Path, str]
) -> None:
    registry, adapter_id = adapted
    score = scorer(tiny_model, registry / adapter_id)
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", 3, 2, adapter_id, score)
    data = read_json(pairs)
    base = write_rollouts(tiny_vla, tmp_path / "base", 1, 2)
    other = read_json(base)
    for name, entry in other["episodes"].items():
        entry["path"], entry["adapter_id"] = str(tmp_path / "base" / name), ""
    # of the first state the base model's rollouts, whose adapter is always at hand
    data["episodes"] |= other["episodes"]
    write_json(pairs, data)
    told = quick_config(tiny_model, pairs, tmp_path / "out", epochs=4, batch_pairs=1)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, metrics: dict) -> None:
        if done >= 2:
            raise Killed

    with pytest.raises(Killed):
        train(told, kill)
    # now the adapter is found, and with it more pairs
    with pytest.raises(TrainingError, match="checkpoints"):
        train(dataclasses.replace(told, registry=str(registry)))
    fresh = dataclasses.replace(told, registry=str(registry), output=str(tmp_path / "fresh"))
    assert train(fresh).pairs == 3


def test_a_cached_file_that_is_damaged_or_of_another_bag_is_not_used(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path
) -> None:
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", 1, 2)
    vla = load_checkpoint(tiny_model)
    learner = Learner(vla, SMALL, ByteCache(0))
    name = read_pairs(pairs).pairs[0].chosen
    one = library(pairs, vla)[name]
    wanted = LogProbs(learner, Adapters(vla.base_hash, None), tmp_path / "cache").of(one, "")
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    again = LogProbs(learner, Adapters(vla.base_hash, None), tmp_path / "cache")
    assert torch.equal(again.of(one, ""), wanted) and again.computed == 0
    for content in (b"", file.read_bytes()[:50]):
        file.write_bytes(content)
        again = LogProbs(learner, Adapters(vla.base_hash, None), tmp_path / "cache")
        assert torch.equal(again.of(one, ""), wanted) and again.computed == 1
    # the same id, another picture
    bag = Path(one.path)
    shutil.rmtree(bag)
    made = episode_for(tiny_vla, 999, 4, initial_state=100_000, episode_id=name)
    write_episode(made, bag)
    again = LogProbs(learner, Adapters(vla.base_hash, None), tmp_path / "cache")
    assert not torch.equal(again.of(library(pairs, vla)[name], ""), wanted) and again.computed == 1
    assert log_probs_module.REVISION >= 1


def test_under_another_adapter_the_learner_is_that_policy_and_comes_back(
    tiny_model: Path, tmp_path: Path, adapted: tuple[Path, str]
) -> None:
    registry, adapter_id = adapted
    vla = load_checkpoint(tiny_model)
    learner = Learner(vla, SMALL, ByteCache(2**24))
    with torch.no_grad():
        for p in learner.parameters:
            p.add_(0.05)
    episode = episode_for(
        load_checkpoint(tiny_model), 3, 5, adapter_id=adapter_id, score=scorer(tiny_model, registry / adapter_id)
    )
    bag = write_episode(episode, tmp_path / "bag")
    shelf = Library({episode.identity.episode_id: str(bag)}, vla.processor.prompt, vla.spec.image_size, vla.base_hash)
    one = shelf[episode.identity.episode_id]
    before = tpo.token_log_probs(learner.log_probs, one, 4)
    adapter = Adapters(vla.base_hash, registry).get(adapter_id)
    with learner.under(adapter):
        inside = tpo.token_log_probs(learner.log_probs, one, 4)
    assert np.abs(inside.numpy() - episode.logprobs).max() < 1e-4
    assert torch.equal(tpo.token_log_probs(learner.log_probs, one, 4), before)
    assert not torch.allclose(before, inside, atol=1e-2)


def test_bf16_is_within_its_own_bound_and_outside_that_of_fp32(tiny_model: Path, tmp_path: Path) -> None:
    vla = load_checkpoint(tiny_model, dtype=torch.bfloat16)
    engine = Engine(load_checkpoint(tiny_model, dtype=torch.bfloat16))
    pairs = write_rollouts(vla, tmp_path / "bags", 3, 2, score=engine.score)
    told = dataclasses.replace(quick_config(tiny_model, pairs, tmp_path / "out", max_updates=2), dtype="bfloat16")
    result = train(told)
    assert result.left_out == [] and result.changed
    assert 1e-4 < result.recorded_difference < settings().recorded_tolerance_bf16
    assert tolerance(SMALL, torch.bfloat16) == 0.5 and tolerance(SMALL, torch.float64) == 1e-4


def test_one_process_checks_what_all_would(tiny_model: Path, tiny_vla: Vla, tmp_path: Path) -> None:
    pairs = write_rollouts(tiny_vla, tmp_path / "bags", 1, 3)
    vla = load_checkpoint(tiny_model)
    held = LogProbs(Learner(vla, SMALL, ByteCache(0)), Adapters(vla.base_hash, None), tmp_path / "cache")
    shelf = library(pairs, vla)
    names = sorted(c.episode_id for c in read_pairs(pairs).candidates)
    found = check(names, {name: "" for name in names}, shelf, held, SMALL, Team())
    assert found.steps == {name: len(shelf[name]) for name in names} and found.left_out == ()
