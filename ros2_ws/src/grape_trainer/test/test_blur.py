"""Actions seen with their neighbours: the mean log-prob about them, sharp at no width, and where it draws a policy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grape_policy.adapters import read_adapter
from grape_policy.checkpoint import load_checkpoint
from grape_policy.logprobs import blurred_targets, gather_logprobs
from grape_policy.testing import write_random_adapter, write_random_checkpoint
from grape_trainer import tpo
from grape_trainer.blur import Blur
from grape_trainer.learner import Learner
from grape_trainer.log_probs import Adapters, LogProbs
from grape_trainer.settings import settings
from grape_trainer.testing import episode_for
from grape_trainer.trajectories import ByteCache, Trajectory

BINS, FIRST, VOCABULARY = 16, 10, 30
NOWHERE = torch.zeros(7, dtype=torch.bool)
MASK = np.array([True] * 6 + [False])


def blur(width: float) -> Blur:
    spec = SimpleNamespace(vocab_size=FIRST + BINS, action_bins=BINS)
    stats = SimpleNamespace(of=lambda: SimpleNamespace(mask=MASK))
    return Blur(SimpleNamespace(spec=spec, stats=stats), width)  # type: ignore[arg-type]


def drawn(seed: int, steps: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(steps, 7, VOCABULARY, generator=g, dtype=torch.float64)
    return logits, torch.randint(FIRST, FIRST + BINS, (steps, 7), generator=g)


@given(st.integers(0, 1000), st.floats(0.2, 40.0))
def test_it_is_the_mean_it_is_said_to_be(seed: int, width: float) -> None:
    logits, tokens = drawn(seed)
    found = blur(width).log_probs(logits, tokens, NOWHERE).numpy()
    log_policy = np.log(torch.softmax(logits, -1).numpy())
    for step in range(len(tokens)):
        for d in range(7):
            a = int(tokens[step, d]) - FIRST
            near = [np.exp(-0.5 * ((k - a) / width) ** 2) for k in range(BINS)]
            wanted = sum(w / sum(near) * log_policy[step, d, FIRST + k] for k, w in enumerate(near))
            if not MASK[d]:
                wanted = log_policy[step, d, int(tokens[step, d])]
            assert found[step, d] == pytest.approx(wanted, rel=1e-9)


@given(st.integers(0, 1000))
def test_of_hardly_any_width_it_is_the_tokens_log_prob(seed: int) -> None:
    logits, tokens = drawn(seed)
    torch.testing.assert_close(blur(0.02).log_probs(logits, tokens, NOWHERE), gather_logprobs(logits, tokens))


@given(st.integers(0, 200), st.floats(0.5, 10.0))
def test_its_gradient_draws_to_the_blurred_target(seed: int, width: float) -> None:
    """By the logits it is the target's distribution minus the policy's, as of any cross-entropy."""
    logits, tokens = drawn(seed, 1)
    logits.requires_grad_()
    (found,) = torch.autograd.grad(blur(width).log_probs(logits, tokens, NOWHERE)[0, 0], logits)
    wanted = -torch.softmax(logits.detach()[0, 0], -1)
    wanted[FIRST : FIRST + BINS] += blurred_targets(BINS, width, torch.float64)[int(tokens[0, 0]) - FIRST]
    torch.testing.assert_close(found[0, 0], wanted)


def test_fitted_to_draws_with_a_spike_the_mode_moves_to_the_hump() -> None:
    """Half of the mass over eleven bins, a spike of a tenth far from them: sharply the spike is the mode, seen through
    the blur the middle of the hump."""
    logits = torch.zeros(1, 7, VOCABULARY, dtype=torch.float64, requires_grad=True)
    shares = torch.zeros(BINS, dtype=torch.float64)
    shares[5:] = 0.9 / 11
    shares[0] = 0.1
    every = torch.arange(FIRST, FIRST + BINS)[:, None].expand(BINS, 7)
    modes = {}
    for width in (0.02, 2.0):
        optimizer = torch.optim.Adam([logits], lr=0.2)
        for _ in range(200):
            seen = blur(width).log_probs(logits.expand(BINS, 7, VOCABULARY), every, NOWHERE)[:, 0]
            optimizer.zero_grad()
            (-(shares * seen).sum()).backward()
            optimizer.step()
        modes[width] = int(logits.detach()[0, 0].argmax()) - FIRST
    assert modes[0.02] == 0 and 7 <= modes[2.0] <= 13


def test_a_token_that_is_no_action_is_seen_sharply() -> None:
    logits, tokens = drawn(0)
    tokens[0, 0], tokens[1, 1] = 2, FIRST + BINS
    found, sharp = blur(3.0).log_probs(logits, tokens, NOWHERE), gather_logprobs(logits, tokens)
    assert found[0, 0] == sharp[0, 0] and found[1, 1] == sharp[1, 1]
    assert torch.isfinite(found).all() and found[0, 1] != sharp[0, 1]


def test_where_the_reference_is_sure_it_is_seen_sharply() -> None:
    logits, tokens = drawn(0)
    reference = torch.zeros_like(logits)
    reference[1, 2, FIRST] = 10.0
    reference[2, 3, FIRST] = 3.5  # 0.53 of the mass
    sure = blur(3.0).sure(reference)
    assert sure.nonzero().tolist() == [[1, 2]]
    found, sharp = blur(3.0).log_probs(logits, tokens, sure), gather_logprobs(logits, tokens)
    assert found[1, 2] == sharp[1, 2] and found[2, 3] != sharp[2, 3]
    assert torch.equal(found[0], blur(3.0).log_probs(logits, tokens, NOWHERE)[0])


def test_no_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be above 0, not 0"):
        blur(0)


def test_the_learner_sees_through_it_and_reference_log_probs_are_kept_apart(tmp_path: Path) -> None:
    vla = load_checkpoint(write_random_checkpoint(tmp_path / "model"))
    episode = episode_for(vla, 1, 5)
    prompts = tuple(vla.processor.prompt(s.instruction) for s in episode.steps)
    images = torch.from_numpy(episode.images)
    one = Trajectory("a", "a", torch.from_numpy(episode.tokens).long(), prompts, lambda: images)
    learner = Learner(vla, settings(lora_rank=4, action_blur=3.0, chunk=2), ByteCache(0))
    adapters = Adapters(vla.base_hash, None)
    exact = LogProbs(learner, adapters, tmp_path / "cache")
    seen = LogProbs(learner, adapters, tmp_path / "cache", 3.0)
    with torch.no_grad():
        logits = learner.logits(one, 0, 5)
        wanted = Blur(vla, 3.0).log_probs(logits, one.tokens, Blur(vla, 3.0).sure(logits))
    torch.testing.assert_close(exact.of(one, ""), gather_logprobs(logits, one.tokens).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.of(one, ""), wanted.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(learner.reference_sure(one), Blur(vla, 3.0).sure(logits))
    again = LogProbs(learner, adapters, tmp_path / "cache", 3.0)
    assert torch.equal(again.of(one, ""), seen.of(one, "")) and again.computed == 0
    assert not torch.equal(seen.of(one, ""), exact.of(one, ""))


def test_with_another_adapter_as_reference_its_own_certainty_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log-probs are those of the policy that starts from it: a preference begins at log 2."""
    vla = load_checkpoint(write_random_checkpoint(tmp_path / "model"))
    made = write_random_adapter(tmp_path / "adapter", vla, 4, 0, scale=3.0)
    episode = episode_for(vla, 1, 5)
    prompts = tuple(vla.processor.prompt(s.instruction) for s in episode.steps)
    images = torch.from_numpy(episode.images)
    one = Trajectory("a", "a", torch.from_numpy(episode.tokens).long(), prompts, lambda: images)
    held = read_adapter(made, vla.base_hash)
    learner = Learner(vla, settings(action_blur=3.0), ByteCache(0), made, held)
    with torch.no_grad(), learner.reference():
        logits = learner.logits(one, 0, 5)
    # random weights are sure of nothing: half of what is there shall count
    monkeypatch.setattr("grape_trainer.blur.SURE", float(torch.softmax(logits, -1).amax(-1).median()))
    wanted = Blur(vla, 3.0).sure(logits)
    assert wanted.any() and not wanted.all()
    known = {held.manifest.adapter_id: made}
    reference = LogProbs(learner, Adapters(vla.base_hash, None, known), tmp_path / "cache", 3.0)
    found = reference.of(one, held.manifest.adapter_id)
    torch.testing.assert_close(learner.reference_sure(one), wanted)
    own = tpo.token_log_probs(learner.seen_log_probs, one, 16)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
