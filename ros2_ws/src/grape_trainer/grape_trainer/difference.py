"""Two adapters compared: settings, episodes, metrics, and how far apart what they add to the weights is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grape_policy.adapters import AdapterError, AdapterManifest, read_adapter, read_manifest
from grape_trainer.errors import RegistryError

ABSENT = "(none)"


@dataclass(frozen=True)
class Distance:
    """Frobenius norms over all layers: of both updates, of their difference; ``cosine`` of the angle between them, NaN
    where one is zero. ``layers``: name -> norm of the difference, largest first."""

    first: float
    second: float
    apart: float
    cosine: float
    layers: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """``settings`` and ``metrics``: name -> both values, where they differ; episodes: ids in both, in one alone.
    ``distance`` is None between adapters of different base models."""

    first: AdapterManifest
    second: AdapterManifest
    settings: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[Any, Any]]
    common: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    distance: Distance | None


def compare(first: Path, second: Path) -> Comparison:
    """Compare the adapters in two folders. Raises RegistryError naming the file that cannot be read."""
    try:
        one, two = read_manifest(first), read_manifest(second)
        layers = None
        if one.base_hash == two.base_hash:
            layers = tuple(read_adapter(folder, one.base_hash).layers for folder in (first, second))
    except AdapterError as error:
        raise RegistryError(str(error)) from None
    ours, theirs = set(one.episodes), set(two.episodes)
    return Comparison(
        first=one,
        second=two,
        settings=_differing(one.settings, two.settings),
        metrics=_differing(_flat(one.metrics), _flat(two.metrics)),
        common=tuple(sorted(ours & theirs)),
        only_first=tuple(sorted(ours - theirs)),
        only_second=tuple(sorted(theirs - ours)),
        distance=None if layers is None else distance(*layers),
    )


def distance(first: Mapping[str, tuple[Tensor, Tensor]], second: Mapping[str, tuple[Tensor, Tensor]]) -> Distance:
    """Of two adapters' layers, name -> A (r, in) and B (out, r) with the scale in B: what counts is B A, which the
    same two updates may have in different factors. A layer that only one has is zero in the other."""
    squares = {"first": 0.0, "second": 0.0}
    apart: dict[str, float] = {}
    for name in sorted({*first, *second}):
        sides = [part.get(name) for part in (first, second)]
        for key, side in zip(squares, sides, strict=True):
            squares[key] += _norm([side] if side else []) ** 2
        signed = [(a, sign * b) for side, sign in zip(sides, (1.0, -1.0), strict=True) if side for a, b in (side,)]
        apart[name] = _norm(signed)
    norms = {key: value**0.5 for key, value in squares.items()}
    total = sum(value**2 for value in apart.values()) ** 0.5
    inner = (squares["first"] + squares["second"] - total**2) / 2
    scale = norms["first"] * norms["second"]
    ordered = dict(sorted(apart.items(), key=lambda item: (-item[1], item[0])))
    return Distance(norms["first"], norms["second"], total, inner / scale if scale else float("nan"), ordered)


def _norm(parts: list[tuple[Tensor, Tensor]]) -> float:
    """Frobenius norm of the sum of B A, without ever forming it: that of the product of two triangles."""
    if not parts:
        return 0.0
    wide = torch.cat([a for a, _ in parts]).double()
    tall = torch.cat([b for _, b in parts], dim=1).double()
    left = torch.linalg.qr(tall, mode="r").R
    right = torch.linalg.qr(wide.T, mode="r").R
    return float(torch.linalg.matrix_norm(left @ right.T))


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted({*first, *second})
    both = {name: (first.get(name, ABSENT), second.get(name, ABSENT)) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat
