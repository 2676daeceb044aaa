"""Centred log-ratios: no mean under the reference's own actions, whatever the policy; drift does not win by length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grape_policy.checkpoint import load_checkpoint
from grape_policy.logprobs import gather_logprobs
from grape_policy.testing import write_random_checkpoint
from grape_trainer import tpo
from grape_trainer.errors import SettingsError
from grape_trainer.learner import Learner
from grape_trainer.settings import settings
from grape_trainer.testing import episode_for
from grape_trainer.trajectories import ByteCache, Trajectory

CENTRED = settings(lora_rank=4, supervised_weight=0.0, centred=True, chunk=2)


def logits(seed: int, shape: tuple[int, ...] = (3, 7, 20)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 500), st.floats(0.0, 5.0))
def test_the_mean_over_the_references_own_tokens_is_zero(seed: int, far: float) -> None:
    reference = logits(seed)
    policy = reference + far * logits(seed + 1)
    p, q = torch.softmax(reference, -1), torch.softmax(policy, -1)
    mean = (p * (q.log() - p.log())).sum(-1) + tpo.token_kl(reference, policy)
    assert float(mean.abs().max()) < 1e-12
    both = tpo.step_kl(policy, reference)[1]
    torch.testing.assert_close(tpo.token_kl(reference, policy).sum(-1), both)


def test_a_drift_anywhere_wins_against_a_longer_side_unless_it_is_centred() -> None:
    """Actions of the reference, a policy that drifted at random, chosen sides of 20 steps and rejected ones of 60."""
    loss, z, centred = tpo.Loss(0.1), [], []
    for seed in range(60):
        sides = {}
        for name, steps in (("chosen", 20), ("rejected", 60)):
            reference = logits(2 * seed, (steps, 7, 20))
            policy = reference + 0.3 * logits(2 * seed + 1, (steps, 7, 20))
            drawn = torch.rand(steps, 7, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            tokens = torch.searchsorted(torch.softmax(reference, -1).cumsum(-1), drawn).squeeze(-1).clamp(max=19)
            then, now = (gather_logprobs(x, tokens) for x in (reference, policy))
            sides[name] = (then, now, now + tpo.token_kl(reference, policy))
        for found, which in ((z, 1), (centred, 2)):
            current, reference = ({name: side[i] for name, side in sides.items()} for i in (which, 0))
            found += [f.margin for f in tpo.compare([("chosen", "rejected")], current, reference, loss)[0]]
    plain, fair = torch.tensor(z), torch.tensor(centred)
    error = float(fair.std()) / 60**0.5
    assert float(plain.mean()) > 8 * error and abs(float(fair.mean())) < 4 * error


def test_padding_of_the_vocabulary_counts_nothing() -> None:
    one, two = logits(0), logits(1)
    padded = [torch.cat([x, torch.full((3, 7, 4), float("-inf"))], -1).requires_grad_() for x in (one, two)]
    found = tpo.token_kl(*padded)
    torch.testing.assert_close(found, tpo.token_kl(one, two))
    (grad,) = torch.autograd.grad(found.sum(), padded[1])
    assert bool(torch.isfinite(grad).all())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learner, Trajectory]:
    vla = load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("model")))
    episode = episode_for(vla, 1, 5)
    prompts = tuple(vla.processor.prompt(s.instruction) for s in episode.steps)
    images = torch.from_numpy(episode.images)
    one = Trajectory("a", "a", torch.from_numpy(episode.tokens).long(), prompts, lambda: images)
    return Learner(vla, CENTRED, ByteCache(0)), one


def test_the_learner_adds_the_divergence_and_nothing_at_the_start(made: tuple[Learner, Trajectory]) -> None:
    learner, one = made
    with torch.no_grad():
        start = learner.seen_log_probs(one, 0, 5)
        assert torch.equal(start, learner.log_probs(one, 0, 5))
        g = torch.Generator().manual_seed(5)
        for p in learner.parameters:
            p.add_(0.05 * torch.randn(p.shape, generator=g))
        with learner.reference():
            reference = learner.logits(one, 0, 5)
        policy = learner.logits(one, 0, 5)
    wanted = gather_logprobs(policy, one.tokens) + tpo.token_kl(reference, policy)
    found = learner.seen_log_probs(one, 0, 5)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert bool((found > learner.log_probs(one, 0, 5)).all())
    # in chunks as at once, through the divergence as well
    whole = torch.autograd.grad(found.sum(), learner.parameters)
    parts = tpo.gradient(learner.seen_log_probs, [one], {"a": 1.0}, learner.parameters, 2)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [{"supervised_weight": 1.0}, {"action_blur": 2.0}, {"method": "filtered_bc"}])
def test_what_it_does_not_go_with_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="centred: must be false with"):
        settings(**{"supervised_weight": 0.0, "centred": True, **other})  # type: ignore[arg-type]
