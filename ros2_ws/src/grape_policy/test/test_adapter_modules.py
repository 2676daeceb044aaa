import re
from pathlib import Path

import pytest
import torch
from torch import nn

from grape_policy.adapter_config import AdapterError
from grape_policy.adapter_modules import check_modules
from grape_policy.config import VlaSpec, parse_config
from grape_policy.keys import adaptable_modules, to_openvla
from grape_policy.mini import mini_config
from grape_policy.model import OpenVla
from grape_policy.testing import TINY

PATH = Path("one/adapter_model.safetensors")
QKV = "vision_backbone.featurizer.blocks.1.attn.qkv"


@pytest.fixture(scope="module")
def spec() -> VlaSpec:
    return parse_config(mini_config(TINY, "random", {}))


def language(spec: VlaSpec) -> list[str]:
    return [name for name in adaptable_modules(spec) if ".layers." in name]


def test_the_names_on_both_sides_are_those_of_the_model_and_of_its_file(spec: VlaSpec) -> None:
    with torch.device("meta"):
        model = OpenVla(spec)
    modules = adaptable_modules(spec)
    ours = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert {name for names in modules.values() for name in names} == ours
    file = to_openvla(spec, model.state_dict())
    rows = {name: file[f"{name}.weight"].shape[0] for name in modules}
    weights = dict(model.named_parameters())
    for name, names in modules.items():
        assert rows[name] == sum(weights[f"{target}.weight"].shape[0] for target in names)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r"language_model.*\.[qv]_proj", None])
def test_complete_adapters_pass_whichever_way_they_name_their_targets(spec: VlaSpec, targets: object) -> None:
    found = [name for name in language(spec) if name.endswith(("q_proj", "v_proj"))]
    if isinstance(targets, list):  # these endings are those of this package's towers too
        ours = {name for names in adaptable_modules(spec).values() for name in names}
        check_modules({name for name in ours if name.endswith(tuple(targets))}, {"target_modules": targets}, spec, PATH)
    check_modules(found, {"target_modules": targets}, spec, PATH)  # timm has no q_proj: complete there


def test_adapters_of_openvlas_own_code_pass(spec: VlaSpec) -> None:
    """As peft 0.11 wrote `all-linear` for it: last parts of names, which match the convolution `patch_embed.proj`."""
    theirs = adaptable_modules(spec)
    targets = sorted({name.rsplit(".", 1)[-1] for name in theirs} | {"q", "kv"})
    assert "proj" in targets and "lm_head" in targets
    check_modules(theirs, {"target_modules": targets}, spec, PATH)
    linear = [name for name in theirs if not name.endswith(("patch_embed.proj", "lm_head"))]
    with pytest.raises(AdapterError, match=r"missing: no tensors for language_model\.lm_head, vision_.*patch_embed"):
        check_modules(linear, {"target_modules": targets}, spec, PATH)


def test_missing_modules_are_named(spec: VlaSpec) -> None:
    found = [name for name in language(spec) if "layers.1.mlp" not in name]
    text = (
        "one/adapter_model.safetensors: missing: no tensors for language_model.model.layers.1.mlp.down_proj, "
        "language_model.model.layers.1.mlp.gate_proj, language_model.model.layers.1.mlp.up_proj, which target_modules "
        "of one/adapter_config.json names"
    )
    with pytest.raises(AdapterError, match=f"^{re.escape(text)}$"):
        check_modules(found, {"target_modules": r"language_model\.model.*_proj"}, spec, PATH)


def test_modules_that_the_configuration_does_not_target_are_named(spec: VlaSpec) -> None:
    with pytest.raises(AdapterError, match=r"tensors for projector\.fc2, which target_modules .* does not name"):
        check_modules(["projector.fc1", "projector.fc2"], {"target_modules": ["projector.fc1"]}, spec, PATH)


def test_foreign_modules_are_named_and_counted(spec: VlaSpec) -> None:
    found = [f"model.layers.{i}.self_attn.q_proj" for i in range(9)]
    with pytest.raises(AdapterError, match=r"no linear layer model\.layers\.0\.self_attn\.q_proj, .* and 5 more$"):
        check_modules(found, {}, spec, PATH)


def test_a_module_under_both_of_its_names_is_a_duplicate(spec: VlaSpec) -> None:
    ours = adaptable_modules(spec)[QKV][1]
    with pytest.raises(AdapterError, match=rf"duplicate: {QKV} and {ours} are both on {ours}|{ours} and {QKV}"):
        check_modules([QKV, ours], {}, spec, PATH)
    check_modules([QKV], {}, spec, PATH)
