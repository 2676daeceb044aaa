"""The network for acting against the model that training differentiates: two arrangements of one computation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from grape_policy.config import ConfigError, TowerSpec, parse_config
from grape_policy.generate import Inputs, act_on
from grape_policy.logprobs import gather_logprobs
from grape_policy.mini import MiniSize, initialise, mini_config
from grape_policy.model import OpenVla
from grape_policy.network import Network
from grape_policy.testing import TINY

MEAN, STD = torch.full((1, 6, 1, 1), 0.4), torch.full((1, 6, 1, 1), 0.3)


def build(size: MiniSize = TINY, **text: object) -> OpenVla:
    config = mini_config(size, "random", {})
    config["text_config"].update(text)
    model = OpenVla(parse_config(config))
    initialise(model, 3)
    with torch.no_grad():  # what starts as zeros or ones would hide a mistake
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embed" in name or "token" in name:
                parameter.mul_(5.0)
    return model.double().eval().requires_grad_(False)


def odd_towers(model: OpenVla) -> OpenVla:
    """Towers of unequal width, depth and MLP, as OpenVLA's are."""
    spec = model.spec
    dino = TowerSpec("dinov2_reg", 48, 3, 4, 14, 56, 192, registers=3)
    siglip = TowerSpec("siglip", 36, 4, 3, 14, 56, 100)
    other = OpenVla(replace(spec, towers=(dino, siglip)))
    initialise(other, 4)
    return other.double().eval().requires_grad_(False)


CASES = {
    "tiny": lambda: build(),
    "grouped queries and biases": lambda: build(num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    "head size of its own": lambda: build(head_dim=24),
    "unequal towers": lambda: odd_towers(build()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("padding", [0, 5])
def test_log_probs_equal_those_of_the_models_forward_pass(case: str, padding: int) -> None:
    model = CASES[case]()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (3, 56, 56, 3), dtype=np.uint8))
    prompts = [torch.from_numpy(rng.integers(2, 500, n)) for n in (6, 9, 4)]
    tokens = torch.from_numpy(rng.integers(512, 768, (3, 7)))
    pixels = (images.permute(0, 3, 1, 2).float().div(255.0).repeat(1, 2, 1, 1) - MEAN) / STD
    with torch.no_grad():
        logits = model.action_logits(pixels.double(), prompts, tokens)
        # gather_logprobs keeps fp64, the network's last step is fp32
        expected = gather_logprobs(logits, tokens).float()
        network = Network(model, MEAN, STD)
        text = torch.full((3, 9 + padding), model.spec.pad_token_id)
        for row, prompt in enumerate(prompts):
            text[row, : len(prompt)] = prompt
        inputs = Inputs(images, text, torch.tensor([6, 9, 4]), torch.zeros(3, 7), torch.zeros(3))
        columns = text.shape[1] + model.spec.patches + 6
        layer = network.layers[0]
        cache = torch.full((len(network.layers), 3, 2 * layer.kv_heads, columns, layer.size), torch.nan).double()
        cache[..., : text.shape[1] + model.spec.patches, :] = 1e3  # stale values of an earlier action
        result = act_on(network, inputs, cache, None, False, True, forced=tokens)
        assert torch.equal(result.tokens, tokens)
        torch.testing.assert_close(result.logprobs, expected, atol=2e-6, rtol=0)
        best = logits.float().topk(2, dim=-1).values
        torch.testing.assert_close(result.margins, best[..., 0] - best[..., 1], atol=2e-6, rtol=0)
        again = gather_logprobs(model.action_logits(pixels.double(), prompts, tokens), tokens)
        torch.testing.assert_close(again.float(), expected, atol=1e-6, rtol=0)  # the model computes what it did


def test_another_activation_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="hidden_act 'gelu'"):
        Network(build(hidden_act="gelu"), MEAN, STD)
