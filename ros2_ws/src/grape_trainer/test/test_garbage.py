"""Only what never served and nothing refers to may go; and even of that the manifest stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from grape_policy.adapters import AdapterManifest, adapter_hash
from grape_trainer import garbage, peft_folder
from grape_trainer.errors import TrainerError
from grape_trainer.files import read_lines
from grape_trainer.registry import Registry


def adapter(folder: Path, value: float, parent: str = "") -> Path:
    weights = {
        "base_model.model.projector.fc1.lora_A.weight": torch.full((2, 4), value),
        "base_model.model.projector.fc1.lora_B.weight": torch.full((3, 2), value),
    }
    peft_folder.write_adapter(folder, weights, LoraConfig(r=2, target_modules=["projector.fc1"]))
    verdict = {"accepted": True, "reason": ""}
    peft_folder.write_manifest(folder, AdapterManifest(adapter_hash(folder), "base", parent, verdict=verdict))
    return folder


def test_it_keeps_what_served_its_parents_what_is_referred_to_and_what_is_damaged(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    root = registry.add(adapter(tmp_path / "0", 1.0))
    parent = registry.add(adapter(tmp_path / "1", 2.0, root))
    served = registry.add(adapter(tmp_path / "2", 3.0, parent))
    current, referred, damaged, free, asked = (registry.add(adapter(tmp_path / str(i), i + 1.0)) for i in range(3, 8))
    registry.promote(served)
    registry.promote(current)
    registry.serves(asked, "asked")
    (registry.path(damaged) / "manifest.json").unlink()
    leftover = registry.root / ".new-abc"
    leftover.mkdir()
    reasons = {kept.adapter_id: kept.reason for kept in garbage.plan(registry, {referred})}
    assert reasons[damaged].startswith("damaged: manifest.json") or "manifest.json" in reasons[damaged]
    assert {name: reason for name, reason in reasons.items() if name != damaged} == {
        root: "a parent of one that stays",
        parent: "a parent of one that stays",
        served: "has served",
        current: "serves",
        referred: "a run refers to it",
        free: "",
        asked: "has served",
    }
    assert (registry.root / free).is_dir() and leftover.is_dir(), "a plan removes nothing"
    (gone,) = garbage.collect(registry, {referred})
    assert gone.adapter_id == free and gone.size > 0
    assert not (registry.root / free).exists() and not leftover.exists()
    (line,) = read_lines(registry.root / "removed.jsonl")
    assert line["adapter_id"] == free == line["manifest"]["adapter_id"]
    assert len(registry.list()) == 7 and garbage.collect(registry, {referred}) == []


def test_runs_refer_to_what_recorded_their_episodes_and_what_they_go_on_from(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    one, two = runs / "align/iteration_1", runs / "other"
    one.mkdir(parents=True)
    two.mkdir()
    (one / "rollouts.jsonl").write_text('{"adapter_id": "a"}\n{"adapter_id": ""}\n')
    (one / "pairs.json").write_text(json.dumps({"episodes": {"e": {"adapter_id": "b"}}}))
    (runs / "align/align.json").write_text(json.dumps({"ended": True, "sampled_with": "c", "adapter_before": "d"}))
    (two / "align.json").write_text(json.dumps({"ended": False, "sampled_with": "e", "adapter_before": "f"}))
    assert garbage.references(runs) == {"a", "b", "e", "f"}
    assert garbage.references(tmp_path / "nothing") == set()
    (two / "align.json").write_text("{")
    with pytest.raises(TrainerError, match=r"align\.json"):
        garbage.references(runs)
