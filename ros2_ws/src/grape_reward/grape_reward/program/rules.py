"""How each function of a cost program is typed: one method a rule, named in ``functions.FUNCTIONS``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from grape_reward.program.builder import Value
from grape_reward.program.functions import Signature
from grape_reward.program.steps import Kind
from grape_reward.program.tree import At, Refused
from grape_reward.program.values import Items, Shapes, Typed, listed, merged, told

MAX_RANGE = 64
MAX_DIGITS = 12
MAX_EXPONENT = 10
WHOLE = {"floor_divide", "remainder", "add", "subtract", "multiply", "negative", "positive", "absolute"}

Arguments = tuple[Typed, ...]
Keywords = Mapping[str, Typed]


class Rules(Shapes):
    """Each rule takes the signature, the typed arguments and the place of a call."""

    def call(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Typed:
        result: Typed = getattr(self, f"_{signature.rule}")(signature, arguments, keywords, at)
        return result

    def power(self, base: Typed, exponent: Typed, at: At) -> Value:
        """``base ** exponent``. Raises Refused unless the exponent is a small constant."""
        constant = None if isinstance(exponent, Items) or exponent.shape else exponent.constant
        if constant is None or abs(float(constant[0])) > MAX_EXPONENT:
            raise Refused(at, f"the exponent must be a constant from -{MAX_EXPONENT} to {MAX_EXPONENT}, e.g. x ** 2")
        array = self.array(base, at)
        if array.kind is Kind.BOOL:
            raise Refused(at, "this calculates with true and false: write 1.0 if test else 0.0")
        assert isinstance(exponent, Value)
        whole = array.kind is exponent.kind is Kind.INT and float(constant[0]) >= 0
        kind = Kind.INT if whole else Kind.FLOAT
        return self.builder.apply("power", (array,), array.shape, kind, at, (float(constant[0]),))

    def dot(self, left: Typed, right: Typed, at: At) -> Value:
        a, b = self.array(left, at), self.array(right, at)
        self._numbers(a, b, at=at)
        if len(a.shape) not in (1, 2) or len(b.shape) != 1 or a.shape[-1] != b.shape[0]:
            raise Refused(at, f"a product of {told(a)} with {told(b)} is not understood: use two vectors of one length")
        return self.builder.apply("dot", (a, b), a.shape[:-1], merged(a.kind, b.kind), at)

    def _numbers(self, *values: Value, at: At) -> None:
        if any(value.kind is Kind.BOOL for value in values):
            raise Refused(at, "this calculates with true and false: write 1.0 if test else 0.0")

    def _elementwise(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        return self.numeric(signature.operation, arguments, at, whole=signature.operation in WHOLE)

    def _magnitude(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Value:
        if isinstance(arguments[0], Items):
            raise Refused(at, "abs takes no list: use np.abs")
        return self._elementwise(signature, arguments, keywords, at)

    def _reduction(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Typed:
        alone = len(arguments) == 1 and not keywords
        if isinstance(arguments[0], Items) and arguments[0].lazy and signature.operation == "sum" and alone:
            return self._total(signature, arguments, {}, at)
        array = self.array(arguments[0], at)
        axis = self._axis(array, arguments[1] if len(arguments) > 1 else keywords.get("axis"), at)
        if 0 in array.shape and signature.operation not in ("sum", "any", "all"):
            raise Refused(at, "this has no value for an empty array: there are too few keypoints", scarce=True)
        shape = () if axis is None else array.shape[:axis] + array.shape[axis + 1 :]
        kind = Kind.FLOAT
        if signature.operation in ("any", "all"):
            kind = Kind.BOOL
            if 0 in array.shape:
                raise Refused(at, "this has no value for an empty array: there are too few keypoints", scarce=True)
        elif signature.operation in ("max", "min"):
            kind = array.kind
        elif signature.operation == "sum" and array.kind is not Kind.FLOAT:
            kind = Kind.INT
        if not array.shape:
            return self._of_number(signature.operation, array, kind, at)
        return self.builder.apply(signature.operation, (array,), shape, kind, at, (axis,))

    def _of_number(self, operation: str, value: Value, kind: Kind, at: At) -> Value:
        if operation in ("std", "var"):
            return self.numeric("subtract", (value, value), at)
        return self.truth(value, at) if kind is Kind.BOOL else value

    def _axis(self, array: Value, axis: Typed | None, at: At) -> int | None:
        if axis is None:
            return None
        whole = axis.whole if isinstance(axis, Value) else None
        rank = len(array.shape)
        if whole is None or not -rank <= whole < rank:
            raise Refused(at, f"axis must be a whole number that {told(array)} has: it has {rank} axes, counted from 0")
        return whole % rank

    def _norm(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Value:
        given = dict(zip(("ord", "axis"), arguments[1:], strict=False))
        if given.keys() & keywords.keys():
            raise Refused(at, "an argument is given twice")
        given.update(keywords)
        array = self.array(arguments[0], at)
        self._numbers(array, at=at)
        axis = self._axis(array, given.get("axis"), at)
        order = 2
        if "ord" in given:
            ordinal = given["ord"]
            order = (ordinal.whole if isinstance(ordinal, Value) else None) or 0
            if order not in (1, 2) or (axis is None and len(array.shape) != 1):
                raise Refused(at, "ord must be 1 or 2, of a vector or along an axis")
        if not array.shape:
            return self.numeric("absolute", (array,), at)
        shape = () if axis is None else array.shape[:axis] + array.shape[axis + 1 :]
        return self.builder.apply("norm", (array,), shape, Kind.FLOAT, at, (axis, order))

    def _dot(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        return self.dot(arguments[0], arguments[1], at)

    def _cross(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        a, b = (self.array(argument, at) for argument in arguments)
        self._numbers(a, b, at=at)
        if a.shape != (3,) or b.shape != (3,):
            raise Refused(at, f"np.cross takes two vectors of length 3, here are {told(a)} and {told(b)}")
        return self.builder.apply("cross", (a, b), (3,), merged(a.kind, b.kind), at)

    def _array(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        return self.array(arguments[0], at)

    def _clip(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Value:
        bounds = {**dict(zip(("a_min", "a_max"), arguments[1:], strict=False)), **keywords}
        if len(bounds) != 2 or len(arguments) - 1 + len(keywords) != 2:
            raise Refused(at, "np.clip takes a value, its lower and its upper bound")
        raised = self.numeric("maximum", (arguments[0], bounds["a_min"]), at)
        return self.numeric("minimum", (raised, bounds["a_max"]), at)

    def _where(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        arrays = tuple(self.array(argument, at) for argument in arguments)
        return self.elementwise("where", arrays, merged(arrays[1].kind, arrays[2].kind), at)

    def _power(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        return self.power(arguments[0], arguments[1], at)

    def _scalar(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        value = self.scalar(arguments[0], at, "the argument")
        if signature.operation == "truth":
            return self.truth(value, at)
        kind = Kind.INT if signature.operation == "truncate" else Kind.FLOAT
        return value if value.kind is kind else self.builder.apply(signature.operation, (value,), (), kind, at)

    def _round(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Value:
        value = self.scalar(arguments[0], at, "the argument")
        self._numbers(value, at=at)
        digits = arguments[1] if len(arguments) > 1 else keywords.get("ndigits")
        if len(arguments) > 1 and keywords:
            raise Refused(at, "an argument is given twice")
        if digits is None:
            return self.unsigned(self.builder.apply("round", (value,), (), Kind.INT, at, (0,)), at)
        whole = digits.whole if isinstance(digits, Value) else None
        if whole is None or abs(whole) > MAX_DIGITS:
            raise Refused(at, f"round takes a constant number of digits, at most {MAX_DIGITS}")
        if value.constant is not None:  # Python rounds its own numbers exactly, NumPy's after scaling them
            number = float(value.constant[0])
            return self.builder.number(round(int(number) if value.kind is Kind.INT else number, whole), at)
        return self.builder.apply("round", (value,), (), value.kind, at, (whole,))

    def _length(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        value = arguments[0]
        if isinstance(value, Items):
            if value.lazy or value.filtered:
                raise Refused(at, "this has no fixed length: count with sum(1 for ... if ...)")
            return self.builder.number(len(value.items), at)
        if not value.shape:
            raise Refused(at, "a number has no length")
        return self.builder.number(value.shape[0], at)

    def _counting(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Items:
        bounds = [argument.whole if isinstance(argument, Value) else None for argument in arguments]
        known = [bound for bound in bounds if bound is not None]
        if len(known) < len(bounds) or (len(known) == 3 and known[2] == 0) or len(range(*known)) > MAX_RANGE:
            raise Refused(at, f"range takes constants, such as len(keypoints), and gives at most {MAX_RANGE} numbers")
        return listed(tuple(self.builder.number(number, at) for number in range(*known)))

    def _total(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Value:
        """Python's ``sum``: from the left, beginning with ``start``."""
        items = self.iterate(arguments[0], at)
        result = arguments[1] if len(arguments) > 1 else keywords.get("start", self.builder.number(0, at))
        if len(arguments) > 1 and keywords:
            raise Refused(at, "an argument is given twice")
        if isinstance(result, Value) and result.kind is Kind.BOOL:
            raise Refused(at, "start= must be a number")
        for item, condition in zip(items.items, items.conditions, strict=True):
            if isinstance(item, Items) or isinstance(result, Items):
                raise Refused(at, "sum adds numbers or arrays, not lists: use np.array([...])")
            added = self.elementwise("add", (result, item), max_kind(result, item), at)
            result = added if condition is None else self.select(condition, added, result, at)
        return self.array(result, at)

    def _extreme(self, signature: Signature, arguments: Arguments, keywords: Keywords, at: At) -> Value:
        """Python's ``max`` and ``min``: of several arguments, or of the items of one."""
        default = keywords.get("default")
        if default is not None and len(arguments) > 1:
            raise Refused(at, "default= is for a single list")
        items = self.iterate(arguments[0], at) if len(arguments) == 1 else listed(arguments)
        best: Value | None = None
        found: Value | None = None
        for item, condition in zip(items.items, items.conditions, strict=True):
            value = self.scalar(item, at, "each item of max and min")
            if best is None:
                best, found = value, condition
                continue
            better = self.builder.apply(signature.operation, (best, value), (), merged(best.kind, value.kind), at)
            if found is not None:
                better = self.select(found, better, value, at)
            if condition is not None:
                better = self.select(condition, better, best, at)
            best = better
            found = None if found is None or condition is None else self._either(found, condition, at)
        if best is None:
            if default is None:
                raise Refused(at, "there is nothing to choose from: too few keypoints, or give default=", scarce=True)
            return self.scalar(default, at, "default=")
        if found is None:
            return best
        if default is None:
            raise Refused(at, "no item may pass this `if`: give default=")
        return self.select(found, best, self.scalar(default, at, "default="), at)

    def _either(self, one: Value, other: Value, at: At) -> Value:
        return self.elementwise("or", (one, other), Kind.BOOL, at)

    def _quantifier(self, signature: Signature, arguments: Arguments, _: Keywords, at: At) -> Value:
        items = self.iterate(arguments[0], at)
        neutral = signature.operation == "and"
        result = self.builder.number(neutral, at)
        parts = []
        for item, condition in zip(items.items, items.conditions, strict=True):
            value = self.truth(item, at)
            parts.append(value if condition is None else self.select(condition, value, result, at))
        return reduce(lambda a, b: self.elementwise(signature.operation, (a, b), Kind.BOOL, at), parts, result)


def max_kind(a: Value, b: Value) -> Kind:
    """The kind of a sum: true and false are counted."""
    return Kind.FLOAT if Kind.FLOAT in (a.kind, b.kind) else Kind.INT
