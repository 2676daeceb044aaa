"""Types one constraint for a number of keypoints: every shape is known, every index is in range, or it is refused."""

from __future__ import annotations

from functools import reduce

from grape_reward.program import tree
from grape_reward.program.builder import Builder, Value
from grape_reward.program.functions import CONSTANTS, FUNCTIONS
from grape_reward.program.rules import WHOLE, Rules
from grape_reward.program.steps import Kind
from grape_reward.program.tree import At, Expression, Function, Refused
from grape_reward.program.values import Items, Typed, listed, told

MAX_INDEX = 64
MAX_ITEMS = 1_024
_ARITHMETIC = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "//": "floor_divide",
    "%": "remainder",
}
_COMPARISON = {
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
    "==": "equal",
    "!=": "not_equal",
}
Environment = dict[str, Typed]


def typed(function: Function, builder: Builder) -> Value:
    """The cost of a constraint, its steps added to ``builder``. Raises Refused; ``scarce`` where more keypoints would
    mend it."""
    typer = _Typer(builder)
    environment: Environment = {"end_effector": builder.end_effector, "keypoints": builder.keypoints}
    for assign in function.body:
        value = typer.value(assign.value, environment)
        if assign.in_place and (isinstance(value, Items) or value.shape):
            name = assign.targets[0]
            raise Refused(assign.value.at, f"this would change an array in place: write {name} = {name} + ...")
        environment = typer.bound(assign.targets, assign.unpack, value, environment, assign.value.at)
    result = typer.value(function.result, environment)
    at = function.result.at
    if isinstance(result, Items) or result.shape:
        raise Refused(at, f"a cost is one number, {function.name} returns {told(result)}")
    if result.kind is Kind.BOOL:
        raise Refused(at, f"{function.name} returns true or false, not a number: write 0.0 if test else 1.0")
    return result


class _Typer(Rules):
    """Walks the expressions; what functions do to shapes is in ``Rules``."""

    def value(self, node: Expression, names: Environment) -> Typed:
        at = node.at
        self.builder.spend(at)
        match node:
            case tree.Number(value=value):
                return self.builder.number(value, at)
            case tree.Name(name=name):
                return self.builder.number(CONSTANTS[name], at) if name in CONSTANTS else names[name]
            case tree.Unary(operator=operator, operand=operand):
                inner = self.value(operand, names)
                if operator == "not":
                    return self.builder.apply("not", (self.truth(inner, at),), (), Kind.BOOL, at)
                self._no_list(inner, at)
                return self.numeric("negative" if operator == "-" else "positive", (inner,), at, whole=True)
            case tree.Binary(operator=operator, left=left, right=right):
                return self._binary(operator, self.value(left, names), self.value(right, names), at)
            case tree.Compare():
                return self._compare(node, names)
            case tree.Logic(operator=operator, operands=operands):
                values = [
                    self.scalar(self.value(operand, names), operand.at, f"a part of {operator}") for operand in operands
                ]
                return self._logic(operator, values, at)
            case tree.Choice(test=test, then=then, other=other):
                chosen = self.truth(self.value(test, names), test.at)
                return self.select(chosen, self.value(then, names), self.value(other, names), at)
            case tree.Call(function=function, arguments=arguments, keywords=keywords):
                given = tuple(self.value(argument, names) for argument in arguments)
                named = {key: self.value(value, names) for key, value in keywords}
                return self.call(FUNCTIONS[function], given, named, at)
            case tree.Subscript():
                return self._subscript(node, names)
            case tree.Listing(items=items):
                return listed(tuple(self.value(item, names) for item in items))
            case tree.Comprehension():
                return self._comprehension(node, names)
        raise Refused(at, "a slice may stand only in square brackets")

    def bound(self, targets: tuple[str, ...], unpack: bool, value: Typed, names: Environment, at: At) -> Environment:
        if not unpack:
            if isinstance(value, Items) and value.lazy:
                raise Refused(at, "a generator can be used only once: put [ ] around it")
            return {**names, targets[0]: value}
        parts = self.iterate(value, at)
        if parts.filtered or len(parts.items) != len(targets):
            raise Refused(at, f"{told(value)} cannot be split over {len(targets)} variables")
        return {**names, **dict(zip(targets, parts.items, strict=True))}

    def _no_list(self, value: Typed, at: At) -> None:
        if isinstance(value, Items):
            raise Refused(at, "a list cannot be calculated with: put np.array(...) around it")

    def _binary(self, operator: str, left: Typed, right: Typed, at: At) -> Value:
        if isinstance(left, Items) and (isinstance(right, Items) or not right.shape):
            self._no_list(left, at)
        if isinstance(right, Items) and not (isinstance(left, Value) and left.shape):
            self._no_list(right, at)
        if operator == "**":
            return self.power(left, right, at)
        if operator == "@":
            return self.dot(left, right, at)
        operation = _ARITHMETIC[operator]
        divisor = right.constant if isinstance(right, Value) and operator in ("/", "//", "%") else None
        if divisor is not None and not divisor.all():
            raise Refused(at, "this is a division by zero")
        return self.numeric(operation, (left, right), at, whole=operation in WHOLE)

    def _compare(self, node: tree.Compare, names: Environment) -> Value:
        values = [self.value(operand, names) for operand in node.operands]
        for value in values:
            self._no_list(value, node.at)
        pairs = list(zip(node.operators, values, values[1:], strict=False))
        results = [self.elementwise(_COMPARISON[op], (a, b), Kind.BOOL, node.at) for op, a, b in pairs]
        if len(results) > 1:
            results = [self.truth(result, node.at) for result in results]
        return self._logic("and", results, node.at)

    def _logic(self, operator: str, values: list[Value], at: At) -> Value:
        """Python's ``and`` and ``or``: the value that decides."""

        def joined(right: Value, left: Value) -> Value:
            then, other = (right, left) if operator == "and" else (left, right)
            return self.select(self.truth(left, at), then, other, at)

        return reduce(joined, reversed(values))

    def _subscript(self, node: tree.Subscript, names: Environment) -> Typed:
        value = self.value(node.value, names)
        parts = tuple(self._index(part, names) for part in node.parts)
        if isinstance(value, Value):
            return self.item(value, parts, node.at)
        if len(parts) != 1 or value.lazy or value.filtered:
            raise Refused(node.at, "a list of fixed length takes one index, a generator none")
        part, size = parts[0], len(value.items)
        if isinstance(part, tuple):
            return listed(value.items[slice(*part)])
        if not -size <= part < size:
            raise Refused(node.at, f"index {part} does not exist: this list has {size} items", scarce=True)
        return value.items[part]

    def _index(self, node: Expression, names: Environment) -> int | tuple[int | None, int | None, int | None]:
        if isinstance(node, tree.Slice):
            bounds = [None if b is None else self._whole(b, names) for b in (node.start, node.stop, node.step)]
            if bounds[2] == 0:
                raise Refused(node.at, "the step of a slice cannot be zero")
            return (bounds[0], bounds[1], bounds[2])
        return self._whole(node, names)

    def _whole(self, node: Expression, names: Environment) -> int:
        value = self.value(node, names)
        whole = value.whole if isinstance(value, Value) else None
        if whole is None:
            raise Refused(
                node.at, "an index must be a whole number that is known beforehand, such as 2 or len(keypoints) - 1"
            )
        if abs(whole) > MAX_INDEX:
            raise Refused(node.at, f"indices go up to {MAX_INDEX}")
        return whole

    def _comprehension(self, node: tree.Comprehension, names: Environment) -> Items:
        items: list[Typed] = []
        conditions: list[Value | None] = []

        def go(level: int, names: Environment, condition: Value | None) -> None:
            if level == len(node.loops):
                items.append(self.value(node.element, names))
                conditions.append(condition)
                if len(items) > MAX_ITEMS:
                    raise Refused(node.at, f"this has more than {MAX_ITEMS} items")
                return
            loop = node.loops[level]
            source = self.iterate(self.value(loop.source, names), loop.source.at)
            for item, present in zip(source.items, source.conditions, strict=True):
                self.builder.spend(node.at)
                inner = self.bound(loop.targets, loop.unpack, item, names, loop.source.at)
                passed = [self.truth(self.value(test, inner), test.at) for test in loop.conditions]
                tests = [test for test in (condition, present, *passed) if test is not None]
                go(level + 1, inner, self._logic("and", tests, node.at) if tests else None)

        go(0, names, None)
        return Items(tuple(items), tuple(conditions), node.lazy)
