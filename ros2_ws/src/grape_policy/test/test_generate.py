from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import Engine, Request
from grape_policy.generate import LENGTH_STEP, Generated, GraphPool
from grape_policy.processing import ProcessingError
from grape_policy.testing import INSTRUCTIONS, write_random_adapter, write_random_checkpoint


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


class Rerun:
    """Stands for CUDA graphs: a replay runs the function again and writes into the tensors of the first result."""

    def record(self, function: Callable[[], Generated]) -> tuple[Callable[[], None], Generated]:
        result = function()

        def replay() -> None:
            again = function()
            for name in ("tokens", "logprobs", "margins"):
                getattr(result, name).copy_(getattr(again, name))

        return replay, result

    def copy(self, sources: Iterable[torch.Tensor], targets: Iterable[torch.Tensor]) -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)


def act_by_recordings(engine: Engine, exact: Engine) -> None:
    """What recordings give, for prompts, temperatures and batches in turn, is what the operations give one by one."""
    rng = np.random.default_rng(1)
    for step, text in enumerate((INSTRUCTIONS[0], "go", INSTRUCTIONS[2], "go", "stack it")):
        images = rng.integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)
        for temperature in (0.0, 1.0):
            decision = engine.act(images[0], text, 2, step, temperature)
            assert np.allclose(exact.score(images[0], text, decision.tokens), decision.logprobs, atol=1e-4)
            assert decision.tokens.tolist() == exact.act(images[0], text, 2, step, temperature).tokens.tolist()
        requests = [
            Request(image, words, 2, step, 1.0) for image, words in zip(images, (text, "go", "on"), strict=True)
        ]
        for request, decision in zip(requests, engine.act_batch(requests), strict=True):
            scored = exact.score(request.image, request.instruction, decision.tokens)
            assert np.allclose(scored, decision.logprobs, atol=1e-4)


def test_recordings_give_what_the_same_operations_give_one_by_one(vla: Vla, tmp_path: Path) -> None:
    engines = [Engine(load_checkpoint(vla.folder)) for _ in range(2)]
    recorded, exact = engines
    recorded.generator.graphs = GraphPool(recorded.generator, Rerun())
    act_by_recordings(recorded, exact)
    folders = [write_random_adapter(tmp_path / str(rank), vla, rank=rank, seed=rank) for rank in (2, 8, 4)]
    counts = []
    for folder in folders:
        for engine in engines:
            engine.load_adapter(folder)
            engine.flip()
        act_by_recordings(recorded, exact)
        counts.append(len(recorded.generator.graphs))
    # the third adapter found the first one's slot, and its recordings serve it
    assert counts[0] < counts[1] == counts[2]


def test_one_prompt_is_not_padded_and_several_are_to_a_multiple(vla: Vla) -> None:
    generator = Engine(load_checkpoint(vla.folder)).generator
    assert generator.graph_length(3) == 0
    generator.graphs = GraphPool(generator, Rerun())
    assert generator.graph_length(3) == 3
    assert generator.graph_length(3, batch=2) == LENGTH_STEP
    assert generator.graph_length(LENGTH_STEP + 1, batch=2) == 2 * LENGTH_STEP


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs cannot be captured")
def test_cuda_graphs_give_what_the_same_operations_give_one_by_one(vla: Vla) -> None:
    engine = Engine(load_checkpoint(vla.folder, "cuda"))
    assert engine.generator.graphs is not None
    act_by_recordings(engine, engine)
