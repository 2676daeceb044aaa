"""How far two adapters are apart, held to the plain way that multiplies the factors out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from grape_policy.adapters import AdapterManifest, adapter_hash
from grape_trainer import peft_folder
from grape_trainer.difference import ABSENT, compare, distance
from grape_trainer.errors import RegistryError

Layers = dict[str, tuple[torch.Tensor, torch.Tensor]]


def layers(seed: int, names: tuple[str, ...], rank: int) -> Layers:
    random = torch.Generator().manual_seed(seed)
    return {n: (torch.randn(rank, 5, generator=random), torch.randn(7, rank, generator=random)) for n in names}


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
def test_it_is_the_norm_of_the_products(seed: int, one: int, two: int) -> None:
    first, second = layers(seed, ("a", "b"), one), layers(seed + 1, ("b", "c"), two)
    found = distance(first, second)
    zero = torch.zeros(7, 5, dtype=torch.float64)

    def dense(part: Layers) -> dict[str, torch.Tensor]:
        return {n: part[n][1].double() @ part[n][0].double() if n in part else zero for n in "abc"}

    left, right = dense(first), dense(second)
    for name in "abc":
        assert found.layers[name] == pytest.approx(float((left[name] - right[name]).norm()), rel=1e-9)
    flat = [torch.cat([part[n].flatten() for n in "abc"]) for part in (left, right)]
    assert found.first == pytest.approx(float(flat[0].norm())) and found.second == pytest.approx(float(flat[1].norm()))
    assert found.apart == pytest.approx(float((flat[0] - flat[1]).norm()))
    cosine = float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm()))
    assert found.cosine == pytest.approx(cosine, abs=1e-9)


def test_other_factors_of_the_same_update_are_no_distance() -> None:
    first = layers(3, ("a",), 2)
    a, b = first["a"]
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    found = distance(first, {"a": (turn @ a, b @ turn.T)})
    assert found.apart < 1e-5 * found.first and found.cosine == pytest.approx(1.0)


def adapter(folder: Path, value: float, base: str = "base", **told: object) -> Path:
    weights = {
        "base_model.model.projector.fc1.lora_A.weight": torch.full((2, 4), value),
        "base_model.model.projector.fc1.lora_B.weight": torch.ones(3, 2),
    }
    peft_folder.write_adapter(folder, weights, LoraConfig(r=2, lora_alpha=2, target_modules=["projector.fc1"]))
    peft_folder.write_manifest(folder, AdapterManifest(adapter_hash(folder), base, **told))  # type: ignore[arg-type]
    return folder


def test_two_folders_are_compared_by_all_that_they_are(tmp_path: Path) -> None:
    one = adapter(
        tmp_path / "1", 1.0, settings={"beta": 0.1, "m": 2}, metrics={"check": {"kl": 0.1}}, episodes=("a", "b")
    )
    two = adapter(tmp_path / "2", 3.0, settings={"beta": 4.5, "m": 2, "new": 1}, metrics={}, episodes=("b", "c"))
    found = compare(one, two)
    assert found.settings == {"beta": (0.1, 4.5), "new": (ABSENT, 1)}
    assert found.metrics == {"check.kl": (0.1, ABSENT)}
    assert (found.common, found.only_first, found.only_second) == (("b",), ("a",), ("c",))
    # B A is 3 x 4 of 2, then of 6
    assert found.distance is not None and found.distance.apart == pytest.approx(4.0 * 12**0.5)
    assert compare(one, adapter(tmp_path / "3", 1.0, "another")).distance is None


def test_a_folder_that_is_not_whole_is_named(tmp_path: Path) -> None:
    one = adapter(tmp_path / "1", 1.0)
    (one / "manifest.json").unlink()
    with pytest.raises(RegistryError, match=r"manifest\.json"):
        compare(one, adapter(tmp_path / "2", 2.0))
