import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grape_policy.checkpoint import CheckpointError, base_hash, load_checkpoint, save_checkpoint
from grape_policy.config import KNOWN_TOWERS, ConfigError, parse_config
from grape_policy.keys import UNUSED_PREFIX
from grape_policy.testing import write_random_checkpoint

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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=f"{name}: pickled weights .* safetensors"):
        load_checkpoint(folder)


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


def test_shards_load_as_one_file_does(folder: Path) -> None:
    whole = load_checkpoint(folder).model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    save_file({n: tensors[n] for n in names[::2]}, folder / "model-00001-of-00002.safetensors")
    save_file({n: tensors[n] for n in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    assert all(torch.equal(tensor, whole[n]) for n, tensor in load_checkpoint(folder).model.state_dict().items())


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


def test_a_published_config_gets_its_dimensions_from_the_names_of_its_towers() -> None:
    published = {
        "model_type": "openvla",
        "timm_model_ids": list(KNOWN_TOWERS),
        "pad_token_id": 32000,
        "pad_to_multiple_of": 64,
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064},
    }
    spec = parse_config(published)
    assert (spec.patches, spec.vision_width, spec.hidden_size) == (256, 2176, 4096)
    assert (spec.vocab_size, spec.empty_token_id, spec.image_size) == (32000, 29871, 224)
    assert [tower.mlp_width for tower in spec.towers] == [4096, 4304]
    for name, value in (("timm_model_ids", ["x", "y"]), ("model_type", "llama"), ("n_action_bins", 40000)):
        with pytest.raises(ConfigError, match=name):
            parse_config({**published, name: value})


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


def test_an_unknown_gripper_convention_lists_the_known_ones(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "action_convention": {"gripper": "loose"}}))
    with pytest.raises(CheckpointError, match=r"config\.json: action_convention\.gripper 'loose'.*minus_one_open"):
        load_checkpoint(folder)
