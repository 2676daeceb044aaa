"""Linear layers that share their input, computed as one, with room for two LoRA adapters.

An inference reads every weight once: query, key and value (or gate and up) as one matrix are one multiplication
instead of three. The modules keep their names and become views of the joint matrix, so nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOTS = 2
MANY_ROWS = 16
"""From so many rows on, oneDNN's fp32 multiplication beats MKL's on a CPU; with one row it is the other way round."""
Pair = tuple[Tensor, Tensor]
# What torch's own compiler calls for a linear layer; not in every build, hence the question.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class LinearGroup:
    """y = x W^T + b of several linear layers with one input: (..., in) -> (..., sum of out), outputs side by side.

    A convolution whose windows do not overlap is such a layer too, alone in its group: x is then a flattened window.

    A slot holds a LoRA pair for each of the layers: A (rank, in) stacked, B (out, rank) on the diagonal of a block
    matrix, lower ranks filled up with zeros. Or, when ``merged``, a second whole matrix W + B A, for machines with
    memory to spare. W itself is never written.
    """

    def __init__(self, layers: Sequence[nn.Linear | nn.Conv2d]) -> None:
        """The layers' parameters become views of this group's; all have a bias, or none."""
        self.rows: list[slice] = []
        start = 0
        for layer in layers:
            self.rows.append(slice(start, start + layer.weight.shape[0]))
            start += layer.weight.shape[0]
        self.weight, bias = layers[0].weight.detach().flatten(1), layers[0].bias
        self.in_features = self.weight.shape[1]
        self.bias: Tensor | None = bias
        if len(layers) > 1:
            self.weight = _shared([layer.weight for layer in layers], self.rows, layers, "weight")
            if bias is not None:
                self.bias = _shared(
                    [layer.bias for layer in layers if layer.bias is not None], self.rows, layers, "bias"
                )
        self.active = [False] * SLOTS
        self._a: Tensor | None = None
        self._b: Tensor | None = None
        self._merged: Tensor | None = None
        self._packed: Tensor | None = None

    def pack(self) -> None:
        """Hold a second copy of W in the order in which oneDNN multiplies many rows, where it will.

        W must not change afterwards."""
        if _ONEDNN is not None and self.weight.dtype == torch.float32 and self.weight.device.type == "cpu":
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, 4 * MANY_ROWS)

    def allocate(self, rank: int, merged: bool) -> None:
        """Make both slots, empty, for LoRA pairs up to ``rank``."""
        if merged:
            self._merged = self.weight.expand(SLOTS, *self.weight.shape).clone()
        else:
            width = rank * len(self.rows)
            self._a = self.weight.new_zeros((SLOTS, width, self.in_features))
            self._b = self.weight.new_zeros((SLOTS, self.weight.shape[0], width))

    def put(self, slot: int, pairs: Sequence[Pair | None]) -> None:
        """Fill ``slot`` with one pair (A, B with its scale), or None, per layer. No inference may be using the slot."""
        self.active[slot] = any(pair is not None for pair in pairs)
        if self._merged is not None:
            self._merged[slot].copy_(self.weight)
            for rows, pair in zip(self.rows, pairs, strict=True):
                if pair is not None:
                    a, b = (side.to(self.weight.device, torch.float32) for side in pair)
                    # summed in fp32 and rounded once
                    self._merged[slot, rows] = (self.weight[rows].float() + b @ a).to(self.weight.dtype)
            return
        if self._a is None or self._b is None:
            raise RuntimeError("the slots have not been allocated")
        self._a[slot].zero_()
        self._b[slot].zero_()
        size = self._a.shape[1] // len(self.rows)
        for number, (rows, pair) in enumerate(zip(self.rows, pairs, strict=True)):
            if pair is not None:
                first, rank = number * size, pair[0].shape[0]
                self._a[slot, first : first + rank] = pair[0]
                self._b[slot, rows, first : first + rank] = pair[1]

    def __call__(self, x: Tensor, slot: int | None) -> Tensor:
        """(..., in) -> (..., out) under the adapter of ``slot``; None: the base model alone."""
        weight, a, b = self._under(slot, x)
        result = linear(x, weight, self.bias)
        return result if a is None or b is None else linear_add(result, linear(x, a), b)

    def add(self, residual: Tensor, x: Tensor, slot: int | None) -> Tensor:
        """residual (..., out) plus what this group makes of x (..., in), in one operation where there is one."""
        weight, a, b = self._under(slot, x)
        result = linear_add(residual, x, weight, self.bias)
        return result if a is None or b is None else linear_add(result, linear(x, a), b)

    def _under(self, slot: int | None, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The matrix to multiply `x` by, and the pair A, B to add to it."""
        adapted = slot is not None and self.active[slot]
        if adapted and self._merged is not None:
            return self._merged[slot], None, None
        weight = self._packed if self._packed is not None and _by_onednn(x) else self.weight
        if not adapted:
            return weight, None, None
        assert self._a is not None and self._b is not None
        return weight, self._a[slot], self._b[slot]


def _by_onednn(x: Tensor) -> bool:
    rows = x.numel() // x.shape[-1]
    return _ONEDNN is not None and rows >= MANY_ROWS and x.dtype == torch.float32 and x.device.type == "cpu"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b as `torch.nn.functional.linear`, by the faster of the libraries that torch was built with."""
    if _by_onednn(x):
        return _ONEDNN.default(x, weight, bias, "none", [], "")  # type: ignore[no-any-return,union-attr]
    return functional.linear(x, weight, bias)


def linear_add(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """residual + x W^T + b; residual (..., out), x (..., in)."""
    if _by_onednn(x):
        return _ONEDNN.binary(x, residual, weight, bias, "add")  # type: ignore[no-any-return,union-attr]
    if bias is not None:
        return residual + functional.linear(x, weight, bias)
    flat = torch.addmm(residual.flatten(0, -2), x.flatten(0, -2), weight.t())
    return flat.view(residual.shape)


def _shared(parts: list[Tensor], rows: list[slice], layers: Sequence[nn.Module], name: str) -> Tensor:
    whole = torch.cat([part.detach() for part in parts])
    for layer, part in zip(layers, rows, strict=True):
        setattr(layer, name, nn.Parameter(whole[part], requires_grad=False))
    return whole
