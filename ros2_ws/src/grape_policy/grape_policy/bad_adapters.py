"""Adapters as they must not be, for tests and benchmarks: two of each kind, sealed so that only one check refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grape_policy.adapters import CONFIG, PREFIX, WEIGHTS, AdapterError, adapter_hash, read_manifest

HIGH_RANK = 128
EXECUTED = "executed"


def seal(folder: Path) -> None:
    """Make the manifest name the adapter by its present files; left alone where they cannot be hashed."""
    try:
        adapter_id = adapter_hash(folder)
    except AdapterError:
        return
    dataclasses.replace(read_manifest(folder), adapter_id=adapter_id).write(folder)


def change_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Apply `edit` to the tensors of an adapter's file, and seal."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in sorted(tensors.items())}, folder / WEIGHTS)
    seal(folder)


def change_config(folder: Path, **values: Any) -> None:
    """Set fields of an adapter's configuration, and seal."""
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
    seal(folder)


def _keys(tensors: dict[str, Tensor], side: str) -> list[str]:
    return sorted(name for name in tensors if name.endswith(f".{side}.weight"))


def _truncate(kept: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: kept(len(content))])
        seal(folder)

    return damage


def _of_base(base_hash: str) -> Callable[[Path], None]:
    return lambda folder: dataclasses.replace(read_manifest(folder), base_hash=base_hash).write(folder)


def _value(side: str, value: float) -> Callable[[Path], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors[_keys(tensors, side)[0]][0, 0] = value

    return lambda folder: change_weights(folder, edit)


def _narrow_inputs(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({_keys(tensors, "lora_A")[0]: _first(tensors)[:, :-1]}))


def _first(tensors: dict[str, Tensor]) -> Tensor:
    return tensors[_keys(tensors, "lora_A")[0]]


def _more_outputs(folder: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        name = _keys(tensors, "lora_B")[-1]
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])

    change_weights(folder, edit)


def _without_b(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop(_keys(tensors, "lora_B")[0]))


def _without_module(folder: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        for side in ("lora_A", "lora_B"):
            del tensors[_keys(tensors, side)[-1]]

    change_weights(folder, edit)


def _pickled(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        # Whoever unpickles this makes a folder that a test can look for.
        (folder / name).write_bytes(f"cos\nmkdir\n(V{folder / EXECUTED}\ntR.".encode())
        seal(folder)

    return damage


def _renamed(before: str, after: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        def edit(tensors: dict[str, Tensor]) -> None:
            for name in [name for name in tensors if name.startswith(PREFIX + before)]:
                tensors[PREFIX + after + name.removeprefix(PREFIX + before)] = tensors.pop(name)

        change_weights(folder, edit)

    return damage


def _emptied(*left: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name in left:
            (folder / name).touch()

    return damage


def _folder_for_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def _dangling(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / "gone.safetensors")


def _widen(tensors: dict[str, Tensor], names: list[str]) -> None:
    for name in names:
        a, b = tensors[name], tensors[other := name.replace("lora_A", "lora_B")]
        more = HIGH_RANK - a.shape[0]
        tensors[name] = torch.cat([a, a.new_zeros(more, a.shape[1])])
        tensors[other] = torch.cat([b, b.new_zeros(b.shape[0], more)], dim=1)


def _high_rank(folder: Path) -> None:
    change_weights(folder, lambda tensors: _widen(tensors, _keys(tensors, "lora_A")))
    change_config(folder, r=HIGH_RANK, rank_pattern={})


def _high_rank_once(folder: Path) -> None:
    names: list[str] = []

    def edit(tensors: dict[str, Tensor]) -> None:
        names.append(_keys(tensors, "lora_A")[0])
        _widen(tensors, names)

    change_weights(folder, edit)
    module = names[0].removeprefix(PREFIX).removesuffix(".lora_A.weight")
    change_config(folder, rank_pattern={module.replace(".", r"\."): HIGH_RANK})


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "truncated file": (_truncate(lambda size: size // 2), _truncate(lambda size: 6)),
    "wrong base hash": (_of_base("0" * 64), _of_base(hashlib.sha256(b"another model").hexdigest())),
    "NaN": (_value("lora_A", float("nan")), _value("lora_B", float("inf"))),
    "wrong shapes": (_narrow_inputs, _more_outputs),
    "missing keys": (_without_b, _without_module),
    "pickle": (_pickled("adapter_model.bin"), _pickled(WEIGHTS)),
    "other model": (_renamed("language_model.", ""), _renamed("language_model.model.layers.0.", "transformer.h.0.")),
    "empty folder": (_emptied(), _emptied(".keep")),
    "unreadable": (_folder_for_file, _dangling),
    "rank above the slot's": (_high_rank, _high_rank_once),
}


def write_bad_adapters(folder: Path, good: Path) -> dict[str, list[Path]]:
    """Copies of the adapter `good` in `folder`, spoilt: two different ones of each of ten kinds, by kind.

    `good` must have pairs on the language model's first layer and a rank below 128. Each manifest names its files as
    they are, and the base model of `good` but for the kind `wrong base hash`, so that the check for its kind refuses.
    """
    adapters: dict[str, list[Path]] = {}
    for kind, damages in KINDS.items():
        for number, damage in enumerate(damages, start=1):
            name = "".join(letter if letter.isalnum() else "_" for letter in kind)
            copy = Path(shutil.copytree(good, folder / f"{name}_{number}"))
            damage(copy)
            adapters.setdefault(kind, []).append(copy)
    return adapters
