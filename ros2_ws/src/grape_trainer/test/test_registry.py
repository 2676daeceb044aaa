"""Adapters stay whole, the pointer points to one of them, and what was changed behind its back is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from grape_policy.adapters import AdapterManifest, adapter_hash, current_adapter
from grape_trainer import files, peft_folder
from grape_trainer import registry as registry_module
from grape_trainer.errors import RegistryError, TrainerError
from grape_trainer.registry import Registry

PASSED = {"accepted": True, "reason": "for a test"}


def adapter(folder: Path, value: float, created: str = "2026-01-01", name: str | None = None, **more: Any) -> Path:
    weights = {
        "base_model.model.projector.fc1.lora_A.weight": torch.full((2, 4), value),
        "base_model.model.projector.fc1.lora_B.weight": torch.full((3, 2), value),
    }
    peft_folder.write_adapter(folder, weights, LoraConfig(r=2, target_modules=["projector.fc1"]))
    told = {"verdict": PASSED, **more}
    manifest = AdapterManifest(name or adapter_hash(folder), "base", created=created, **told)
    peft_folder.write_manifest(folder, manifest)
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


def test_promote_and_roll_back_through_what_served(registry: Registry, tmp_path: Path) -> None:
    ids = [registry.add(adapter(tmp_path / str(i), float(i), f"2026-01-0{i}")) for i in range(1, 4)]
    assert registry.current == "" and registry.current_path is None and current_adapter(registry.root) is None
    for adapter_id in ids:
        registry.promote(adapter_id)
        assert current_adapter(registry.root) == registry.root / adapter_id == registry.current_path
    assert [e.adapter_id for e in registry.list()] == ids
    assert [e.current for e in registry.list()] == [False, False, True]
    assert registry.rollback() == ids[1]
    assert registry.rollback() == ids[0]
    registry.promote(ids[2])
    assert registry.rollback() == ids[0]
    assert registry.rollback() == "" and registry.current_path is None
    assert current_adapter(registry.root) is None
    with pytest.raises(RegistryError, match="nothing served before"):
        registry.rollback()
    assert registry.verify() == []


def test_adding_twice_keeps_the_first(registry: Registry, tmp_path: Path) -> None:
    adapter_id = registry.add(adapter(tmp_path / "a", 1.0, "2026-01-01"))
    assert registry.add(adapter(tmp_path / "b", 1.0, "2027-01-01")) == adapter_id
    assert [e.manifest["created"] for e in registry.list()] == ["2026-01-01"]


def test_names_may_be_shortened_but_not_ambiguous(registry: Registry, tmp_path: Path) -> None:
    ids = [registry.add(adapter(tmp_path / str(i), float(i))) for i in range(3)]
    assert registry.path(ids[0][:10]).name == ids[0]
    for wrong in ("", "zz"):
        with pytest.raises(RegistryError, match="no adapter"):
            registry.path(wrong)
    registry.promote(ids[1][:10])
    assert registry.current == ids[1]


def test_damage_is_found_and_refused(registry: Registry, tmp_path: Path) -> None:
    adapter_id = registry.add(adapter(tmp_path / "a", 1.0))
    other = registry.add(adapter(tmp_path / "b", 2.0))
    registry.promote(adapter_id)
    weights = registry.path(adapter_id) / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert [(e.adapter_id, "names adapter" in e.problem) for e in registry.verify()] == [(adapter_id, True)]
    (registry.path(other) / "manifest.json").unlink()
    problems = {e.adapter_id: e.problem for e in registry.verify()}
    assert "manifest.json" in problems[other]
    for damaged in (adapter_id, other):
        with pytest.raises(RegistryError, match=damaged[:8]):
            Registry(registry.root).promote(damaged) if damaged != registry.current else registry.add(
                registry.path(damaged)
            )


def test_a_pointer_to_nowhere_is_reported(registry: Registry, tmp_path: Path) -> None:
    registry.add(adapter(tmp_path / "a", 1.0))
    (registry.root / "current").write_text("f" * 64 + "\n")
    assert ["not there" in e.problem for e in registry.verify()] == [True]
    with pytest.raises(RegistryError, match="no adapter"):
        _ = registry.current_path


@pytest.mark.parametrize("damage", ["no folder", "no manifest", "another id", "no weights"])
def test_what_is_not_whole_is_not_added(registry: Registry, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "a"
    if damage != "no folder":
        adapter(folder, 1.0, name="0" * 64 if damage == "another id" else None)
    if damage == "no manifest":
        (folder / "manifest.json").unlink()
    if damage == "no weights":
        (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(RegistryError, match=str(folder)) as caught:
        registry.add(folder)
    assert "\n" not in str(caught.value) and not registry.list()


def test_a_crash_while_adding_leaves_no_adapter(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter(tmp_path / "a", 1.0)

    def crash(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(registry_module, "publish_folder", crash)
    with pytest.raises(OSError, match="no space"):
        registry.add(folder)
    assert not registry.list() and [path.name for path in registry.root.iterdir()] == [".lock"]


def test_a_crash_between_history_and_pointer_is_no_move(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [registry.add(adapter(tmp_path / str(i), float(i))) for i in range(3)]
    registry.promote(ids[0])

    def crash(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "write_text", crash)
        with pytest.raises(OSError, match="killed"):
            registry.promote(ids[1])
    assert registry.current == ids[0] and registry.previous() == ""
    # a line that was cut short as well
    with open(registry.root / "history.jsonl", "a") as stream:
        stream.write('{"to": "')
    assert registry.previous() == ""
    registry.promote(ids[2])
    assert registry.rollback() == ids[0]


def test_lines_survive_a_torn_end_but_not_a_torn_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    files.append_line(path, {"a": 1})
    with open(path, "a") as stream:
        stream.write('{"a": 2')
    assert files.read_lines(path) == [{"a": 1}]
    files.append_line(path, {"a": 3})
    assert files.read_lines(path) == [{"a": 1}, {"a": 3}]
    path.write_text('{"a"\n{"a": 1}\n')
    with pytest.raises(TrainerError, match=r"x\.jsonl: line 1"):
        files.read_lines(path)


def test_an_adapter_hashes_the_same_whatever_the_order_of_its_targets(tmp_path: Path) -> None:
    names = [f"layer{i}" for i in range(20)]
    weights = {"base_model.model.layer1.lora_A.weight": torch.zeros(1, 1)}
    one = peft_folder.write_adapter(tmp_path / "a", weights, LoraConfig(r=1, target_modules=names))
    two = peft_folder.write_adapter(tmp_path / "b", weights, LoraConfig(r=1, target_modules=names[::-1]))
    assert adapter_hash(one) == adapter_hash(two)
    assert json.loads((one / "adapter_config.json").read_text())["target_modules"] == sorted(names)


def test_a_pedigree_goes_back_to_what_is_missing_and_never_round(registry: Registry, tmp_path: Path) -> None:
    first = registry.add(adapter(tmp_path / "a", 1.0, parent="f" * 64))
    second = registry.add(adapter(tmp_path / "b", 2.0, parent=first))
    third = registry.add(adapter(tmp_path / "c", 3.0, parent=second))
    assert registry.pedigree(third) == [second, first, "f" * 64]
    manifest = registry.path(first) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "parent": third}))
    assert registry.pedigree(third) == [second, first, third]


def test_a_manifest_with_a_field_of_the_wrong_type_and_a_torn_log_are_found(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(adapter(tmp_path / "a", 1.0))
    manifest = registry.path(one) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "pairs": "many"}))
    (registry.root / "served.jsonl").write_text("{\n{}\n")
    problems = {e.adapter_id: e.problem for e in registry.verify()}
    assert "field pairs" in problems[one] and problems["served.jsonl"] == "line 1 is not JSON"
