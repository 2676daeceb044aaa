from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from grape_policy.adapters import WEIGHTS, AdapterError, adapter_hash, read_adapter, read_manifest
from grape_policy.bad_adapters import EXECUTED, HIGH_RANK, KINDS, change_weights
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.testing import write_bad_adapters, write_random_adapter, write_random_checkpoint

# What `read_adapter` says of each; None: it takes the slots, which know shapes and ranks, to refuse it.
REASONS = {
    "truncated file": ("adapter_model.safetensors: not readable as safetensors",) * 2,
    "wrong base hash": ("manifest.json: trained on base model 000000000000, ", "manifest.json: trained on base model "),
    "NaN": ("lora_A.weight is not finite", "lora_B.weight is not finite"),
    "wrong shapes": (None, None),
    "missing keys": ("lora_B is missing", "missing: no tensors for projector.fc3, "),
    "pickle": ("adapter_model.bin: pickled", "adapter_model.safetensors: not readable as safetensors"),
    "other model": ("no linear layer model.layers.0.", "no linear layer transformer.h.0."),
    "empty folder": (": is empty", "manifest.json: no such file"),
    "unreadable": ("not readable: no regular file", "not readable: a link to a file that is not there"),
    "rank above the slot's": (None, None),
}


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Vla:
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def good(vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_adapter(tmp_path_factory.mktemp("good") / "adapter", vla, rank=4, seed=1)


def test_each_is_refused_in_one_line_by_the_check_for_its_kind(vla: Vla, good: Path, tmp_path: Path) -> None:
    bad = write_bad_adapters(tmp_path, good)
    assert list(bad) == list(KINDS) == list(REASONS)
    for kind, folders in bad.items():
        assert len(set(folders)) == 2
        for folder, reason in zip(folders, REASONS[kind], strict=True):
            if reason is None:
                read_adapter(folder, vla.base_hash, vla.spec)
                continue
            with pytest.raises(AdapterError) as caught:
                read_adapter(folder, vla.base_hash, vla.spec)
            text = str(caught.value)
            assert text.startswith(str(folder)) and reason in text and "\n" not in text, (kind, text)
    assert not list(tmp_path.rglob(EXECUTED))
    read_adapter(good, vla.base_hash, vla.spec)


def test_what_reading_lets_pass_is_for_the_slots_to_refuse(vla: Vla, good: Path, tmp_path: Path) -> None:
    bad = write_bad_adapters(tmp_path, good)
    narrow, more = (read_adapter(folder, vla.base_hash, vla.spec).layers for folder in bad["wrong shapes"])
    shapes = {
        name: (m.in_features, m.out_features) for name, m in vla.model.named_modules() if hasattr(m, "in_features")
    }
    for layers in (narrow, more):
        assert sum((a.shape[1], b.shape[0]) != shapes[name] for name, (a, b) in layers.items()) == 1
    ranks = [read_adapter(folder, vla.base_hash, vla.spec) for folder in bad["rank above the slot's"]]
    assert [adapter.rank for adapter in ranks] == [HIGH_RANK, HIGH_RANK]
    assert [len({a.shape[0] for a, _ in adapter.layers.values()}) for adapter in ranks] == [1, 2]


def test_manifests_name_the_files_as_they_are(good: Path, tmp_path: Path) -> None:
    for folders in write_bad_adapters(tmp_path, good).values():
        for folder in folders:
            if (folder / WEIGHTS).is_file():
                assert read_manifest(folder).adapter_id == adapter_hash(folder)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_random_adapter_is_read_alike_by_peft_and_changes_weights_by_its_scale(
    vla: Vla, tmp_path: Path, rslora: bool
) -> None:
    before = {name: tensor.clone() for name, tensor in vla.model.state_dict().items()}
    first, same, other = (
        write_random_adapter(tmp_path / name, vla, 8, seed, rslora, scale=0.5)
        for name, seed in (("first", 1), ("same", 1), ("other", 2))
    )
    assert adapter_hash(first) == adapter_hash(same) != adapter_hash(other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vla.model.state_dict().items())
    layers = read_adapter(first, vla.base_hash, vla.spec).layers
    model = peft.PeftModel.from_pretrained(load_checkpoint(vla.folder).model, str(first))
    wrapped = {n: m for n, m in model.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    assert wrapped.keys() == layers.keys()
    for name, (a, b) in layers.items():
        torch.testing.assert_close(b @ a, wrapped[name].get_delta_weight("default"), atol=1e-6, rtol=1e-5)
        assert float((b @ a).std()) == pytest.approx(0.5 / a.shape[1] ** 0.5, rel=0.35)


@pytest.mark.filterwarnings("ignore:.*embedding layer")
def test_targets_and_settings_are_pefts(vla: Vla, tmp_path: Path) -> None:
    folder = write_random_adapter(
        tmp_path / "one", vla, 4, 0, targets=["lm_head", "fc3"], rank_pattern={"fc3": 2}, alpha_pattern={"fc3": 6}
    )
    layers = read_adapter(folder, vla.base_hash, vla.spec).layers
    assert {name: a.shape[0] for name, (a, _) in layers.items()} == {"language_model.lm_head": 4, "projector.fc3": 2}
    raw = load_file(folder / WEIGHTS)["base_model.model.projector.fc3.lora_B.weight"]
    torch.testing.assert_close(layers["projector.fc3"][1], 3.0 * raw)


@pytest.mark.filterwarnings("ignore:.*embedding layer")
def test_the_copy_of_the_output_layer_that_peft_saves_is_no_obstacle(vla: Vla, tmp_path: Path) -> None:
    """With `lm_head` among the targets peft saves the frozen layer too, where it finds it by transformers' names."""
    folder = write_random_adapter(tmp_path / "one", vla, 4, 0, targets=["lm_head"])
    head = vla.model.language_model.lm_head.weight.detach()
    name = "base_model.model.language_model.lm_head.base_layer.weight"
    change_weights(folder, lambda tensors: tensors.update({name: head}))
    assert list(read_adapter(folder, vla.base_hash, vla.spec).layers) == ["language_model.lm_head"]
    change_weights(folder, lambda tensors: tensors.update({name.replace("lm_head", "embed_tokens"): head}))
    with pytest.raises(AdapterError, match=r"unexpected tensor .*embed_tokens\.base_layer"):
        read_adapter(folder, vla.base_hash, vla.spec)
