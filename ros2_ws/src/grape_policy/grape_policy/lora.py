"""Two adapter slots inside a model: unmerged LoRA that is chosen per inference, not written into the weights."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from grape_policy.adapters import AdapterError, LoraWeights
from grape_policy.config import VlaSpec
from grape_policy.keys import tower_rules
from grape_policy.model import OpenVla

SLOTS = 2
Pairs = dict[str, tuple[Tensor, Tensor]]


class _Choice(threading.local):
    """The slot that this thread's forward passes use; None: the base model alone."""

    slot: int | None = None


class SlotLinear(nn.Linear):
    """A linear layer with room for one LoRA pair per slot. Shares weights and name with the layer it replaces."""

    def __init__(self, base: nn.Linear, choice: _Choice) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight = base.weight
        self.bias = base.bias
        self._choice = choice
        self.pairs: list[tuple[Tensor, Tensor] | None] = [None] * SLOTS

    def forward(self, x: Tensor) -> Tensor:
        result = functional.linear(x, self.weight, self.bias)
        slot = self._choice.slot
        if slot is None:
            return result
        pair = self.pairs[slot]
        return result if pair is None else result + functional.linear(functional.linear(x, pair[0]), pair[1])


class AdapterSlots:
    """The slots of one model: every linear layer but `lm_head` is replaced by a SlotLinear."""

    def __init__(self, model: OpenVla, max_rank: int = 64) -> None:
        self.spec: VlaSpec = model.spec
        self.max_rank = max_rank
        self._choice = _Choice()
        self.layers: dict[str, SlotLinear] = {}
        linear = [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear and not n.endswith("lm_head")]
        for name, module in linear:
            parent, _, leaf = name.rpartition(".")
            self.layers[name] = SlotLinear(module, self._choice)
            setattr(model.get_submodule(parent), leaf, self.layers[name])

    @contextlib.contextmanager
    def using(self, slot: int | None) -> Iterator[None]:
        """Within, this thread's forward passes use `slot` (None: no adapter); outside they are the base model's."""
        before, self._choice.slot = self._choice.slot, slot
        try:
            yield
        finally:
            self._choice.slot = before

    def fit(self, adapter: LoraWeights) -> Pairs:
        """The adapter's pairs for this model's layers, on its device and in its type.

        Names of timm's towers are translated; a pair on their fused `qkv` becomes three that share A and split B.
        Raises AdapterError for a rank above the slot's, modules that are not there and shapes that do not fit.
        """
        if adapter.rank > self.max_rank:
            raise AdapterError(f"{adapter.path}: rank {adapter.rank} is above the slot's {self.max_rank}")
        rules = tower_rules(self.spec)
        pairs: Pairs = {}
        for name, (a, b) in adapter.layers.items():
            rule = rules.get(f"{name}.weight")
            targets = [name] if rule is None else [target.removesuffix(".weight") for target in rule.targets]
            parts = b.chunk(len(targets)) if b.shape[0] % len(targets) == 0 else [b] * len(targets)
            for target, part in zip(targets, parts, strict=True):
                pairs[target] = self._fit_one(adapter, target, a, part)
        return pairs

    def _fit_one(self, adapter: LoraWeights, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layers.get(name)
        if layer is None:
            raise AdapterError(f"{adapter.path}: the model has no linear layer {name}")
        if a.shape[1] != layer.in_features or b.shape[0] != layer.out_features:
            wanted = f"{layer.in_features} -> {layer.out_features}"
            raise AdapterError(f"{adapter.path}: {name}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit {wanted}")
        weight = layer.weight
        return a.to(weight.device, weight.dtype), b.to(weight.device, weight.dtype)

    def pairs(self, slot: int) -> Pairs:
        """What a slot holds."""
        held = ((name, layer.pairs[slot]) for name, layer in self.layers.items())
        return {name: pair for name, pair in held if pair is not None}

    def put(self, slot: int, pairs: Pairs) -> None:
        """Fill a slot; layers that `pairs` does not name become those of the base model. No forward pass may use it."""
        for name, layer in self.layers.items():
            layer.pairs[slot] = pairs.get(name)
