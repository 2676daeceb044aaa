"""What `adapter_config.json` says, as peft 0.21 reads it: which modules carry LoRA, their rank and scale."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

ALL_LINEAR = "all-linear"

# Fields that are evaluated here, or that change nothing at inference. Any other field must be empty: what it means
# for the arithmetic is not known.
HARMLESS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "task_type",
    )
)
EVALUATED = frozenset(
    (
        "alpha_pattern",
        "bias",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    )
)
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterError(Exception):
    """An adapter that is refused; the text names the file or field and the reason."""


@dataclass(frozen=True)
class LoraSettings:
    """Rank and scale of an adapter's modules. `rank` None: the tensors say it. Patterns: peft's, by module name."""

    alpha: float
    rank: int | None = None
    rslora: bool = False
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    rank_pattern: dict[str, int] = field(default_factory=dict)

    def rank_of(self, module: str) -> int | None:
        """The rank that the configuration gives `module`."""
        return self.rank_pattern.get(_pattern_key(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """What multiplies B A x: alpha / r, with rsLoRA alpha / sqrt(r)."""
        alpha = self.alpha_pattern.get(_pattern_key(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def parse_settings(config: dict[str, Any], path: Path) -> LoraSettings:
    """The settings of an `adapter_config.json`.

    Raises AdapterError that names the field: another kind of adapter, a variant of LoRA with another arithmetic
    (`use_dora`, `modules_to_save`, ...), an initialisation that changed the base model, a value of the wrong type.
    """
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {config.get('peft_type')!r}, only LORA is served")
    for name in sorted(config.keys() - HARMLESS - EVALUATED):
        if config[name]:
            raise AdapterError(f"{path}: {name} is not supported")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias {config['bias']!r} is not supported")
    if str(config.get("init_lora_weights", "")).lower().startswith(BASE_CHANGING):
        raise AdapterError(f"{path}: init_lora_weights {config['init_lora_weights']!r} changes the base model")
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not _number(alpha):
        raise AdapterError(f"{path}: lora_alpha {alpha!r} is no number")
    if rank is not None and not _rank(rank):
        raise AdapterError(f"{path}: r {rank!r} is no positive integer")
    alphas = _patterns(config, "alpha_pattern", path)
    ranks = _patterns(config, "rank_pattern", path)
    for name, values, valid in (("alpha_pattern", alphas, _number), ("rank_pattern", ranks, _rank)):
        for pattern, value in values.items():
            if not valid(value):
                raise AdapterError(f"{path}: {name}: {pattern!r} has the value {value!r}")
    return LoraSettings(float(alpha), rank, bool(config.get("use_rslora", False)), alphas, ranks)


def expected_modules(
    config: dict[str, Any], names: Iterable[str], path: Path = Path("adapter_config.json")
) -> set[str]:
    """Those of the modules `names` that an adapter of this configuration wraps, by peft's rules.

    `target_modules` is a list of names or of their endings, one regular expression, or `all-linear` (then all but
    `lm_head`); `exclude_modules` takes some of them back and `layers_to_transform` with `layers_pattern` leaves the
    named layers. A configuration without targets names none. Expressions are matched as they are: one that takes for
    ever takes for ever. Raises AdapterError for a field of the wrong type and for what is no expression.
    """
    targets, exclude = _names(config, "target_modules", path), _names(config, "exclude_modules", path)
    indices, patterns = _layers(config, path), _names(config, "layers_pattern", path)
    expressions = [_layer_expression(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    for expression in expressions:
        _check_expression(expression, f"{path}: layers_pattern: {expression!r}")
    chosen = {name for name in names if not _matches(exclude, name) and _targeted(targets, name)}
    if indices and not isinstance(targets, str):
        # a name given in full is taken whatever its layer
        chosen = {name for name in chosen if name in targets or _layer_of(name, expressions) in indices}
    return chosen


def _layers(config: dict[str, Any], path: Path) -> set[int]:
    value = config.get("layers_to_transform")
    numbers = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise AdapterError(f"{path}: layers_to_transform {value!r} are no layer numbers")
    return set(numbers)


def _targeted(targets: str | Collection[str], name: str) -> bool:
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return not name.endswith("lm_head")
    return _matches(targets, name)


def _matches(targets: str | Collection[str], name: str) -> bool:
    if isinstance(targets, str):
        return bool(targets) and re.fullmatch(targets, name) is not None
    return name in targets or any(name.endswith(f".{target}") for target in targets)


def _layer_expression(pattern: str) -> str:
    return rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."


def _layer_of(name: str, expressions: list[str]) -> int | None:
    """The number that one of `expressions` finds in a name, without them the first one."""
    for expression in expressions or [r".*?\.[^.]*\.(?P<idx>\d+)\."]:
        match = re.match(expression, name)
        if match is not None:
            return int(match["idx"])
    return None


def _pattern_key(patterns: Collection[str], module: str) -> str:
    """The first pattern that matches a module's name, or its ending from a dot on."""
    return next((pattern for pattern in patterns if re.match(_wrapped(pattern), module)), module)


def _wrapped(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _patterns(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: {name} must be an object of patterns and values")
    for pattern in value:
        _check_expression(_wrapped(pattern), f"{path}: {name}: {pattern!r}")
    return value


def _check_expression(expression: str, where: str) -> None:
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterError(f"{where} is no regular expression: {error}") from None


def _names(config: dict[str, Any], name: str, path: Path) -> str | list[str]:
    value = config.get(name) or []
    if isinstance(value, str):
        _check_expression(value, f"{path}: {name}: {value!r}")
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise AdapterError(f"{path}: {name} must be a list of names or an expression")


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
