import numpy as np
import pytest
import torch

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.logprobs import gather_logprobs, token_logprobs
from grape_policy.model import run_llama, run_llama_at
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Vla:
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def batch(vla: Vla, count: int = 3) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(0)
    pixels = vla.processor.pixels(rng.integers(0, 256, (count, 56, 56, 3), dtype=np.uint8))
    texts = ["go", *INSTRUCTIONS][:count]
    prompts = [vla.processor.prompt(text) for text in texts]
    assert len({len(prompt) for prompt in prompts}) > 1
    return pixels, prompts, torch.from_numpy(rng.integers(512, 768, (count, 7)))


def test_a_batch_of_different_prompt_lengths_equals_its_rows(vla: Vla) -> None:
    pixels, prompts, tokens = batch(vla)
    together = token_logprobs(vla.model, pixels, prompts, tokens)
    for i in range(len(prompts)):
        alone = token_logprobs(vla.model, pixels[i : i + 1], prompts[i : i + 1], tokens[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_each_log_prob_is_that_of_the_prefix_alone(vla: Vla) -> None:
    """The second way: token by token, whole logits at the last position of a sequence without padding."""
    pixels, prompts, tokens = (x[:1] for x in batch(vla))
    expected = []
    for k in range(7):
        text = torch.cat([prompts[0], tokens[0, :k]])[None]
        embeddings = vla.model.insert_patches(vla.model.patch_embeddings(pixels), text)
        logits = vla.model.language_model.lm_head(run_llama(vla.model.language_model.model, embeddings)[0, -1])
        expected.append(torch.log(logits.double().softmax(-1))[tokens[0, k]])
    got = token_logprobs(vla.model, pixels, prompts, tokens)[0]
    torch.testing.assert_close(got.double(), torch.stack(expected), atol=1e-5, rtol=0)


def test_the_last_layer_at_some_positions_equals_the_whole_one(vla: Vla) -> None:
    llama = vla.model.language_model.model
    embeddings = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([[2, 5, 10], [0, 1, 9]])
    whole = run_llama(llama, embeddings)
    torch.testing.assert_close(run_llama_at(llama, embeddings, at), whole[torch.arange(2)[:, None], at])


def test_gradients_reach_the_model_and_agree_with_finite_differences(vla: Vla) -> None:
    model = load_checkpoint(vla.folder, dtype=torch.float64).model.requires_grad_(True)
    model.reset_rotary("cpu")
    pixels, prompts, tokens = batch(vla, 2)
    pixels = pixels.double()
    loss = token_logprobs(model, pixels, prompts, tokens).sum()
    loss.backward()
    unused = {id(p) for p in model.vision_backbone.unused_parameters()}
    without = [n for n, p in model.named_parameters() if p.grad is None and id(p) not in unused]
    assert without == []
    for weight in (model.projector.fc1.weight, model.vision_backbone.featurizer.encoder.layer[0].mlp.fc1.weight):
        step = 3e-3  # transformers' RMSNorm rounds to fp32: a smaller one drowns in it
        with torch.no_grad():
            weight[0, 0] += step
            above = token_logprobs(model, pixels, prompts, tokens).sum()
            weight[0, 0] -= 2 * step
            below = token_logprobs(model, pixels, prompts, tokens).sum()
            weight[0, 0] += step
        numeric = float(above - below) / (2 * step)
        assert float(weight.grad[0, 0]) == pytest.approx(numeric, rel=0.02, abs=1e-3)


def test_log_probs_of_the_whole_vocabulary_sum_to_one() -> None:
    logits = torch.randn(4, 50)
    every = torch.stack([gather_logprobs(logits, torch.full((4,), i)) for i in range(50)])
    torch.testing.assert_close(every.exp().sum(0), torch.ones(4))
