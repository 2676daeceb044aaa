"""Two adapter slots beside a model: LoRA that is chosen per inference and never written into the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from grape_policy.adapters import AdapterError, LoraWeights
from grape_policy.config import VlaSpec
from grape_policy.groups import SLOTS, LinearGroup
from grape_policy.keys import UNUSED_PREFIX, tower_rules
from grape_policy.model import OpenVla

Pairs = dict[str, tuple[Tensor, Tensor]]


class AdapterSlots:
    """The slots of one model, preallocated for pairs up to `max_rank` on every linear layer that acting uses."""

    def __init__(
        self, model: OpenVla, groups: Mapping[tuple[str, ...], LinearGroup], max_rank: int, merged: bool = False
    ) -> None:
        """groups: the layers' names -> their group. merged: hold W + B A for each slot instead of A and B, which takes
        the memory of two more models and saves the time of the pairs."""
        self.spec: VlaSpec = model.spec
        self.max_rank = max_rank
        self._groups = dict(groups)
        for group in self._groups.values():
            group.allocate(max_rank, merged)
        layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        self._shapes = {name: (m.weight[0].numel(), m.weight.shape[0]) for name, m in layers.items()}

    def active(self, slot: int | None) -> tuple[bool, ...]:
        """Which groups an adapter changes."""
        return () if slot is None else tuple(group.active[slot] for group in self._groups.values())

    def names(self) -> list[str]:
        """The model's layers that may have pairs, those included that no action depends on."""
        return list(self._shapes)

    def fit(self, adapter: LoraWeights) -> Pairs:
        """The adapter's pairs by the names of this model's layers.

        Names of timm's towers are translated; a pair on their fused `qkv` becomes three that share A and split B.
        Pairs of SigLIP's pooling head, which no action depends on, are left out.
        Raises AdapterError for a rank above the slot's, modules that are not there and shapes that do not fit.
        """
        if adapter.rank > self.max_rank:
            raise AdapterError(f"{adapter.path}: rank {adapter.rank} is above the slot's {self.max_rank}")
        rules = tower_rules(self.spec)
        pairs: Pairs = {}
        for name, (a, b) in adapter.layers.items():
            if name.startswith(UNUSED_PREFIX):
                continue
            rule = rules.get(f"{name}.weight")
            targets = [name] if rule is None else [target.removesuffix(".weight") for target in rule.targets]
            parts = b.chunk(len(targets)) if b.shape[0] % len(targets) == 0 else [b] * len(targets)
            for target, part in zip(targets, parts, strict=True):
                self._check(adapter, target, a, part)
                pairs[target] = (a, part)
        return pairs

    def _check(self, adapter: LoraWeights, name: str, a: Tensor, b: Tensor) -> None:
        shape = self._shapes.get(name)
        if shape is None:
            raise AdapterError(f"{adapter.path}: the model has no layer {name}")
        if (a.shape[1], b.shape[0]) != shape:
            wanted = f"{shape[0]} -> {shape[1]}"
            raise AdapterError(f"{adapter.path}: {name}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit {wanted}")

    def put(self, slot: int, pairs: Pairs) -> None:
        """Fill a slot; layers that `pairs` does not name become those of the base model. No inference may use it."""
        if slot not in range(SLOTS):
            raise IndexError(f"slot {slot}: there are {SLOTS}")
        for names, group in self._groups.items():
            group.put(slot, [pairs.get(name) for name in names])
        if group.weight.device.type == "cuda":
            # a captured graph runs on a stream of its own, which does not wait for this one
            torch.cuda.current_stream(group.weight.device).synchronize()
