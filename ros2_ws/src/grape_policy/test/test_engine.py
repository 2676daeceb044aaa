import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.config import ConfigError
from grape_policy.engine import Engine, sample, uniforms
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


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_random_numbers_are_keyed_by_seed_and_step(seed: int, step: int) -> None:
    numbers = uniforms(seed, step)
    assert np.array_equal(numbers, uniforms(seed, step))
    assert not np.array_equal(numbers, uniforms(seed, step + 1))
    assert numbers.shape == (7,) and (numbers >= 0).all() and (numbers < 1).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_distribution(temperature: float) -> None:
    logits = np.array([0.0, 1.0, -2.0, 2.5])
    grid = (np.arange(4000) + 0.5) / 4000
    shares = np.bincount([sample(logits, temperature, u) for u in grid], minlength=4) / 4000
    weights = np.exp(logits / temperature)
    assert np.allclose(shares, weights / weights.sum(), atol=1e-3)
    assert sample(logits, 0.0, 0.0) == 3
    assert sample(logits, temperature, np.nextafter(1.0, 0.0)) == 3


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
