import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from grape_policy.checkpoint import CheckpointError, base_hash, load_checkpoint, save_checkpoint
from grape_policy.config import ConfigError, parse_config
from grape_policy.keys import UNUSED_PREFIX
from grape_policy.testing import PUBLISHED, TINY, write_random_checkpoint

GOLDEN = Path(__file__).parents[4] / "tests" / "data" / "openvla-tiny"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def test_writing_gives_back_every_tensor_of_a_real_file(tmp_path: Path) -> None:
    vla = load_checkpoint(GOLDEN)
    save_checkpoint(tmp_path / "again", vla.model, vla.spec.config, {}, {}, None)
    before, after = load_file(GOLDEN / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.shape == after[name].shape
        if not name.startswith(UNUSED_PREFIX):
            assert torch.equal(tensor, after[name]), name


def test_missing_unexpected_and_misshapen_keys_are_listed_by_the_files_names(folder: Path) -> None:
    gone, extra = "vision_backbone.featurizer.blocks.0.attn.qkv.weight", "projector.fc4.weight"
    changes = {gone: None, extra: torch.zeros(2), "projector.fc1.weight": torch.zeros(3, 3)}
    edit(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    text = str(caught.value)
    assert f"missing: {gone};" in text
    assert f"unexpected: {extra};" in text
    assert "misshapen: projector.fc1.weight (3, 3) for (" in text
    assert text.startswith(str(folder))


def test_a_truncated_file_and_an_empty_folder_are_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not readable"):
        load_checkpoint(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_checkpoint(tmp_path / "empty")


def test_the_hash_covers_every_file_that_changes_an_action(folder: Path) -> None:
    hashes = {base_hash(folder)}
    (folder / "README.md").write_text("figures")
    assert base_hash(folder) in hashes
    for name in ("config.json", "preprocessor_config.json", "dataset_statistics.json", "tokenizer.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
        hashes.add(base_hash(folder))
    edit(folder, **{"projector.fc1.bias": torch.ones(256, dtype=torch.bfloat16)})
    hashes.add(base_hash(folder))
    assert len(hashes) == 6


def test_statistics_of_a_fine_tune_override_those_of_the_base(folder: Path) -> None:
    statistics = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").write_text(json.dumps({"mine": statistics["random"]}))
    assert load_checkpoint(folder).stats.keys() == ["mine"]


def test_rotary_frequencies_stay_fp32_in_a_bf16_model(original: Path) -> None:
    plain, rounded = load_checkpoint(original), load_checkpoint(original, dtype=torch.bfloat16)
    assert rounded.model.embeddings.weight.dtype == torch.bfloat16
    rotary = rounded.model.language_model.model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32
    assert torch.equal(rotary, plain.model.language_model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("gripper", ["open_is_one", "closed_is_one", "minus_one_open"])
def test_actions_are_the_houses_whatever_the_checkpoint_says(folder: Path, gripper: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["action_convention"] = {"rotation": "axis_angle", "gripper": gripper}
    (folder / "config.json").write_text(json.dumps(config))
    vla = load_checkpoint(folder)
    tokens = np.random.default_rng(0).integers(513, 768, (4, 7))
    raw = vla.stats.unnormalise(vla.codec.decode(tokens))
    expected = {"open_is_one": raw[:, 6], "closed_is_one": 1 - raw[:, 6], "minus_one_open": (1 - raw[:, 6]) / 2}
    actions = vla.actions(tokens, "random")
    assert actions.dtype == np.float64 and actions.shape == (4, 7)
    assert np.array_equal(actions[:, :6], raw[:, :6])
    assert np.allclose(actions[:, 6], expected[gripper], atol=1e-15)
    assert np.array_equal(vla.actions(tokens[2]), actions[2])
    # the ends of the range: what is open for the house is trained as the checkpoint's own value for open
    assert vla.actions(vla.action_tokens(np.array([0.0] * 6 + [1.0])))[6] == pytest.approx(1.0, abs=0.01)
    assert np.array_equal(vla.action_tokens(actions), tokens)


def test_a_tokenizer_model_alone_is_refused_with_the_way_to_a_tokenizer_json(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: no such file, .* python -c .*save_pretrained"
    ) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    (folder / "tokenizer.model").unlink()
    assert load_checkpoint(folder).processor.tokenizer is None  # prompts are given as ids then


def test_a_tokenizer_of_another_vocabulary_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"<more{number}>" for number in range(1000)])
    tokenizer.save(str(path))
    vocabulary = parse_config(json.loads((folder / "config.json").read_text())).padded_vocab_size
    with pytest.raises(CheckpointError, match=rf"^{path}: .*the model's vocabulary is {vocabulary}$"):
        load_checkpoint(folder)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=rf"^{path}: not a tokenizer"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", "[]", "expected a JSON object"),
        ("config.json", "[" * 100000, "not readable as JSON"),
        ("preprocessor_config.json", "{}", "preprocessor_config.json: missing field 'interpolations'"),
        ("dataset_statistics.json", '{"a": {"action": {"q01": [1]}}}', "a: unreadable action statistics: 'q99'"),
        ("dataset_statistics.json", '{"a": 3}', "a: unreadable action statistics"),
    ],
)
def test_a_broken_settings_file_is_one_line_that_names_it(folder: Path, name: str, content: str, reason: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(folder)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_dimensions_that_make_no_model_are_one_line(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: no model can be built of it: .*attention") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON: no regular file"):
        load_checkpoint(folder)


def test_a_folder_as_published_loads_and_acts(tmp_path: Path) -> None:
    """Every file and field of a published checkpoint at a small size; the dimensions that the towers' names would give
    are the only extension. Llama 2's vocabulary: padding token 32000, 32064 logits."""
    size = dataclasses.replace(TINY, vocab_size=32000)
    folder = write_random_checkpoint(tmp_path, size=size)
    small = json.loads((folder / "config.json").read_text())
    config = {**PUBLISHED, "image_sizes": [56, 56], "vision_towers": small["vision_towers"]}
    dimensions = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config["text_config"] = {**PUBLISHED["text_config"], **{name: small["text_config"][name] for name in dimensions}}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name, place in shards.items() if place == shard}, folder / shard)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "added_tokens.json").write_text(json.dumps({"<PAD>": 32000}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "pad_token": "<PAD>"}))
    (folder / "modeling_prismatic.py").write_text("raise SystemExit('remote code was run')")
    vla = load_checkpoint(folder)
    assert vla.processor.tokenizer is not None
    assert vla.processor.tokenizer.token_to_id("<PAD>") == vla.spec.pad_token_id == 32000
    prompt = vla.processor.prompt("Put the carrot on the plate")
    assert int(prompt[-1]) == vla.processor.tokenizer.token_to_id("▁")
    pixels = vla.processor.pixels(vla.processor.model_input(np.zeros((48, 64, 3), np.uint8))[None])
    with torch.no_grad():
        logits = vla.model(pixels, [prompt], torch.full((1, 7), 31900))
    assert logits.shape == (1, 7, 32064)
    tokens = logits[..., 31744:32000].argmax(-1).numpy() + 31744
    actions = vla.actions(tokens, "random")
    assert actions.shape == (1, 7) and np.all(np.isfinite(actions))
    with pytest.raises(ConfigError, match=r"unnorm_key 'bridge_orig' is unknown; the checkpoint has \['random'\]"):
        vla.actions(tokens, "bridge_orig")
