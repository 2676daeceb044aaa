"""The expression tree of a cost program, and the canonical text that its hash is taken of.

The tree knows nothing of shapes and of the number of keypoints: ``plan`` types it for a given number."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class At:
    """A place in the text: 1-based line and column."""

    line: int
    column: int


class Refused(Exception):
    """Something in the text is not allowed, at a place. ``scarce``: more keypoints would mend it."""

    def __init__(self, at: At, message: str, scarce: bool = False) -> None:
        super().__init__(message)
        self.at, self.message, self.scarce = at, message, scarce


@dataclass(frozen=True)
class Expression:
    at: At = field(compare=False, repr=False)


@dataclass(frozen=True)
class Number(Expression):
    value: bool | int | float


@dataclass(frozen=True)
class Name(Expression):
    name: str


@dataclass(frozen=True)
class Unary(Expression):
    """``operator``: ``-``, ``+`` or ``not``."""

    operator: str
    operand: Expression


@dataclass(frozen=True)
class Binary(Expression):
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Compare(Expression):
    """``operands[0] operators[0] operands[1] operators[1] ...``"""

    operands: tuple[Expression, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Logic(Expression):
    """``operator``: ``and`` or ``or``."""

    operator: str
    operands: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice(Expression):
    """``then if test else other``"""

    test: Expression
    then: Expression
    other: Expression


@dataclass(frozen=True)
class Call(Expression):
    """``function`` is one of the names in ``functions.FUNCTIONS``."""

    function: str
    arguments: tuple[Expression, ...]
    keywords: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class Slice(Expression):
    start: Expression | None
    stop: Expression | None
    step: Expression | None


@dataclass(frozen=True)
class Subscript(Expression):
    value: Expression
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Listing(Expression):
    """A list or tuple written out."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Loop:
    """``for targets in source if conditions``; ``unpack``: each item is split over several targets."""

    targets: tuple[str, ...]
    unpack: bool
    source: Expression
    conditions: tuple[Expression, ...]


@dataclass(frozen=True)
class Comprehension(Expression):
    """``lazy``: a generator instead of a list."""

    element: Expression
    loops: tuple[Loop, ...]
    lazy: bool


@dataclass(frozen=True)
class Assign:
    """``in_place``: written as an augmented assignment, which is allowed on numbers only."""

    targets: tuple[str, ...]
    unpack: bool
    value: Expression
    in_place: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Function:
    """``name`` = ``stage{stage}_{kind}_constraint{number}``, all 1-based. ``summary``: first line of its docstring."""

    name: str
    stage: int
    kind: str
    number: int
    body: tuple[Assign, ...]
    result: Expression
    at: At = field(compare=False)
    summary: str = field(compare=False)


def canonical_program(functions: tuple[Function, ...]) -> str:
    """A text that two programs share exactly when they differ in no more than layout, comments, docstrings, redundant
    brackets, the order of their functions and the names of their local variables."""
    return "grape cost program 1\n" + "".join(canonical_function(function) for function in functions)


def canonical_function(function: Function) -> str:
    writer = _Writer()
    names: dict[str, str] = {}
    lines = []
    for assign in function.body:
        value = writer.text(assign.value, names)
        names = writer.bind(assign.targets, names)
        lines.append(f"  {_targets(assign.targets, assign.unpack, names)} = {value}\n")
    return f"{function.name}\n{''.join(lines)}  return {writer.text(function.result, names)}\n"


def _targets(targets: tuple[str, ...], unpack: bool, names: dict[str, str]) -> str:
    text = " ".join(names[target] for target in targets)
    return f"({text})" if unpack else text


class _Writer:
    """Numbers the local variables in the order in which they are bound."""

    def __init__(self) -> None:
        self._count = 0

    def bind(self, targets: tuple[str, ...], names: dict[str, str]) -> dict[str, str]:
        bound = dict(names)
        for target in targets:
            self._count += 1
            bound[target] = f"v{self._count}"
        return bound

    def text(self, node: Expression, names: dict[str, str]) -> str:
        match node:
            case Number(value=value):
                return repr(value)
            case Name(name=name):
                return names.get(name, name)
            case Unary(operator=operator, operand=operand):
                return self._form(operator, (operand,), names)
            case Binary(operator=operator, left=left, right=right):
                return self._form(operator, (left, right), names)
            case Compare(operands=operands, operators=operators):
                return self._form(f"compare[{' '.join(operators)}]", operands, names)
            case Logic(operator=operator, operands=operands):
                return self._form(operator, operands, names)
            case Choice(test=test, then=then, other=other):
                return self._form("if", (test, then, other), names)
            case Call(function=function, arguments=arguments, keywords=keywords):
                named = "".join(f" {key}={self.text(value, names)}" for key, value in sorted(keywords))
                return self._form(function, arguments, names, named)
            case Slice(start=start, stop=stop, step=step):
                return ":".join("" if part is None else self.text(part, names) for part in (start, stop, step))
            case Subscript(value=value, parts=parts):
                return self._form("item", (value, *parts), names)
            case Listing(items=items):
                return self._form("list", items, names)
            case Comprehension():
                return self._comprehension(node, names)
        raise AssertionError(f"no canonical text for {type(node).__name__}")

    def _form(self, head: str, parts: tuple[Expression, ...], names: dict[str, str], tail: str = "") -> str:
        return f"({head}{''.join(' ' + self.text(part, names) for part in parts)}{tail})"

    def _comprehension(self, node: Comprehension, names: dict[str, str]) -> str:
        loops = []
        for loop in node.loops:
            source = self.text(loop.source, names)
            names = self.bind(loop.targets, names)
            conditions = "".join(f" if {self.text(condition, names)}" for condition in loop.conditions)
            loops.append(f" for {_targets(loop.targets, loop.unpack, names)} in {source}{conditions}")
        return f"({'each' if node.lazy else 'list'} {self.text(node.element, names)}{''.join(loops)})"
