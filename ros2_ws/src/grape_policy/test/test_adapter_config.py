import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists

from grape_policy.adapter_config import AdapterError, expected_modules, parse_settings

PATH = Path("adapter_config.json")
LEAVES = ("self_attn.q_proj", "self_attn.k_proj", "mlp.fc1", "mlp.down_proj")
NAMES = [f"tower.blocks.{i}.{leaf}" for i in range(2) for leaf in ("attn.qkv", "attn.proj", "mlp.fc1")]
NAMES += [f"language_model.model.layers.{i}.{leaf}" for i in range(3) for leaf in LEAVES]
NAMES += ["projector.fc1", "language_model.lm_head"]

endings = st.sampled_from(["q_proj", "fc1", "proj", "self_attn.k_proj", "layers.1.mlp.fc1", "lm_head", "none", *NAMES])
expressions = st.sampled_from(
    [r".*q_proj", r".*\.(layers|blocks)\.1\..*", r"language_model.*(?:fc1|q_proj)", r"(?!tower).*", "fc1", r".*lm_head"]
)
lists = st.lists(endings, min_size=1, max_size=4)


def config(**values: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "lora_alpha": 16, **values}


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(lists, expressions),
    st.one_of(st.none(), lists, expressions),
    st.one_of(st.none(), st.integers(0, 2), st.lists(st.integers(0, 3), max_size=2)),
    st.sampled_from([None, [], "layers", ["blocks"], ["blocks", "layers"]]),
)
def test_the_modules_are_those_that_peft_wraps(targets: Any, exclude: Any, layers: Any, pattern: Any) -> None:
    values: dict[str, Any] = {"target_modules": targets, "exclude_modules": exclude}
    if not isinstance(targets, str) and layers is not None:
        values |= {"layers_to_transform": layers, "layers_pattern": pattern if layers != [] else None}
    theirs = peft.LoraConfig(**values)
    wrapped = {name for name in NAMES if bool(check_target_module_exists(theirs, name))}
    assert expected_modules(json.loads(json.dumps(values)), NAMES) == wrapped


def test_all_linear_is_all_but_the_output_layer_and_no_targets_are_none() -> None:
    assert expected_modules({"target_modules": "all-linear"}, NAMES) == set(NAMES) - {"language_model.lm_head"}
    assert expected_modules({}, NAMES) == expected_modules({"target_modules": None}, NAMES) == set()


class Blocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"q_proj": torch.nn.Linear(64, 64), "fc1": torch.nn.Linear(64, 64)}) for _ in range(2)
        )


patterns = st.sampled_from(["q_proj", "fc1", r"layers\.0\.q_proj", r"layers.1.fc1", ".*", "0.fc1", "roj", "layers"])


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")
@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(patterns, st.integers(1, 9), max_size=3),
    st.dictionaries(patterns, st.integers(1, 64) | st.floats(0.5, 64.0), max_size=3),
    st.booleans(),
)
def test_ranks_and_scales_are_those_that_peft_gives(
    ranks: dict[str, int], alphas: dict[str, float], rslora: bool
) -> None:
    values = {"r": 4, "lora_alpha": 12, "use_rslora": rslora, "rank_pattern": ranks, "alpha_pattern": alphas}
    model = peft.get_peft_model(Blocks(), peft.LoraConfig(target_modules=["q_proj", "fc1"], **values))
    read = parse_settings(json.loads(json.dumps(config(**values))), PATH)
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            assert read.rank_of(name) == layer.r["default"]
            assert read.scale_of(name, layer.r["default"]) == pytest.approx(layer.scaling["default"], rel=1e-12)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only LORA is served"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"a_field_of_next_year": [1]}, "a_field_of_next_year is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4' changes the base model"),
        ({"lora_alpha": "16"}, "lora_alpha '16' is no number"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan is no number"),
        ({"r": 0}, "r 0 is no positive integer"),
        ({"rank_pattern": {"q_proj": 2.5}}, r"rank_pattern: 'q_proj' has the value 2\.5"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern: 'q_proj' has the value None"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern: '\(' is no regular expression"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern must be an object"),
    ],
)
def test_a_configuration_that_is_not_served_is_refused_by_its_field(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(AdapterError, match=rf"^adapter_config\.json: {reason}"):
        parse_settings(config(**values), PATH)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"target_modules": "("}, r"target_modules: '\(' is no regular expression"),
        ({"target_modules": ["fc1"], "exclude_modules": "*"}, r"exclude_modules: '\*' is no regular expression"),
        ({"target_modules": ["fc1"], "layers_pattern": ["("]}, "layers_pattern: .* is no regular expression"),
        ({"target_modules": {"q_proj": 1}}, "target_modules must be a list"),
        ({"target_modules": ["q_proj"], "exclude_modules": 3}, "exclude_modules must be a list"),
        ({"target_modules": ["q_proj"], "layers_to_transform": ["1"]}, "layers_to_transform .* are no layer numbers"),
    ],
)
def test_targets_of_the_wrong_type_are_refused_by_their_field(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(AdapterError, match=rf"^adapter_config\.json: {reason}"):
        expected_modules(values, NAMES)


def test_every_field_that_peft_writes_today_is_known() -> None:
    """A plain adapter of the installed peft has to be read."""
    held = {name: getattr(value, "value", value) for name, value in peft.LoraConfig().to_dict().items()}
    parse_settings(held, PATH)
