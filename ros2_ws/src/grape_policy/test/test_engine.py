import threading

import numpy as np
import pytest
import torch

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.config import ConfigError
from grape_policy.engine import Engine, Request
from grape_policy.golden import generate
from grape_policy.logprobs import token_logprobs
from grape_policy.processing import ProcessingError
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint

TEXT = INSTRUCTIONS[0]
IMAGE = np.random.default_rng(1).integers(0, 256, (56, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Vla:
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def engine(vla: Vla) -> Engine:
    return Engine(vla)


def test_greedy_equals_whole_forward_passes_without_a_cache(vla: Vla, engine: Engine) -> None:
    decision = engine.act(IMAGE, TEXT, seed=0, step=0, temperature=0.0)
    pixels = vla.processor.pixels(IMAGE[None])
    with torch.inference_mode():
        tokens, margins = generate(vla, pixels, vla.processor.prompt(TEXT))
    assert decision.tokens.tolist() == tokens.tolist()
    assert np.allclose(decision.margins, margins, atol=1e-4)
    assert np.array_equal(decision.action, vla.stats.unnormalise(vla.codec.decode(tokens)))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 3.0])
def test_log_probs_are_those_of_training_whatever_the_temperature(vla: Vla, engine: Engine, temperature: float) -> None:
    for text in ("go", INSTRUCTIONS[2]):
        decision = engine.act(IMAGE, text, seed=5, step=3, temperature=temperature)
        tokens = torch.from_numpy(decision.tokens).long()[None]
        prompts = [vla.processor.prompt(text)]
        expected = token_logprobs(vla.model, vla.processor.pixels(IMAGE[None]), prompts, tokens)
        assert np.allclose(decision.logprobs, expected[0].numpy(), atol=1e-4)


def test_the_same_seed_and_step_are_the_same_tokens(vla: Vla, engine: Engine) -> None:
    other = Engine(load_checkpoint(vla.folder))
    draws = [engine.act(IMAGE, TEXT, 11, step, 1.0).tokens.tolist() for step in range(4)]
    engine.act(IMAGE[::-1].copy(), "something else", 99, 0, 1.0)
    assert [other.act(IMAGE, TEXT, 11, step, 1.0).tokens.tolist() for step in range(4)] == draws
    assert len({tuple(d) for d in draws}) == 4
    assert engine.act(IMAGE, TEXT, 12, 0, 1.0).tokens.tolist() != draws[0]


def test_another_thread_gets_the_same_answer(engine: Engine) -> None:
    answers = []
    thread = threading.Thread(target=lambda: answers.append(engine.act(IMAGE, TEXT, 1, 1, 1.0)))
    thread.start()
    thread.join()
    assert answers[0].tokens.tolist() == engine.act(IMAGE, TEXT, 1, 1, 1.0).tokens.tolist()


def test_a_batch_of_different_prompts_gives_what_each_gives_alone(vla: Vla, engine: Engine) -> None:
    rng = np.random.default_rng(5)
    requests = [
        Request(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8), text, 7, step, temperature)
        for step, (text, temperature) in enumerate(
            [(TEXT, 0.0), ("go", 1.0), (INSTRUCTIONS[2], 0.5), ("go and stack it", 0.0)]
        )
    ]
    together = engine.act_batch(requests)
    for request, decision in zip(requests, together, strict=True):
        alone = engine.act(request.image, request.instruction, request.seed, request.step, request.temperature)
        assert decision.tokens.tolist() == alone.tokens.tolist()
        assert np.allclose(decision.logprobs, alone.logprobs, atol=1e-5)
        assert np.allclose(decision.margins, alone.margins, atol=1e-4)
        assert np.array_equal(decision.action, alone.action)
    assert engine.act_batch([]) == []


def test_the_score_of_the_chosen_tokens_is_what_acting_says_of_them(engine: Engine) -> None:
    decision = engine.act(IMAGE, TEXT, 3, 1, 1.0)
    assert np.allclose(engine.score(IMAGE, TEXT, decision.tokens), decision.logprobs, atol=1e-5)


def test_restricted_to_action_tokens_the_log_probs_stay_those_of_the_whole_vocabulary(vla: Vla) -> None:
    """A head that prefers a token outside: only the restricted engine acts with action tokens."""
    free, bound = Engine(load_checkpoint(vla.folder)), Engine(load_checkpoint(vla.folder), action_tokens_only=True)
    for engine in (free, bound):
        with torch.no_grad():
            engine.vla.model.language_model.lm_head.weight[5] = 3.0 * engine.vla.model.embeddings.weight[5]
            engine.vla.model.language_model.lm_head.weight[5] += 50.0
    low, high = vla.spec.vocab_size - vla.spec.action_bins, vla.spec.vocab_size
    outside = 0
    for step in range(6):
        for temperature in (0.0, 1.0):
            a, b = (engine.act(IMAGE, TEXT, 1, step, temperature) for engine in (free, bound))
            outside += int(np.sum((a.tokens < low) | (a.tokens >= high)))
            assert np.all((b.tokens >= low) & (b.tokens < high))
            assert np.allclose(bound.score(IMAGE, TEXT, b.tokens), b.logprobs, atol=1e-4)
    assert outside > 0


def test_bad_input_is_named(vla: Vla, engine: Engine) -> None:
    with pytest.raises(ProcessingError, match=r"image must be \(56, 56, 3\) uint8"):
        engine.act(IMAGE[:50], TEXT, 0, 0, 0.0)
    with pytest.raises(ProcessingError, match="instruction is empty"):
        engine.act(IMAGE, " ", 0, 0, 0.0)
    with pytest.raises(ProcessingError, match="temperature"):
        engine.act(IMAGE, TEXT, 0, 0, -1.0)
    with pytest.raises(ConfigError, match=r"bridge_orig.*random"):
        Engine(load_checkpoint(vla.folder), unnorm_key="bridge_orig")


def test_an_inference_runs_with_the_engines_own_number_of_threads(vla: Vla) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Engine(load_checkpoint(vla.folder), threads=1).act(IMAGE, TEXT, 0, 0, 0.0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
