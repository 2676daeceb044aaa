"""The learner on a real (tiny, random) checkpoint: exact gradients, an identity at the start, and what the policy
node then serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from grape_policy.adapters import AdapterManifest, adapter_hash
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import Engine
from grape_policy.testing import write_random_checkpoint
from grape_trainer import peft_folder, tpo
from grape_trainer.errors import TrainingError
from grape_trainer.learner import Learner
from grape_trainer.settings import Settings, settings
from grape_trainer.testing import episode_for
from grape_trainer.trajectories import ByteCache, Trajectory

LENGTHS = {"a": 5, "b": 9, "c": 3}
PAIRS = [("a", "b"), ("c", "b")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"))


def trajectories(vla: Vla) -> dict[str, Trajectory]:
    made = {}
    for seed, (name, steps) in enumerate(LENGTHS.items()):
        episode = episode_for(vla, seed, steps, task="spoon_on_towel" if seed else "carrot_on_plate")
        prompts = tuple(vla.processor.prompt(s.instruction) for s in episode.steps)
        images = torch.from_numpy(episode.images)
        made[name] = Trajectory(name, name, torch.from_numpy(episode.tokens).long(), prompts, lambda x=images: x)
    return made


def rms_norm(module: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    return module.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)


def learner(checkpoint: Path, chosen: Settings, dtype: torch.dtype = torch.float32, cache_mb: int = 64) -> Learner:
    made = Learner(load_checkpoint(checkpoint, dtype=dtype), chosen, ByteCache(cache_mb * 2**20))
    assert {p.dtype for p in made.parameters} == {dtype}
    return made


def shake(made: Learner, seed: int = 5) -> None:
    """A random adapter that is not the identity."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters:
            p.add_(0.05 * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype))


@pytest.mark.parametrize("supervised", [0.0, 10.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_chunked_gradient_of_the_model_is_the_one_graph_gradient(
    checkpoint: Path, dtype: torch.dtype, bound: float, supervised: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers' own rounds to fp32 whatever the type: inputs that differ by 1e-16 come out 1e-7 apart
    monkeypatch.setattr(LlamaRMSNorm, "forward", rms_norm)
    made = learner(checkpoint, settings(lora_rank=4, lora_alpha=4), dtype)
    shake(made)
    held = trajectories(made.vla)
    loss = tpo.Loss(beta=0.1, supervised=supervised)
    with made.reference():
        reference = {k: tpo.token_log_probs(made.log_probs, t, 4) for k, t in held.items()}
    total = torch.zeros((), dtype=torch.float64)
    for w, ell in PAIRS:
        log_w = made.log_probs(held[w], 0, LENGTHS[w]).double()
        log_l = made.log_probs(held[ell], 0, LENGTHS[ell]).double()
        z = loss.beta * ((log_w - reference[w]).sum() - (log_l - reference[ell]).sum())
        total = total - torch.nn.functional.logsigmoid(z) - supervised * log_w.mean()
    wanted = torch.autograd.grad(total / len(PAIRS), made.parameters)
    assert tpo.norm(wanted) > 1e-3
    for chunk in (1, 3, 8, max(LENGTHS.values())):
        current = {k: tpo.token_log_probs(made.log_probs, t, chunk) for k, t in held.items()}
        figures, coefficients = tpo.compare(PAIRS, current, reference, loss)
        assert tpo.batch_loss(figures, loss) == pytest.approx(float(total.detach()) / len(PAIRS), rel=10 * bound)
        got = tpo.gradient(made.log_probs, held.values(), coefficients, made.parameters, chunk)
        difference = tpo.norm(g - w.double() for g, w in zip(got, wanted, strict=True))
        assert difference <= bound * tpo.norm(wanted), f"chunk {chunk}"


def test_a_new_adapter_is_the_reference_and_a_shaken_one_is_not(checkpoint: Path) -> None:
    made = learner(checkpoint, settings(lora_rank=4))
    held = trajectories(made.vla)
    with made.reference():
        reference = {k: tpo.token_log_probs(made.log_probs, t, 4) for k, t in held.items()}
    same = {k: tpo.token_log_probs(made.log_probs, t, 4) for k, t in held.items()}
    assert all(torch.equal(same[k], reference[k]) for k in held)
    figures, _ = tpo.compare(PAIRS, same, reference, tpo.Loss(beta=0.1))
    assert [f.preference_loss for f in figures] == pytest.approx([np.log(2)] * 2, abs=0)
    shake(made)
    assert not torch.allclose(tpo.token_log_probs(made.log_probs, held["a"], 4), reference["a"], atol=1e-3)
    with made.reference():
        assert torch.equal(tpo.token_log_probs(made.log_probs, held["a"], 4), reference["a"])


def test_towers_are_frozen_by_default_and_trained_when_asked(checkpoint: Path) -> None:
    frozen = learner(checkpoint, settings(lora_rank=4))
    assert frozen.towers_frozen and not any("vision_backbone" in name for name in frozen.names)
    assert not any("lm_head" in name for name in frozen.names)
    trained = learner(checkpoint, settings(lora_rank=4, train_towers=True))
    assert not trained.towers_frozen and len(trained.names) > len(frozen.names)
    held = trajectories(trained.vla)["a"]
    shake(trained)
    grads = tpo.gradient(trained.log_probs, [held], {"a": 1.0}, trained.parameters, 4)
    tower = [g for g, name in zip(grads, trained.names, strict=True) if "vision_backbone" in name]
    assert tpo.norm(tower) > 0


def test_the_head_is_trained_when_asked_and_comes_back_from_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    made = learner(checkpoint, settings(lora_rank=4, train_head=True))
    assert any("lm_head" in name for name in made.names) and made.towers_frozen
    held = trajectories(made.vla)["a"]
    with made.reference():
        before = tpo.token_log_probs(made.log_probs, held, 4)
    shake(made)
    after = tpo.token_log_probs(made.log_probs, held, 4)
    peft_folder.write_adapter(tmp_path / "adapter", made.state(), made.config)
    again = Learner(load_checkpoint(checkpoint), settings(lora_rank=4), ByteCache(0), tmp_path / "adapter")
    torch.testing.assert_close(tpo.token_log_probs(again.log_probs, held, 4), after, rtol=0, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)
    grads = tpo.gradient(made.log_probs, [held], {"a": 1.0}, made.parameters, 4)
    assert tpo.norm([g for g, name in zip(grads, made.names, strict=True) if "lm_head" in name]) > 0


def test_the_cache_of_features_changes_nothing_but_the_work(checkpoint: Path) -> None:
    cached, bare = (learner(checkpoint, settings(lora_rank=4), cache_mb=mb) for mb in (64, 0))
    for made in (cached, bare):
        shake(made)
    one, two = (trajectories(made.vla)["b"] for made in (cached, bare))
    a, b = (tpo.token_log_probs(made.log_probs, t, 4) for made, t in ((cached, one), (bare, two)))
    assert torch.allclose(a, b, atol=1e-5)
    assert ("features", "b") in cached.cache and ("features", "b") not in bare.cache


def test_the_policy_node_serves_what_was_trained(checkpoint: Path, tmp_path: Path) -> None:
    made = learner(checkpoint, settings(lora_rank=4))
    shake(made)
    folder = peft_folder.write_adapter(tmp_path / "adapter", made.state(), made.config)
    peft_folder.write_manifest(folder, AdapterManifest(adapter_hash(folder), made.base_hash))
    engine = Engine(load_checkpoint(checkpoint))
    engine.load_adapter(folder)
    engine.flip()
    image = episode_for(made.vla, 1, 4).images[0]
    decision = engine.act(image, "put the carrot on the plate", seed=3, step=0, temperature=1.0)
    prompt = made.vla.processor.prompt("put the carrot on the plate")
    tokens = torch.from_numpy(decision.tokens).long()[None]
    one = Trajectory("x", "x", tokens, (prompt,), lambda: torch.from_numpy(image[None]))
    assert tpo.token_log_probs(made.log_probs, one, 1)[0].numpy() == pytest.approx(decision.logprobs, abs=1e-4)


def test_training_goes_on_with_the_same_lora(checkpoint: Path, tmp_path: Path) -> None:
    made = learner(checkpoint, settings(lora_rank=4, lora_alpha=8))
    shake(made)
    folder = peft_folder.write_adapter(tmp_path / "adapter", made.state(), made.config)
    again = Learner(load_checkpoint(checkpoint), settings(), ByteCache(2**20), folder)
    assert (again.config.r, again.config.lora_alpha) == (4, 8)
    assert again.names == made.names
    held = trajectories(made.vla)["a"]
    a, b = (tpo.token_log_probs(m.log_probs, held, 4) for m in (made, again))
    assert torch.equal(a, b)
    state = made.state()
    state.pop(next(iter(state)))
    with pytest.raises(TrainingError, match="do not fit"):
        again.load_state(state)


def test_the_byte_cache_keeps_what_was_used_last() -> None:
    cache = ByteCache(100)
    made: list[str] = []

    def make(name: str, size: int) -> torch.Tensor:
        made.append(name)
        return torch.zeros(size, dtype=torch.uint8)

    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, lambda name=name: make(name, 40))
    assert made == ["a", "b", "c", "b"] and cache.bytes == 80
    cache.get("huge", lambda: make("huge", 101))
    assert "huge" not in cache and cache.bytes == 80
