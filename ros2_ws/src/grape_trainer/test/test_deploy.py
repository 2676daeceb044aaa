"""The pointer follows the policy, never the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from grape_policy.adapters import AdapterManifest, adapter_hash
from grape_trainer import deploy, peft_folder
from grape_trainer.errors import PolicyRefusedError, RegistryError
from grape_trainer.files import read_lines
from grape_trainer.registry import Registry
from grape_trainer.rig import Ack


def adapter(folder: Path, value: float, accepted: bool | None = True) -> Path:
    weights = {
        "base_model.model.projector.fc1.lora_A.weight": torch.full((2, 4), value),
        "base_model.model.projector.fc1.lora_B.weight": torch.full((3, 2), value),
    }
    peft_folder.write_adapter(folder, weights, LoraConfig(r=2, target_modules=["projector.fc1"]))
    verdict = {} if accepted is None else {"accepted": accepted, "reason": "7 of 24 instead of 17"}
    peft_folder.write_manifest(folder, AdapterManifest(adapter_hash(folder), "base", verdict=verdict))
    return folder


class Policy:
    """Notes what it is asked and what ``current`` was then."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.asked, self.refuse, self.serves = registry, [], "", ""  # type: ignore[var-annotated]

    def load(self, path: Path | None) -> Ack:
        self.asked.append((path.name if path else "", self.registry.current))
        if self.refuse:
            return Ack(False, self.refuse, self.serves)
        self.serves = path.name if path else ""
        return Ack(True, "", self.serves)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


def test_it_moves_after_the_acknowledgement_and_back_in_one_operation(registry: Registry, tmp_path: Path) -> None:
    one, two = (registry.add(adapter(tmp_path / str(i), i + 1.0)) for i in range(2))
    policy = Policy(registry)
    assert deploy.promote(registry, one[:12], policy.load) == one
    assert deploy.promote(registry, two, policy.load) == two
    assert policy.asked == [(one, ""), (two, one)] and registry.current == two
    assert deploy.rollback(registry, policy.load, "it dropped the cup") == one == registry.current == policy.serves
    assert registry.history()[-1]["note"] == "it dropped the cup"
    assert deploy.rollback(registry, policy.load) == "" == registry.current == policy.serves
    with pytest.raises(RegistryError, match="nothing served before"):
        deploy.rollback(registry, policy.load)
    events = [(line["adapter_id"], line["event"]) for line in read_lines(registry.root / "served.jsonl")]
    assert events == [(name, event) for name in (one, two, one) for event in (deploy.ASKED, deploy.ACKNOWLEDGED)]


def test_a_refusal_moves_nothing(registry: Registry, tmp_path: Path) -> None:
    one, two = (registry.add(adapter(tmp_path / str(i), i + 1.0)) for i in range(2))
    policy = Policy(registry)
    deploy.promote(registry, one, policy.load)
    policy.refuse = "rank 64 is above 32"
    with pytest.raises(PolicyRefusedError, match="rank 64"):
        deploy.promote(registry, two, policy.load)
    with pytest.raises(PolicyRefusedError, match="the base model: rank 64"):
        deploy.rollback(registry, policy.load)
    assert registry.current == one == policy.serves and len(registry.history()) == 1
    assert registry.served() == {one, two}, "it was asked for: it may have served"
    with pytest.raises(PolicyRefusedError, match="instead of"):
        deploy.promote(registry, two, lambda path: Ack(True, "", one))


@pytest.mark.parametrize(("accepted", "why"), [(False, "7 of 24"), (None, "no gate has judged it")])
def test_the_gate_can_only_be_passed_with_a_note_that_is_kept(
    registry: Registry, tmp_path: Path, accepted: bool | None, why: str
) -> None:
    one = registry.add(adapter(tmp_path / "a", 1.0, accepted))
    policy = Policy(registry)
    with pytest.raises(RegistryError, match=why):
        deploy.promote(registry, one, policy.load)
    with pytest.raises(RegistryError, match="note"):
        deploy.promote(registry, one, policy.load, force=True)
    assert not policy.asked
    deploy.promote(registry, one, policy.load, True, "tried on the bench")
    (move,) = registry.history()
    assert move["forced"] and move["note"] == "tried on the bench" and registry.current == one


def test_a_verdict_is_written_into_the_manifest_and_the_old_one_is_kept(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(adapter(tmp_path / "a", 1.0, None))
    registry.judge(one[:8], {"accepted": False, "reason": "first"})
    registry.judge(one, {"accepted": True, "reason": "second"})
    assert registry.list()[0].manifest["verdict"]["reason"] == "second" and registry.verify() == []
    told = [line["verdict"]["reason"] for line in read_lines(registry.root / "verdicts.jsonl")]
    assert told == ["first", "second"]
    registry.promote(one)


def test_what_serves_again_after_a_crash_is_what_the_registry_says(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(adapter(tmp_path / "a", 1.0))
    policy = Policy(registry)
    policy.load(registry.path(one))  # acknowledged, and then the process died
    deploy.restore(registry, policy.load)
    assert policy.serves == "" == registry.current
