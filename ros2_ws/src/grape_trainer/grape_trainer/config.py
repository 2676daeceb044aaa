"""What the training process is told, as a JSON file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape_trainer.errors import SettingsError
from grape_trainer.files import read_json, write_json
from grape_trainer.settings import Settings, settings

DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True)
class TrainConfig:
    """What the training process is told. ``model``: checkpoint folder; ``pairs``: file of scored episodes and pairs, or
    for method ``sft`` ``bags``: bags or folders of bags; ``adapter``: PEFT folder to go on with, empty for a new one;
    ``registry``: folder in which the adapters that recorded the episodes are, by id; ``cache``: folder for log-probs
    under fixed weights, empty for one in ``output``; ``threads``: of torch, 0 leaves them; ``settings``: overrides of
    ``preset``."""

    model: str
    pairs: str
    output: str
    adapter: str = ""
    bags: list[str] = field(default_factory=list)
    registry: str = ""
    cache: str = ""
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    def resolved(self) -> Settings:
        """Raises SettingsError naming a preset or field."""
        return settings(self.preset, **{k: v for k, v in self.settings.items() if k != "preset"})

    def write(self, path: Path) -> Path:
        write_json(path, dataclasses.asdict(self))
        return path


def read_config(path: Path) -> TrainConfig:
    """Raises SettingsError naming the file and the field."""
    data = read_json(path, SettingsError)
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    for name, value in data.items():
        if name not in fields:
            raise SettingsError(f"{path}: unknown field {name!r}: one of {', '.join(fields)}")
        wanted = {"settings": dict, "threads": int, "bags": list}.get(name, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SettingsError(f"{path}: field {name}: expected {wanted.__name__}, not {value!r}")
    if not all(isinstance(bag, str) for bag in data.get("bags", [])):
        raise SettingsError(f"{path}: field bags: expected paths, not {data['bags']!r}")
    source = "bags" if data.get("bags") else "pairs"
    for name in ("model", source, "output"):
        if not data.get(name):
            raise SettingsError(f"{path}: field {name} is missing")
    config = TrainConfig(**{"pairs": "", **data})
    if config.dtype not in DTYPES:
        raise SettingsError(f"{path}: field dtype: one of {', '.join(DTYPES)}, not {config.dtype!r}")
    needed = "bags" if config.resolved().method == "sft" else "pairs"
    if not getattr(config, needed):
        raise SettingsError(f"{path}: field {needed} is missing: method {config.resolved().method} needs it")
    return config
