from typing import Any

import pytest
import torch

from grape_policy.config import ConfigError, VlaSpec, parse_config
from grape_policy.keys import UNUSED_PREFIX, to_openvla
from grape_policy.mini import mini_config
from grape_policy.model import OpenVla
from grape_policy.testing import PUBLISHED, TINY


def test_a_published_config_gets_its_dimensions_from_the_names_of_its_towers() -> None:
    spec = parse_config(PUBLISHED)
    assert (spec.patches, spec.vision_width, spec.hidden_size) == (256, 2176, 4096)
    assert (spec.vocab_size, spec.empty_token_id, spec.image_size) == (32000, 29871, 224)
    assert [tower.mlp_width for tower in spec.towers] == [4096, 4304]
    assert (spec.rotation, spec.gripper) == ("euler_xyz", "open_is_one")


@pytest.fixture(scope="module")
def seven_billion() -> tuple[VlaSpec, OpenVla]:
    spec = parse_config(PUBLISHED)
    with torch.device("meta"):
        return spec, OpenVla(spec)


def test_a_published_config_makes_the_module_whose_file_is_published(seven_billion: tuple[VlaSpec, OpenVla]) -> None:
    """Names and shapes as OPENVLA.md and the architectures' papers state them."""
    spec, model = seven_billion
    file = {name: tuple(tensor.shape) for name, tensor in to_openvla(spec, model.state_dict()).items()}
    dino, siglip, llama = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "language_model."
    expected = {
        f"{dino}cls_token": (1, 1, 1024),
        f"{dino}reg_token": (1, 4, 1024),
        f"{dino}pos_embed": (1, 256, 1024),
        f"{dino}patch_embed.proj.weight": (1024, 3, 14, 14),
        f"{dino}blocks.23.attn.qkv.weight": (3072, 1024),
        f"{dino}blocks.23.attn.qkv.bias": (3072,),
        f"{dino}blocks.0.ls1.scale_factor": (1024,),
        f"{dino}blocks.0.mlp.fc1.weight": (4096, 1024),
        f"{dino}norm.bias": (1024,),
        f"{siglip}pos_embed": (1, 256, 1152),
        f"{siglip}blocks.26.attn.proj.weight": (1152, 1152),
        f"{siglip}blocks.26.mlp.fc1.weight": (4304, 1152),
        f"{siglip}blocks.26.mlp.fc2.weight": (1152, 4304),
        f"{siglip}attn_pool.kv.weight": (2304, 1152),
        "projector.fc1.weight": (8704, 2176),
        "projector.fc2.weight": (4096, 8704),
        "projector.fc3.weight": (4096, 4096),
        f"{llama}model.embed_tokens.weight": (32064, 4096),
        f"{llama}model.layers.31.self_attn.k_proj.weight": (4096, 4096),
        f"{llama}model.layers.31.mlp.down_proj.weight": (4096, 11008),
        f"{llama}model.norm.weight": (4096,),
        f"{llama}lm_head.weight": (32064, 4096),
    }
    assert {name: file.get(name) for name in expected} == expected
    # dinov2: 3 tokens, 2 + 2 of patch embedding and norm, 14 a block; siglip: 1, 2 + 2, 12 a block, a head of 13
    kinds = {dino: 3 + 4 + 24 * 14, siglip: 1 + 4 + 27 * 12 + 13, "projector.": 6, llama: 32 * 9 + 3}
    assert {prefix: sum(name.startswith(prefix) for name in file) for prefix in kinds} == kinds
    assert sum(kinds.values()) == len(file)
    assert not any(
        f"{dino}blocks.24." in name or f"{siglip}blocks.27." in name or "layers.32." in name for name in file
    )


def test_its_parameters_are_as_many_as_its_equations_have(seven_billion: tuple[VlaSpec, OpenVla]) -> None:
    spec, model = seven_billion
    file = {n: t.numel() for n, t in to_openvla(spec, model.state_dict()).items() if not n.startswith(UNUSED_PREFIX)}

    def block(width: int, mlp: int) -> int:
        return 4 * width * width + 4 * width + 2 * width * mlp + mlp + width + 4 * width

    def tower(width: int, depth: int, mlp: int) -> int:
        return width * (3 * 14 * 14 + 1) + 256 * width + depth * block(width, mlp) + 2 * width

    dino = tower(1024, 24, 4096) + 5 * 1024 + 24 * 2 * 1024
    siglip = tower(1152, 27, 4304)
    projector = 2176 * 8704 + 8704 + 8704 * 4096 + 4096 + 4096 * 4096 + 4096
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    head = 32064 * 4096
    assert sum(file.values()) == dino + siglip + projector + layers + 2 * head + 4096
    # OPENVLA.md: a decode reads 13.21 GB, which are the layers and the head in bf16
    assert 2 * (layers + head) == pytest.approx(13.21e9, abs=0.01e9)
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(file.values()) + 2 * 1024


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timm_model_ids": ["x", "y"]}, r"timm_model_ids: unknown towers \['x', 'y'\]; known: "),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_action_bins": 40000}, "n_action_bins 40000"),
        ({"arch_specifier": "linear"}, "arch_specifier 'linear'"),
        ({"timm_override_act_layers": ["quick_gelu", None]}, "timm_override_act_layers"),
        ({"image_sizes": [384, 384]}, r"image_sizes \[384, 384\] are not the towers' \[224, 224\]"),
        ({"action_convention": {"rotation": "quaternion"}}, "action_convention.rotation 'quaternion' .*axis_angle"),
        ({"action_convention": {"gripper": "loose"}}, "action_convention.gripper 'loose' .*minus_one_open"),
        ({"prompt": "Do something."}, "prompt 'Do something.' does not hold {instruction} once"),
        ({"text_config": [1]}, "a field has a value of the wrong type"),
        ({"n_action_bins": "many"}, "a field has a value of the wrong type: .*'many'"),
        ({"vision_towers": 3}, "a field has a value of the wrong type"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_field(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^config.json: {reason}"):
        parse_config({**PUBLISHED, **change})


def test_a_small_model_says_its_own_dimensions() -> None:
    spec = parse_config(mini_config(TINY, "random", {}))
    assert (spec.image_size, spec.patches, spec.vision_width, spec.empty_token_id) == (56, 16, 64, None)
