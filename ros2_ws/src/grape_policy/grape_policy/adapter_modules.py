"""Whether an adapter's tensors belong to the modules of this model: none foreign, none twice, none left out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from grape_policy.adapter_config import AdapterError, expected_modules
from grape_policy.config import VlaSpec
from grape_policy.keys import adaptable_modules

LISTED = 4


def check_modules(found: Collection[str], config: dict[str, Any], spec: VlaSpec, path: Path) -> None:
    """Compare the modules `found` in an adapter's file with those of its configuration and of the model `spec`.

    Names are those of this package's module or those of OpenVLA's own code (timm in the towers), in one adapter both.
    Raises AdapterError that names the file and the modules: not in the model, given twice (a fused `qkv` beside its
    `q_proj`), targeted by the configuration but absent, present but not targeted.
    """
    theirs = adaptable_modules(spec)
    ours = {name for names in theirs.values() for name in names}
    unknown = {name for name in found if name not in ours and name not in theirs}
    if unknown:
        raise AdapterError(f"{path}: the model has no linear layer {listed(unknown)}")
    held: dict[str, str] = {}
    for name in sorted(found):
        for target in theirs.get(name, (name,)):
            if target in held:
                raise AdapterError(f"{path}: duplicate: {held[target]} and {name} are both on {target}")
            held[target] = name
    if not config.get("target_modules"):
        return
    present, where = set(found), path.parent / "adapter_config.json"
    # peft matched the names of the model that it trained, of which only the tensors tell; a good adapter is complete
    # in one of the two.
    worlds = [expected_modules(config, names, where) for names in (ours, theirs)]
    present = set(found)
    absent, surplus = min(
        ((world - present, present - world) for world in worlds), key=lambda faults: len(faults[0] | faults[1])
    )
    if absent:
        raise AdapterError(f"{path}: missing: no tensors for {listed(absent)}, which target_modules of {where} names")
    if surplus:
        raise AdapterError(f"{path}: tensors for {listed(surplus)}, which target_modules of {where} does not name")


def listed(names: Collection[str]) -> str:
    """The first few of `names` and how many more."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(sorted(names)[:LISTED]) + more
