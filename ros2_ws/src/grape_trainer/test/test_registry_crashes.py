"""A registry verifies whatever write step its process, or its machine, died at, and going on completes the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from grape_policy.adapters import AdapterManifest, adapter_hash, current_adapter
from grape_trainer import deploy, garbage, peft_folder
from grape_trainer import registry as registry_module
from grape_trainer.crashes import BYTES, LOSSES, NAMES, run_until
from grape_trainer.registry import Registry
from grape_trainer.rig import Ack

PASSED = {"accepted": True, "reason": "for a test"}
MOST_STEPS = 200


def adapter(folder: Path, value: float, parent: str = "") -> Path:
    weights = {
        "base_model.model.projector.fc1.lora_A.weight": torch.full((2, 4), value),
        "base_model.model.projector.fc1.lora_B.weight": torch.full((3, 2), value),
    }
    peft_folder.write_adapter(folder, weights, LoraConfig(r=2, target_modules=["projector.fc1"]))
    manifest = AdapterManifest(adapter_hash(folder), "base", parent, verdict=PASSED)
    peft_folder.write_manifest(folder, manifest)
    return folder


def yes(path: Path | None) -> Ack:
    return Ack(True, "", path.name if path else "")


Operation = Callable[[Registry, Path, list[str]], object]
OPERATIONS: dict[str, Operation] = {
    "add": lambda registry, new, ids: registry.add(new),
    "promote": lambda registry, new, ids: deploy.promote(registry, ids[2], yes),
    "base": lambda registry, new, ids: deploy.promote(registry, "", yes),
    "rollback": lambda registry, new, ids: deploy.rollback(registry, yes),
    "judge": lambda registry, new, ids: registry.judge(ids[0], {**PASSED, "reason": "again"}),
    "collect": lambda registry, new, ids: garbage.collect(registry),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_verifies_after_a_death_at_every_write_step(tmp_path: Path, name: str, loss: str) -> None:
    work = OPERATIONS[name]
    new = adapter(tmp_path / "new", 9.0)
    start = tmp_path / "start"
    held = Registry(start)
    ids = [held.add(adapter(tmp_path / str(i), float(i + 1))) for i in range(3)]
    for adapter_id in ids[:2]:
        deploy.promote(held, adapter_id, yes)
    before = state(held)
    done = Registry(tmp_path / "done")
    shutil.copytree(start, done.root)
    work(done, new, ids)
    after = state(done)
    assert before != after
    seen = set()
    for at in range(1, MOST_STEPS):
        root = tmp_path / "crashed"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root)
        registry = Registry(root)

        def run(registry: Registry = registry) -> None:
            work(registry, new, ids)

        if not run_until(root, run, at, loss):
            break
        assert registry.verify() == [], f"step {at}"
        assert current_adapter(root) is None or current_adapter(root) == registry.current_path
        adapters, serving, previous = state(registry)
        seen.add((adapters, serving, previous) == after)
        assert serving in (before[1], after[1]) and previous in (before[2], after[2]), f"step {at}"
        # served adapters never go, and the next one to come finishes the work
        assert set(ids[:2]) <= set(adapters) and registry.served() >= set(ids[:2])
        if state(registry) != after:
            work(registry, new, ids)
        assert state(registry) == after and registry.verify() == [], f"after step {at}"
    else:
        pytest.fail("it never finished")
    # a rename that is not yet durable is lost with the power
    assert at > 5 and seen >= ({False} if loss == NAMES else {False, True}), "deaths before and after the deciding step"


def state(registry: Registry) -> tuple[tuple[str, ...], str, str | None]:
    """Adapters with the reason of their verdicts, what serves, what a rollback leads to."""
    names = tuple(e.adapter_id for e in registry.list())
    told = tuple(sorted(str(e.manifest["verdict"]["reason"]) for e in registry.list()))
    return (*sorted(names), *told), registry.current, registry.previous()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_deaths_would_find_careless_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """A rename whose bytes no fsync made durable is fatal only where the bytes are lost and the name is not."""
    new = adapter(tmp_path / "new", 9.0)
    monkeypatch.setattr(registry_module, "publish_folder", lambda beside, final: os.rename(beside, final))
    damaged = 0
    for at in range(1, MOST_STEPS):
        registry = Registry(tmp_path / str(at))

        def run(registry: Registry = registry) -> None:
            registry.promote(registry.add(new))

        if not run_until(registry.root, run, at, loss):
            break
        damaged += bool(registry.verify())
    assert at > 5 and bool(damaged) is (loss == BYTES)
