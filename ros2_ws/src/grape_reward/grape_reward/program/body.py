"""From Python's syntax tree to ours: the body of one constraint. Every construct is on an allow-list, everything else
is refused in a sentence."""

from __future__ import annotations

import ast
import difflib
import re

from grape_reward.program import tree
from grape_reward.program.functions import CONSTANTS, FUNCTIONS, RESERVED
from grape_reward.program.refusals import PYTHON_BUILTINS, SENTENCES
from grape_reward.program.tree import At, Refused

KINDS = ("target", "path", "collision", "grasp")
MAX_NODES = 256
MAX_DEPTH = 16
MAX_EXACT = 2**53
MAX_TOLD = 60

PARAMETERS = ["end_effector", "keypoints"]
TERM_NAME = re.compile(rf"stage([1-9]\d?)_({'|'.join(KINDS)})_constraint([1-9]\d?)")
_BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
}
_UNARY = {ast.USub: "-", ast.UAdd: "+", ast.Not: "not"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


def place(node: ast.AST) -> At:
    """Where a node of Python's syntax tree begins."""
    return At(getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1)


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class Body:
    """Reads the statements of one function; keeps count of its nodes and of the names it has bound."""

    def __init__(self, name: str) -> None:
        self._function = name
        self._nodes = 0
        self._bound = set(PARAMETERS)

    def statement(self, node: ast.stmt) -> tuple[tree.Assign, ...]:
        """An assignment, or one for each target of ``a = b = value``. Raises Refused for any other statement."""
        self._count(node)
        if isinstance(node, ast.Assign):
            value = self.expression(node.value)
            assigns: list[tree.Assign] = []
            for target in node.targets:
                targets, unpack = self._targets(target)
                if assigns and assigns[0].unpack:
                    raise Refused(place(target), "give each variable a line of its own")
                self._bound.update(targets)
                assigns.append(tree.Assign(targets, unpack, value))
                value = tree.Name(place(target), assigns[0].targets[0])
            return tuple(assigns)
        if isinstance(node, ast.AugAssign):
            if not isinstance(node.target, ast.Name):
                raise Refused(place(node), "only a local variable can be changed")
            old, operator = self._name(node.target), self._operator(node.op, node)
            value = tree.Binary(place(node), operator, old, self.expression(node.value))
            return (tree.Assign(self._targets(node.target)[0], False, value, in_place=True),)
        if isinstance(node, ast.Return):
            raise Refused(place(node), "`return` must be the last line of its function")
        if isinstance(node, ast.Expr):
            if isinstance(node.value, (ast.Yield, ast.YieldFrom, ast.Await)):
                raise Refused(place(node), SENTENCES[type(node.value)])
            if is_docstring(node):
                raise Refused(place(node), "a string may stand only as the first line of a function")
            self.expression(node.value)
            raise Refused(place(node), "this line computes a value and throws it away: assign it, or delete the line")
        raise Refused(
            place(node), SENTENCES.get(type(node), "this kind of statement is not understood in a constraint")
        )

    def expression(self, node: ast.expr, depth: int = 1) -> tree.Expression:
        if depth > MAX_DEPTH:
            raise Refused(place(node), f"this is nested more than {MAX_DEPTH} deep: split it over local variables")
        self._count(node)
        at, deeper = place(node), depth + 1
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name():
                return self._name(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.UnaryOp() if type(node.op) in _UNARY:
                return tree.Unary(at, _UNARY[type(node.op)], self.expression(node.operand, deeper))
            case ast.BinOp():
                operator = self._operator(node.op, node)
                return tree.Binary(
                    at, operator, self.expression(node.left, deeper), self.expression(node.right, deeper)
                )
            case ast.BoolOp():
                operator = "and" if isinstance(node.op, ast.And) else "or"
                return tree.Logic(at, operator, self._all(node.values, deeper))
            case ast.Compare():
                for comparison in node.ops:
                    if type(comparison) not in _COMPARE:
                        raise Refused(at, "`in` and `is` are not understood: compare numbers with < <= > >= == !=")
                operators = tuple(_COMPARE[type(op)] for op in node.ops)
                return tree.Compare(at, self._all([node.left, *node.comparators], deeper), operators)
            case ast.IfExp():
                test, then, other = self._all([node.test, node.body, node.orelse], deeper)
                return tree.Choice(at, test, then, other)
            case ast.List() | ast.Tuple():
                return tree.Listing(at, self._all(node.elts, deeper))
            case ast.Subscript():
                parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                if not parts:
                    raise Refused(at, "the index is missing")
                return tree.Subscript(at, self.expression(node.value, deeper), self._all(parts, deeper))
            case ast.Slice():
                bounds = (node.lower, node.upper, node.step)
                return tree.Slice(at, *(None if b is None else self.expression(b, deeper) for b in bounds))
            case ast.Call():
                return self._call(node, deeper)
            case ast.GeneratorExp() | ast.ListComp():
                return self._comprehension(node, deeper)
        raise Refused(at, SENTENCES.get(type(node), "this is not understood in a constraint"))

    def _all(self, nodes: list[ast.expr], depth: int) -> tuple[tree.Expression, ...]:
        return tuple(self.expression(node, depth) for node in nodes)

    def _count(self, node: ast.AST) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Refused(place(node), f"{self._function} has more than {MAX_NODES} nodes: make it simpler")

    def _operator(self, operator: ast.operator, node: ast.AST) -> str:
        if type(operator) not in _BINARY:
            raise Refused(place(node), "operators on bits (& | ^ << >> ~) are not understood: use and, or, not")
        return _BINARY[type(operator)]

    def _constant(self, node: ast.Constant) -> tree.Number:
        value = node.value
        if isinstance(value, (str, bytes)):
            raise Refused(
                place(node), "strings have no use in a cost: only a docstring may stand as a function's first line"
            )
        if not isinstance(value, (bool, int, float)):
            raise Refused(place(node), f"{'None' if value is None else 'this'} is not a real number")
        if isinstance(value, int) and abs(value) > MAX_EXACT:
            raise Refused(place(node), f"whole numbers go up to {MAX_EXACT}")
        if not abs(value) < float("inf"):
            raise Refused(place(node), "this number is too large")
        return tree.Number(place(node), value)

    def _name(self, node: ast.Name) -> tree.Name:
        name = node.id
        if name in self._bound:
            return tree.Name(place(node), name)
        if name in FUNCTIONS:
            raise Refused(place(node), f"{name} is a function: call it, {name}(...)")
        if name in PYTHON_BUILTINS or name.startswith("__"):
            raise Refused(place(node), f"{name} is not available in a cost program")
        if name in ("np", "numpy", "math"):
            raise Refused(place(node), f"{name} alone is no value")
        hint = difflib.get_close_matches(name, self._bound, 1)
        raise Refused(place(node), f"{name} has no value here{f'; is {hint[0]} meant?' if hint else ''}")

    def _attribute(self, node: ast.Attribute) -> tree.Name:
        name = _dotted(node)
        if name in CONSTANTS:
            return tree.Name(place(node), name)
        if name in FUNCTIONS:
            raise Refused(place(node), f"{name} is a function: call it, {name}(...)")
        raise Refused(place(node), _no_attribute(node, name))

    def _call(self, node: ast.Call, depth: int) -> tree.Call:
        at = place(node)
        if isinstance(node.func, ast.Name):
            name = node.func.id
            if name in self._bound:
                raise Refused(at, f"{name} is a value, it cannot be called")
            if name not in FUNCTIONS:
                if TERM_NAME.fullmatch(name):
                    raise Refused(at, "a constraint cannot call a constraint")
                raise Refused(at, f"{name} is not available in a cost program{_closest(name)}")
        elif isinstance(node.func, ast.Attribute):
            name = _dotted(node.func)
            if name not in FUNCTIONS:
                raise Refused(place(node.func), _no_attribute(node.func, name))
        else:
            raise Refused(at, "only functions can be called, by their names")
        signature = FUNCTIONS[name]
        keywords: list[tuple[str, tree.Expression]] = []
        for keyword in node.keywords:
            if keyword.arg is None:
                raise Refused(place(keyword), "** arguments are not understood")
            if keyword.arg not in signature.keywords or keyword.arg in dict(keywords):
                known = f"it knows {', '.join(signature.keywords)}" if signature.keywords else "it takes none by name"
                raise Refused(place(keyword), f"{name} takes no argument {keyword.arg}= here: {known}")
            keywords.append((keyword.arg, self.expression(keyword.value, depth)))
        arguments = self._all(node.args, depth)
        if not signature.least <= len(arguments) <= signature.most:
            wanted = (
                str(signature.least) if signature.least == signature.most else f"{signature.least} to {signature.most}"
            )
            raise Refused(at, f"{name} takes {wanted} arguments, here are {len(arguments)}")
        return tree.Call(at, name, arguments, tuple(keywords))

    def _comprehension(self, node: ast.GeneratorExp | ast.ListComp, depth: int) -> tree.Comprehension:
        before = set(self._bound)
        loops = []
        for clause in node.generators:
            if clause.is_async:
                raise Refused(place(clause.iter), "`async` is not understood")
            source = self.expression(clause.iter, depth)
            targets, unpack = self._targets(clause.target)
            self._bound.update(targets)
            loops.append(tree.Loop(targets, unpack, source, self._all(clause.ifs, depth)))
        element = self.expression(node.elt, depth)
        self._bound = before
        return tree.Comprehension(place(node), element, tuple(loops), isinstance(node, ast.GeneratorExp))

    def _targets(self, node: ast.expr) -> tuple[tuple[str, ...], bool]:
        self._count(node)
        nodes = node.elts if isinstance(node, (ast.Tuple, ast.List)) else [node]
        names = []
        for target in nodes:
            if not isinstance(target, ast.Name):
                raise Refused(place(target), "only a plain local variable can be assigned to")
            name = target.id
            if name in RESERVED or name in PYTHON_BUILTINS or name.startswith("__") or TERM_NAME.fullmatch(name):
                raise Refused(place(target), f"{name} already means something here: choose another name")
            if name in names:
                raise Refused(place(target), f"{name} is assigned twice at once")
            names.append(name)
        if not names:
            raise Refused(place(node), "nothing is assigned to here")
        return tuple(names), nodes[0] is not node


def _dotted(node: ast.Attribute) -> str:
    parts = [node.attr]
    value: ast.expr = node.value
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    parts.append(value.id if isinstance(value, ast.Name) else "(...)")
    name = ".".join(reversed(parts))
    return name if len(name) <= MAX_TOLD else f"{name[:MAX_TOLD]}..."


def _no_attribute(node: ast.Attribute, name: str) -> str:
    if name.startswith("math."):
        return f"{name} is not available: use np{_closest('np.' + name[5:])}"
    if name.startswith(("np.", "numpy.")):
        return f"{name} is not among the functions of a cost program{_closest(name)}"
    if node.attr in ("shape", "size"):
        return f".{node.attr} is not available: len(keypoints) is the number of keypoints"
    return f".{node.attr} is not available: a value has no attributes here, only np.* functions may be used"


def _closest(name: str) -> str:
    close = difflib.get_close_matches(name, [*FUNCTIONS, *CONSTANTS], 1, 0.7)
    return f"; is {close[0]} meant?" if close else f": there are {', '.join(f for f in FUNCTIONS)}"
