"""What a cost program may not contain, each with a sentence for its author."""

from __future__ import annotations

import ast
import builtins

_LOOP = (
    "loops are not understood: write a comprehension, "
    "e.g. sum(max(0, 0.1 - np.linalg.norm(end_effector - o)) for o in keypoints[2:])"
)
_FUNCTION = "a function within a function is not understood: write its value into a local variable"
_IMPORT = "nothing can be imported: np is already there, delete this line"
_ASYNC = "`async`, `await` and `yield` are not understood: a constraint just returns a number"
_NAMES = "`global` and `nonlocal` are not understood: use local variables"
_TRY = "`try` is not understood: nothing here can raise, a cost that is no number is reported"

SENTENCES: dict[type[ast.AST], str] = {
    ast.Import: _IMPORT,
    ast.ImportFrom: _IMPORT,
    ast.For: _LOOP,
    ast.AsyncFor: _LOOP,
    ast.While: _LOOP,
    ast.FunctionDef: _FUNCTION,
    ast.AsyncFunctionDef: _ASYNC,
    ast.Lambda: _FUNCTION,
    ast.ClassDef: "classes are not understood: a program has functions only",
    ast.If: "`if` statements are not understood: write one value, a if test else b",
    ast.Match: "`match` is not understood: write one value, a if test else b",
    ast.Try: _TRY,
    ast.TryStar: _TRY,
    ast.With: "`with` is not understood: a constraint opens nothing",
    ast.AsyncWith: _ASYNC,
    ast.Raise: "`raise` is not understood: return a number",
    ast.Assert: "`assert` is not understood: return a number",
    ast.Delete: "`del` is not understood",
    ast.Global: _NAMES,
    ast.Nonlocal: _NAMES,
    ast.Pass: "`pass` does nothing: delete it, and return a number",
    ast.Break: _LOOP,
    ast.Continue: _LOOP,
    ast.AnnAssign: "leave out the type annotation",
    ast.Return: "`return` outside a function: has the text lost its indentation? `grape costs check` suggests a repair",
    ast.Yield: _ASYNC,
    ast.YieldFrom: _ASYNC,
    ast.Await: _ASYNC,
    ast.NamedExpr: "`:=` is not understood: assign on a line of its own",
    ast.JoinedStr: "strings have no use in a cost",
    ast.Starred: "`*` in front of a value is not understood: write the values out",
    ast.Dict: "dictionaries are not understood: use local variables",
    ast.Set: "sets are not understood: use a list",
    ast.DictComp: "dictionaries are not understood: use a list comprehension",
    ast.SetComp: "sets are not understood: use a list comprehension",
    ast.UnaryOp: "operators on bits (& | ^ << >> ~) are not understood: use and, or, not",
}

_NOUNS = frozenset({"object", "bin", "id", "dir", "slice", "filter", "input", "map", "set"})

PYTHON_BUILTINS = frozenset(dir(builtins)) - _NOUNS
"""Names that mean something to a reader of Python, and so may not mean anything else; everyday nouns are free."""
