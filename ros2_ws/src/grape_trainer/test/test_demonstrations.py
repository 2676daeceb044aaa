"""Demonstrations: actions to tokens, statistics, bags without steps, and supervised training to a model of its own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from grape_episode import topics
from grape_episode.bag import Bag
from grape_episode.episode import DEMONSTRATION, ENDED_BY_OPERATOR, PERSON_DROVE, Episode, Series
from grape_episode.reader import find_bags, read_episode
from grape_episode.synthetic import episode_messages, write_episode
from grape_episode.typestore import typestore
from grape_policy.adapters import read_adapter
from grape_policy.checkpoint import Vla, base_hash, load_checkpoint
from grape_policy.engine import Engine
from grape_policy.logprobs import token_logprobs
from grape_trainer.config import TrainConfig, read_config
from grape_trainer.demonstrations import Demonstrations
from grape_trainer.errors import SettingsError, TrainingError
from grape_trainer.files import read_json, read_lines, write_json
from grape_trainer.settings import settings
from grape_trainer.testing import QUICK, episode_for
from grape_trainer.train import train

OWN, BASE = settings(method="sft"), settings(method="sft", statistics="base")


def driven(vla: Vla, seed: int, steps: int = 8, **more: object) -> Episode:
    """A person's episode: no model that is known is named in it, its tokens mean nothing."""
    made = episode_for(vla, seed, steps, **more)  # type: ignore[arg-type]
    named = dataclasses.replace(made.identity, base_hash="f" * 64)
    return dataclasses.replace(
        made, identity=named, steps=tuple(dataclasses.replace(step, base_hash="f" * 64) for step in made.steps)
    )


def write_without_steps(episode: Episode, path: Path, without: tuple[str, ...] = ()) -> Path:
    """A teleoperated bag: camera, arm and gripper, no decisions."""
    assert episode.outcome is not None
    told = dataclasses.replace(episode, outcome=dataclasses.replace(episode.outcome, steps=0))
    bag, time = Bag(path, "zstd"), 0
    for topic, stamp, message in episode_messages(told):
        if topic not in (topics.POLICY_STEP, topics.GATE_STATUS, *without):
            time = max(time + 1, stamp)
            name = topics.DATA_TYPES[topic]
            bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), time)
    bag.close()
    return bag.folder


def test_a_bag_without_steps_gives_the_motion_between_frames(tiny_vla: Vla, tmp_path: Path) -> None:
    episode = driven(tiny_vla, 1, 8)
    random = np.random.default_rng(0)
    turned = Rotation.random(len(episode.tcp), rng=random)
    poses = np.concatenate([episode.tcp.values[:, :3], turned.as_quat()], axis=1)
    episode = dataclasses.replace(episode, tcp=Series(episode.tcp.stamps, poses))
    bag = write_without_steps(episode, tmp_path / "bag")
    held = Demonstrations([bag], tiny_vla, BASE)
    (taken,) = held._taken.values()
    assert taken.actions.shape == (8, 7) and taken.instructions[0] == episode.identity.instruction
    wanted = np.array([step.action[:3] for step in episode.steps])
    assert np.allclose(taken.actions[:, :3], wanted, atol=1e-12)
    for t in range(8):
        # the rotation that the gate would apply to the pose before leads to the pose after
        after = Rotation.from_euler("xyz", taken.actions[t, 3:6]) * turned[t]
        assert (after.inv() * turned[t + 1]).magnitude() < 1e-9
    assert np.allclose(taken.actions[:, 6], episode.gripper.values[1:, 0] / topics.GRIPPER_STROKE)
    one = held[episode.identity.episode_id]
    assert torch.equal(one.images(), torch.from_numpy(episode.images)) and one.recorded is None
    assert torch.equal(one.tokens, torch.from_numpy(tiny_vla.action_tokens(taken.actions)).long())


def test_tokens_stand_for_the_recorded_actions_up_to_a_bin(tiny_vla: Vla, tmp_path: Path) -> None:
    bags = [write_episode(driven(tiny_vla, n, 12), tmp_path / f"b{n}") for n in range(3)]
    held = Demonstrations(bags, tiny_vla, OWN)
    assert held.statistics is not None
    entry = held.statistics["demonstrations"]
    actions = np.concatenate([[s.action for s in read_episode(bag, images=False).steps] for bag in bags])
    assert np.allclose(entry["action"]["q01"][0], np.quantile(actions[:, 0], 0.01))
    assert np.allclose(entry["action"]["q99"][2], np.quantile(actions[:, 2], 0.99))
    assert (entry["num_trajectories"], entry["num_transitions"]) == (3, 36)
    q01, q99 = (np.array(entry["action"][name]) for name in ("q01", "q99"))
    vla = held._vla
    for episode_id in held.steps:
        decoded = vla.actions(held[episode_id].tokens.numpy())
        wanted = held._taken[episode_id].actions
        inside = np.all((wanted[:, :6] >= q01[:6]) & (wanted[:, :6] <= q99[:6]), axis=1)
        assert inside.any()
        assert np.all(np.abs(decoded - wanted)[inside, :6] <= (q99 - q01)[:6] / 255)
        assert np.all(np.abs(decoded - wanted)[:, 6] <= 0.005)


def test_the_model_s_own_tokens_are_kept_where_its_statistics_hold(tiny_vla: Vla, tmp_path: Path) -> None:
    episode = episode_for(tiny_vla, 1, 9)
    bag = write_episode(episode, tmp_path / "bag")
    name = episode.identity.episode_id
    assert torch.equal(Demonstrations([bag], tiny_vla, BASE)[name].tokens, torch.from_numpy(episode.tokens).long())
    assert not torch.equal(Demonstrations([bag, bag], tiny_vla, OWN)[name].tokens, torch.from_numpy(episode.tokens))


def test_a_rotation_of_another_convention_is_translated(tiny_vla: Vla, tmp_path: Path) -> None:
    episode = driven(tiny_vla, 2, 8)
    vectors = np.random.default_rng(1).normal(0, 0.4, (8, 3))
    steps = tuple(
        dataclasses.replace(s, rotation="axis_angle", action=np.concatenate([s.action[:3], v, s.action[6:]]))
        for s, v in zip(episode.steps, vectors, strict=True)
    )
    bag = write_episode(dataclasses.replace(episode, steps=steps), tmp_path / "bag")
    (taken,) = Demonstrations([bag], tiny_vla, BASE)._taken.values()
    for row, vector in zip(taken.actions, vectors, strict=True):
        gap = Rotation.from_euler("xyz", row[3:6]).inv() * Rotation.from_rotvec(vector)
        assert gap.magnitude() < 1e-9


def test_what_is_no_demonstration_is_left_out_with_its_reason(tiny_vla: Vla, tmp_path: Path) -> None:
    good = write_episode(driven(tiny_vla, 0, 9, episode_id="good"), tmp_path / "a-good")
    write_episode(driven(tiny_vla, 0, 9, episode_id="good"), tmp_path / "b-twice")
    write_episode(driven(tiny_vla, 1, 9, success=False), tmp_path / "c-failed")
    cut = write_episode(driven(tiny_vla, 2, 9), tmp_path / "d-cut")
    file = next(cut.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:3000])
    write_without_steps(driven(tiny_vla, 3, 9), tmp_path / "e-no-arm", (topics.CURRENT_POSE,))
    write_without_steps(driven(tiny_vla, 4, 9), tmp_path / "f-no-camera", (topics.MODEL_INPUT,))
    made = driven(tiny_vla, 5, 9)
    blind = tuple(dataclasses.replace(s, image=None) if s.index == 3 else s for s in made.steps)
    write_episode(dataclasses.replace(made, steps=blind), tmp_path / "g-blind")
    write_episode(dataclasses.replace(driven(tiny_vla, 6, 9), outcome=None), tmp_path / "h-open")
    held = Demonstrations(find_bags(tmp_path), tiny_vla, OWN)
    assert list(held.steps) == ["good"] and held.paths["good"] == str(good)
    reasons = [one.reason for one in held.left_out]
    for reason, text in zip(
        reasons,
        ("a second time", "it failed", "cut off", topics.CURRENT_POSE, "no frame on", "no image for", "no outcome"),
        strict=True,
    ):
        assert text in reason and "\n" not in reason
    with pytest.raises(TrainingError, match=r"none of 1 bags is a demonstration; the first: .*c-failed"):
        Demonstrations([tmp_path / "c-failed"], tiny_vla, OWN)


def shown(vla: Vla, seed: int, end: str = "success", detail: str = "", success: int = 1, **more: object) -> Episode:
    """A demonstration as the policy node runs it: frames of the model's size and no steps."""
    made = driven(vla, seed, 8, **more)
    assert made.outcome is not None
    outcome = dataclasses.replace(made.outcome, end_reason=end, detail=detail, success_reward=success)
    identity = dataclasses.replace(made.identity, notes=(DEMONSTRATION,))
    return dataclasses.replace(made, identity=identity, outcome=outcome)


def test_a_demonstration_ends_by_success_its_limit_or_the_person_s_word(tiny_vla: Vla, tmp_path: Path) -> None:
    ends = [("success", "", 1), ("step_limit", "", -1), ("cancelled", f"{ENDED_BY_OPERATOR}", -1)]
    ends += [("cancelled", "cancelled by the client", -1), ("cancelled", ENDED_BY_OPERATOR, 0), ("gate_fault", "", -1)]
    for n, (end, detail, success) in enumerate(ends):
        write_without_steps(shown(tiny_vla, n, end, detail, success), tmp_path / f"b{n}")
    held = Demonstrations(find_bags(tmp_path), tiny_vla, OWN)
    assert len(held.steps) == 3 and {Path(path).name for path in held.paths.values()} == {"b0", "b1", "b2"}
    assert [Path(one.path).name for one in held.left_out] == ["b3", "b4", "b5"]


def test_what_the_model_saw_is_not_cropped_a_second_time(tiny_vla: Vla, tmp_path: Path) -> None:
    episode = shown(tiny_vla, 1)
    bag = write_without_steps(episode, tmp_path / "bag")
    cropping = dataclasses.replace(tiny_vla, processor=copy.copy(tiny_vla.processor))
    cropping.processor.center_crop = True
    images = Demonstrations([bag], cropping, OWN)[episode.identity.episode_id].images()
    assert torch.equal(images, torch.from_numpy(episode.images))


def test_an_episode_that_a_person_drove_for_a_while_is_neither_one_nor_the_other(tiny_vla: Vla, tmp_path: Path) -> None:
    made = driven(tiny_vla, 1, 9)
    moves = Series(made.tcp.stamps[2:4], np.zeros((2, 7)))
    bag = write_episode(dataclasses.replace(made, operator=moves), tmp_path / "bag")
    with pytest.raises(TrainingError, match=f"{PERSON_DROVE}: neither"):
        Demonstrations([bag], tiny_vla, OWN)


def sft(model: Path, bags: Path, output: Path, **overrides: object) -> TrainConfig:
    told = {**QUICK, "method": "sft", "lora_rank": 4, "epochs": 20, "learning_rate": 5e-3}
    return TrainConfig(str(model), "", str(output), bags=[str(bags)], settings={**told, **overrides})


def mean_log_prob(vla: Vla, held: Demonstrations) -> float:
    total = []
    for name in held.steps:
        one = held[name]
        with torch.no_grad():
            total.append(token_logprobs(vla.model, vla.processor.pixels(one.images()), one.prompts, one.tokens).mean())
    return float(torch.stack(total).mean())


def test_supervised_training_gives_a_model_with_statistics_of_its_own(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path
) -> None:
    for n in range(4):
        write_without_steps(driven(tiny_vla, n, 8), tmp_path / f"bags/b{n}")
    result = train(sft(tiny_model, tmp_path / "bags", tmp_path / "out"))
    updates = [line for line in read_lines(tmp_path / "out/metrics.jsonl") if "loss" in line]
    assert result.changed and updates[-1]["loss"] < 0.8 * updates[0]["loss"]
    # with other statistics the same tokens are other actions: there is no adapter for the old base
    assert not (tmp_path / "out/adapter").exists()
    folder = tmp_path / "out/model"
    made = load_checkpoint(folder)
    assert made.base_hash == base_hash(folder) != tiny_vla.base_hash
    statistics = read_json(folder / "dataset_statistics.json")
    held = Demonstrations(find_bags(tmp_path / "bags"), tiny_vla, OWN)
    assert statistics == held.statistics and read_json(folder / "config.json")["norm_stats"] == statistics
    assert mean_log_prob(made, held) > mean_log_prob(tiny_vla, held) + 0.2
    decision = Engine(made).act(
        episode_for(tiny_vla, 1, 4).images[0], "put the carrot on the plate", seed=1, step=0, temperature=0.0
    )
    q = statistics["demonstrations"]["action"]
    assert np.all(decision.action[:6] >= np.array(q["q01"][:6]) - 1e-9)
    assert np.all(decision.action[:6] <= np.array(q["q99"][:6]) + 1e-9)
    assert train(sft(tiny_model, tmp_path / "bags", tmp_path / "out")) == result


def test_with_the_base_s_statistics_adapter_and_merged_model_agree(
    tiny_model: Path, tiny_vla: Vla, tmp_path: Path
) -> None:
    for n in range(3):
        write_episode(episode_for(tiny_vla, n, 5), tmp_path / f"bags/b{n}")
    train(sft(tiny_model, tmp_path / "bags", tmp_path / "out", statistics="base", max_updates=5))
    adapter = read_adapter(tmp_path / "out/adapter", tiny_vla.base_hash)
    merged = load_checkpoint(tmp_path / "out/model")
    assert merged.stats.keys() == tiny_vla.stats.keys() and merged.base_hash != tiny_vla.base_hash
    plain = load_checkpoint(tiny_model)
    for name, (a, b) in adapter.layers.items():
        weight = plain.model.get_submodule(name).weight
        assert torch.allclose(merged.model.get_submodule(name).weight, weight + b @ a, atol=1e-6)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({"settings": {"method": "sft"}, "pairs": "p"}, "bags is missing: method sft"),
        ({"bags": ["b"]}, "pairs is missing: method tpo"),
        ({"bags": "b", "settings": {"method": "sft"}}, "bags: expected list"),
        ({"bags": [1], "settings": {"method": "sft"}}, "bags: expected paths"),
    ],
)
def test_the_configuration_names_what_a_method_needs(tmp_path: Path, edit: dict, text: str) -> None:
    write_json(tmp_path / "c.json", {"model": "m", "output": "o", **edit})
    with pytest.raises(SettingsError, match=text):
        read_config(tmp_path / "c.json")


def test_no_bag_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nowhere: no bag here"):
        train(sft(tiny_model, tmp_path / "nowhere", tmp_path / "out"))
