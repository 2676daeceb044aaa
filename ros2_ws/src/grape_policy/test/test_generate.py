import numpy as np
import pytest
import torch

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import Engine
from grape_policy.generate import LENGTH_STEP
from grape_policy.processing import ProcessingError
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Vla:
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def test_what_a_cache_held_before_does_not_matter(vla: Vla) -> None:
    """A long prompt, then a short one in the same buffer, gives what a fresh engine gives."""
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    used, fresh = Engine(vla), Engine(load_checkpoint(vla.folder))
    used.act(image, INSTRUCTIONS[2] + " and then put the spoon on the towel", 0, 0, 0.0)
    a, b = (engine.act(image, "go", 5, 1, 1.0) for engine in (used, fresh))
    assert a.tokens.tolist() == b.tokens.tolist() and np.array_equal(a.logprobs, b.logprobs)


def test_a_prompt_beyond_the_models_positions_is_named(vla: Vla) -> None:
    generator = Engine(load_checkpoint(vla.folder)).generator
    limit = generator.network.positions - vla.spec.patches - 7
    images, numbers = np.zeros((1, 56, 56, 3), np.uint8), np.zeros((1, 7))
    generator(images, [torch.full((limit,), 3)], numbers, [0.0], None)
    with pytest.raises(ProcessingError, match=f"makes {limit + 1} tokens, the model has room for {limit}"):
        generator(images, [torch.full((limit + 1,), 3)], numbers, [0.0], None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs cannot be captured")
def test_graphs_give_what_the_same_operations_give_one_by_one(vla: Vla) -> None:
    on_gpu = load_checkpoint(vla.folder, "cuda")
    engine = Engine(on_gpu)
    rng = np.random.default_rng(1)
    for step, text in enumerate((INSTRUCTIONS[0], "go", INSTRUCTIONS[2], "go")):
        image = rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)
        for temperature in (0.0, 1.0):
            decision = engine.act(image, text, 2, step, temperature)
            assert np.allclose(engine.score(image, text, decision.tokens), decision.logprobs, atol=1e-4)
    assert engine.generator.graph_length(1) == LENGTH_STEP
