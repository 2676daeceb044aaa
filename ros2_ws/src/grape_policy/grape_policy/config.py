"""What a checkpoint says about itself: the dimensions and conventions in its `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROTATIONS = ("euler_xyz", "axis_angle")
# Name of a gripper convention: its values for closed and for open. `minus_one_open` is that of LIBERO's environments.
GRIPPERS = {"open_is_one": (0.0, 1.0), "closed_is_one": (1.0, 0.0), "minus_one_open": (1.0, -1.0)}
ACTION_SIZE = 7
LLAMA2_EMPTY_TOKEN = 29871
PROMPT = "In: What action should the robot take to {instruction}?\nOut:"


class ConfigError(Exception):
    """A configuration file that cannot be served; the text names the file and the field."""


@dataclass(frozen=True)
class TowerSpec:
    """One vision transformer. `image_size` and `patch` in pixels; `registers` counts register tokens."""

    kind: str
    width: int
    depth: int
    heads: int
    patch: int
    image_size: int
    mlp_width: int
    registers: int = 0
    layer_norm_eps: float = 1e-6

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch) ** 2


# Dimensions of the towers that OpenVLA's published checkpoints name by their timm identifiers.
KNOWN_TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": TowerSpec("dinov2_reg", 1024, 24, 16, 14, 224, 4096, registers=4),
    "vit_so400m_patch14_siglip_224": TowerSpec("siglip", 1152, 27, 16, 14, 224, 4304),
}

# Llama 2 7B, for the fields that a checkpoint's `text_config` leaves out.
LLAMA2_7B = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 32000,
}


@dataclass(frozen=True)
class VlaSpec:
    """Dimensions and conventions of one vision-language-action model.

    `vocab_size` counts the tokens below the padding token: the action tokens are its last `action_bins` ids.
    `padded_vocab_size` is the number of logits. `empty_token_id` closes every prompt (None: nothing is appended).
    `prompt` holds `{instruction}` once. `config` is the whole of `config.json`.
    """

    towers: tuple[TowerSpec, TowerSpec]
    text: dict[str, Any]
    vocab_size: int
    padded_vocab_size: int
    pad_token_id: int
    action_bins: int
    empty_token_id: int | None
    rotation: str = "euler_xyz"
    gripper: str = "open_is_one"
    prompt: str = PROMPT
    norm_stats: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return self.towers[0].image_size

    @property
    def patches(self) -> int:
        """Number of patch embeddings in the language model's input."""
        return self.towers[0].patches

    @property
    def vision_width(self) -> int:
        """Channels of the concatenated patch features."""
        return sum(tower.width for tower in self.towers)

    @property
    def hidden_size(self) -> int:
        return int(self.text["hidden_size"])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ConfigError when it is absent or no object."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not readable as JSON: no regular file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return value


def _tower(entry: dict[str, Any], where: str) -> TowerSpec:
    try:
        width = int(entry["width"])
        tower = TowerSpec(
            kind=str(entry["kind"]),
            width=width,
            depth=int(entry["depth"]),
            heads=int(entry["heads"]),
            patch=int(entry["patch"]),
            image_size=int(entry["image_size"]),
            mlp_width=int(entry.get("mlp_width", round(width * entry.get("mlp_ratio", 4)))),
            registers=int(entry.get("registers", 0)),
            layer_norm_eps=float(entry.get("layer_norm_eps", 1e-6)),
        )
    except KeyError as error:
        raise ConfigError(f"{where}: missing field {error}") from None
    if tower.kind not in ("dinov2_reg", "siglip"):
        raise ConfigError(f"{where}: unknown kind {tower.kind!r}")
    if tower.depth < 2:
        raise ConfigError(f"{where}: depth {tower.depth} has no second-to-last block")
    return tower


def _towers(config: dict[str, Any], where: str) -> tuple[TowerSpec, TowerSpec]:
    if "vision_towers" in config:
        towers = [_tower(entry, f"{where}: vision_towers[{i}]") for i, entry in enumerate(config["vision_towers"])]
    else:
        names = config.get("timm_model_ids", list(KNOWN_TOWERS))
        unknown = [name for name in names if name not in KNOWN_TOWERS]
        if unknown:
            raise ConfigError(f"{where}: timm_model_ids: unknown towers {unknown}; known: {list(KNOWN_TOWERS)}")
        towers = [KNOWN_TOWERS[name] for name in names]
    if [tower.kind for tower in towers] != ["dinov2_reg", "siglip"]:
        raise ConfigError(f"{where}: expected a DINOv2 tower and a SigLIP tower, got {[t.kind for t in towers]}")
    if towers[0].patches != towers[1].patches or towers[0].image_size != towers[1].image_size:
        raise ConfigError(f"{where}: the two towers differ in image size or number of patches")
    return towers[0], towers[1]


def parse_config(config: dict[str, Any], where: str = "config.json") -> VlaSpec:
    """VlaSpec of a parsed `config.json`.

    Four keys are extensions that a published checkpoint does not have: `vision_towers` (else the dimensions follow
    from `timm_model_ids`), `action_convention` (`rotation`, one of ROTATIONS; `gripper`, one of GRIPPERS),
    `empty_token_id` and `prompt`. Raises ConfigError that names the field.
    """
    try:
        return _parse(config, where)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: a field has a value of the wrong type: {error}") from None


def _parse(config: dict[str, Any], where: str) -> VlaSpec:
    if config.get("model_type", "openvla") != "openvla":
        raise ConfigError(f"{where}: model_type is {config['model_type']!r}, expected 'openvla'")
    if not config.get("arch_specifier", "fused-gelu-mlp").endswith("fused-gelu-mlp"):
        raise ConfigError(f"{where}: arch_specifier {config['arch_specifier']!r} is not supported (fused-gelu-mlp is)")
    if any(config.get("timm_override_act_layers") or ()):
        raise ConfigError(f"{where}: timm_override_act_layers {config['timm_override_act_layers']} is not supported")
    text = {**LLAMA2_7B, **config.get("text_config", {})}
    text.pop("torch_dtype", None)
    text.setdefault("num_key_value_heads", text["num_attention_heads"])
    padded = int(text["vocab_size"])
    vocab = padded - int(config.get("pad_to_multiple_of", 64))
    pad = int(config.get("pad_token_id", text["pad_token_id"]))
    bins = int(config.get("n_action_bins", 256))
    if not 0 < bins <= vocab <= pad < padded:
        raise ConfigError(f"{where}: n_action_bins {bins}, vocabulary {vocab}, pad_token_id {pad} do not fit together")
    towers = _towers(config, where)
    sizes = [towers[0].image_size] * 2
    if config.get("image_sizes", sizes) != sizes:
        raise ConfigError(f"{where}: image_sizes {config['image_sizes']} are not the towers' {sizes}")
    convention = config.get("action_convention", {})
    rotation, gripper = convention.get("rotation", "euler_xyz"), convention.get("gripper", "open_is_one")
    if rotation not in ROTATIONS:
        raise ConfigError(f"{where}: action_convention.rotation {rotation!r} is none of {ROTATIONS}")
    if gripper not in GRIPPERS:
        raise ConfigError(f"{where}: action_convention.gripper {gripper!r} is none of {tuple(GRIPPERS)}")
    prompt = config.get("prompt", PROMPT)
    if prompt.count("{instruction}") != 1:
        raise ConfigError(f"{where}: prompt {prompt!r} does not hold {{instruction}} once")
    empty = config.get("empty_token_id", LLAMA2_EMPTY_TOKEN if vocab == 32000 else None)
    return VlaSpec(
        towers=towers,
        text=text,
        vocab_size=vocab,
        padded_vocab_size=padded,
        pad_token_id=pad,
        action_bins=bins,
        empty_token_id=None if empty is None else int(empty),
        rotation=rotation,
        gripper=gripper,
        prompt=prompt,
        norm_stats=dict(config.get("norm_stats", {})),
        config=config,
    )
