"""The functions that a cost program may call, and how each is typed: its rule in ``rules`` and its array operation.

A program's values are numbers or arrays of one instant; the operations work on all instants at once (``kernels``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signature:
    """``rule``: how shapes follow (a method of ``rules.Rules``); ``least`` to ``most`` positional arguments."""

    rule: str
    operation: str
    least: int
    most: int
    keywords: tuple[str, ...] = ()


def _elementwise(count: int, **operations: str) -> dict[str, Signature]:
    return {f"np.{name}": Signature("elementwise", operation, count, count) for name, operation in operations.items()}


def _reduction(**operations: str) -> dict[str, Signature]:
    return {f"np.{name}": Signature("reduction", operation, 1, 2, ("axis",)) for name, operation in operations.items()}


FUNCTIONS: dict[str, Signature] = {
    **_elementwise(1, abs="absolute", absolute="absolute", fabs="absolute", sqrt="sqrt", square="square"),
    **_elementwise(1, exp="exp", expm1="expm1", log="log", log1p="log1p", log10="log10", log2="log2"),
    **_elementwise(1, sin="sin", cos="cos", tan="tan", arcsin="arcsin", arccos="arccos", arctan="arctan", tanh="tanh"),
    **_elementwise(1, floor="floor", ceil="ceil", sign="sign"),
    **_elementwise(1, deg2rad="deg2rad", radians="deg2rad", rad2deg="rad2deg", degrees="rad2deg"),
    **_elementwise(2, minimum="minimum", maximum="maximum", arctan2="arctan2", hypot="hypot"),
    **_reduction(sum="sum", mean="mean", max="max", amax="max", min="min", amin="min", std="std", var="var"),
    **_reduction(any="any", all="all"),
    "np.linalg.norm": Signature("norm", "norm", 1, 3, ("axis", "ord")),
    "np.dot": Signature("dot", "dot", 2, 2),
    "np.cross": Signature("cross", "cross", 2, 2),
    "np.array": Signature("array", "stack", 1, 1),
    "np.clip": Signature("clip", "clip", 1, 3, ("a_min", "a_max")),
    "np.where": Signature("where", "where", 3, 3),
    "np.power": Signature("power", "power", 2, 2),
    "abs": Signature("magnitude", "absolute", 1, 1),
    "int": Signature("scalar", "truncate", 1, 1),
    "float": Signature("scalar", "real", 1, 1),
    "bool": Signature("scalar", "truth", 1, 1),
    "round": Signature("round", "round", 1, 2, ("ndigits",)),
    "len": Signature("length", "", 1, 1),
    "range": Signature("counting", "", 1, 3),
    "sum": Signature("total", "add", 1, 2, ("start",)),
    "max": Signature("extreme", "greatest", 1, 64, ("default",)),
    "min": Signature("extreme", "least", 1, 64, ("default",)),
    "any": Signature("quantifier", "or", 1, 1),
    "all": Signature("quantifier", "and", 1, 1),
}

CONSTANTS: dict[str, float] = {"np.pi": 3.141592653589793}

RESERVED = frozenset(
    {name for name in FUNCTIONS if "." not in name} | {"np", "numpy", "math", "end_effector", "keypoints", "num_stages"}
)
"""Names that a program may not bind."""
