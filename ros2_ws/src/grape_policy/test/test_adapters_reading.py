"""What `read_adapter` makes of files that are odd, broken or changing; `test_adapters.py` has the rest."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from grape_policy.adapter_config import EVALUATED
from grape_policy.adapters import (
    CONFIG,
    MANIFEST,
    PREFIX,
    WEIGHTS,
    AdapterError,
    AdapterManifest,
    adapter_hash,
    read_adapter,
    read_manifest,
)
from grape_policy.bad_adapters import change_config, change_weights, seal
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.testing import write_random_adapter, write_random_checkpoint

HEAD = PREFIX + "projector.fc1.lora_A.weight"
POOL = PREFIX + "vision_backbone.fused_featurizer.attn_pool.q"


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Vla:
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def good(vla: Vla, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_adapter(tmp_path_factory.mktemp("good") / "adapter", vla, rank=4, seed=1)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def refusal(folder: Path, vla: Vla) -> str:
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder, vla.base_hash, vla.spec)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scales_that_differ_by_module_are_pefts(vla: Vla, tmp_path: Path, rslora: bool) -> None:
    patterns: dict[str, Any] = {"rank_pattern": {r"layers\.0\..*": 8, "fc2": 2}}
    patterns["alpha_pattern"] = {"q_proj": 32, r".*\.self_attn\.[kv]_proj": 0.5, "projector.fc2": 3}
    folder = write_random_adapter(tmp_path / "one", vla, 4, 0, rslora, **patterns)
    layers = read_adapter(folder, vla.base_hash, vla.spec).layers
    model = peft.PeftModel.from_pretrained(load_checkpoint(vla.folder).model, str(folder)).base_model.model
    wrapped = {name: m for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    assert wrapped.keys() == layers.keys() and len({m.scaling["default"] for m in wrapped.values()}) > 4
    for name, (a, b) in layers.items():
        assert a.shape[0] == wrapped[name].r["default"]
        torch.testing.assert_close(b @ a, wrapped[name].get_delta_weight("default"), atol=1e-6, rtol=1e-5)


def test_a_rank_that_the_configuration_does_not_give_is_refused(folder: Path, vla: Vla) -> None:
    change_config(folder, r=5)
    assert "have rank 4, adapter_config.json says 5" in refusal(folder, vla)


def test_a_pair_on_timms_convolution_becomes_matrices(folder: Path, vla: Vla) -> None:
    """B A on the pixels of a patch is what the two convolutions compute there."""
    a, b = torch.randn(4, 3, 14, 14), torch.randn(32, 4, 1, 1)
    name = "vision_backbone.featurizer.patch_embed.proj"
    pair = {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
    change_weights(folder, lambda tensors: (tensors.clear(), tensors.update(pair)))
    change_config(folder, target_modules=["proj"], lora_alpha=4, exclude_modules=r".*(attn|fused).*")
    (left, right) = read_adapter(folder, vla.base_hash, vla.spec).layers[name]
    pixels = torch.randn(2, 3, 14, 14)
    expected = torch.conv2d(torch.conv2d(pixels, a, stride=14), b).flatten(1)
    torch.testing.assert_close(pixels.flatten(1) @ left.T @ right.T, expected, atol=1e-4, rtol=1e-4)


def test_pairs_on_the_unused_pooling_head_are_left_out(folder: Path, vla: Vla) -> None:
    plain = read_adapter(folder, vla.base_hash, vla.spec).layers
    pool = {f"{POOL}.lora_A.weight": torch.ones(4, 32), f"{POOL}.lora_B.weight": torch.ones(32, 4)}
    change_weights(folder, lambda tensors: tensors.update(pool))
    assert read_adapter(folder, vla.base_hash, vla.spec).layers.keys() == plain.keys()
    change_weights(folder, lambda tensors: (tensors.clear(), tensors.update(pool)))
    assert refusal(folder, vla).endswith("holds no tensors that the model uses")


def test_what_was_checked_is_what_serves_whatever_happens_to_the_file(folder: Path, vla: Vla) -> None:
    """fp32 tensors of a mapped file would be the file: cut short, they would end the process."""
    layers = read_adapter(folder, vla.base_hash, vla.spec).layers
    before = {name: (a.clone(), b.clone()) for name, (a, b) in layers.items()}
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(bytes(1000))
        file.truncate(0)
    for name, (a, b) in layers.items():
        assert torch.equal(a, before[name][0]) and torch.equal(b, before[name][1])


def test_integers_are_no_weights(folder: Path, vla: Vla) -> None:
    change_weights(folder, lambda tensors: tensors.update({HEAD: torch.ones(4, 64, dtype=torch.int32)}))
    assert f"{HEAD} is torch.int32, no floating-point numbers" in refusal(folder, vla)


def test_a_scale_beyond_the_numbers_is_refused(folder: Path, vla: Vla) -> None:
    change_weights(folder, lambda tensors: tensors.update({HEAD.replace("_A", "_B"): torch.full((256, 4), 1e38)}))
    change_config(folder, lora_alpha=1e6)
    assert "projector.fc1: B is not finite after scaling" in refusal(folder, vla)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_pipes_folders_and_dangling_links_are_no_files(folder: Path, vla: Vla, name: str) -> None:
    """Opening a pipe would wait for ever."""
    path = folder / name
    path.unlink()
    os.mkfifo(path)
    assert refusal(folder, vla).startswith(f"{path}: not readable")
    path.unlink()
    path.mkdir()
    assert refusal(folder, vla).startswith(f"{path}: not readable")
    path.rmdir()
    path.symlink_to(folder / "gone")
    assert str(path) in refusal(folder, vla)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_files_without_permission_are_named(folder: Path, vla: Vla, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bind whoever is root, as in a container: the system's answer is played."""
    plain = Path.open

    def denied(path: Path, *arguments: Any, **values: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **values)

    monkeypatch.setattr(Path, "open", denied)
    text = refusal(folder, vla)
    assert text.startswith(f"{folder / name}: not readable") and "Permission denied" in text


@pytest.mark.parametrize(
    ("field", "value"), [("pairs", "3"), ("episodes", 3), ("settings", []), ("parent", None), ("created", 2026)]
)
def test_a_manifests_field_of_the_wrong_type_is_named(folder: Path, vla: Vla, field: str, value: object) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, field: value}))
    assert f"{MANIFEST}: field {field} is of type {type(value).__name__}, expected " in refusal(folder, vla)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.floats() | st.text("q_proj.*([", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("fc1.*([", max_size=4), inner, max_size=3),
    max_leaves=4,
)
fields = st.sampled_from(sorted(EVALUATED | {"modules_to_save", "task_type"}))


@pytest.mark.filterwarnings("ignore:Possible nested set")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(fields, values, min_size=1, max_size=3))
def test_whatever_a_configuration_says_it_is_read_or_refused(folder: Path, vla: Vla, change: dict[str, Any]) -> None:
    before = (folder / CONFIG).read_bytes()
    try:
        change_config(folder, **change)
        read_adapter(folder, vla.base_hash, vla.spec)
    except AdapterError as error:
        assert str(folder) in str(error)
    finally:
        (folder / CONFIG).write_bytes(before)
        seal(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_happens_to_its_bytes_a_file_is_read_or_refused(folder: Path, vla: Vla, data: st.DataObject) -> None:
    path = folder / WEIGHTS
    before = path.read_bytes()
    (length,) = struct.unpack("<Q", before[:8])
    content = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, length + 8) | st.integers(0, len(before) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    seal(folder)
    try:
        layers = read_adapter(folder, vla.base_hash, vla.spec).layers
        assert all(bool(torch.isfinite(part).all()) for pair in layers.values() for part in pair)
    except AdapterError as error:
        assert str(folder) in str(error)
    finally:
        path.write_bytes(before)
        seal(folder)


def test_the_id_of_an_adapter_on_disk_never_changes(tmp_path: Path) -> None:
    """Written out: registries hold it."""
    save_file({"a": torch.arange(3.0)}, tmp_path / WEIGHTS)
    config = {"peft_type": "LORA", "target_modules": ["b", "a"], "r": 4, "base_model_name_or_path": "x"}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert load_file(tmp_path / WEIGHTS)["a"].tolist() == [0.0, 1.0, 2.0]
    found = adapter_hash(tmp_path)
    assert found == "c71c0970190f9fae2644c66f193e53cead786df55b1ad5260b8baf7185cd0a33"
    AdapterManifest(found, "base").write(tmp_path)
    assert read_manifest(tmp_path).adapter_id == found
