"""Hostile cost programs: name -> (bytes of the file, words of the sentence that must refuse it).

Each is the harmless ``CONTROL`` but for what its name says, so that nothing else refuses it. A library of cases, no
test: ``test_program_hostile.py`` compiles them, ``launch/test/test_costs_cli.py`` gives them to the command."""

from __future__ import annotations

CONTROL = '''"""A harmless program."""
num_stages = 1


def stage1_target_constraint1(end_effector, keypoints):
    """Distance to the object."""
    offset = end_effector - keypoints[0]
    return np.linalg.norm(offset)
'''


def returning(expression: str) -> bytes:
    return CONTROL.replace("np.linalg.norm(offset)", expression).encode()


def with_line(line: str) -> bytes:
    """With lines of their own before the last one."""
    body = "".join(f"    {part}\n" for part in line.split("\n"))
    return CONTROL.replace("    return", body + "    return").encode()


def with_top(line: str) -> bytes:
    return (CONTROL + line + "\n").encode()


def with_header(header: str) -> bytes:
    return CONTROL.replace("def stage1_target_constraint1(end_effector, keypoints):", header).encode()


LAUGHS = "a0 = [offset, offset, offset, offset]\n" + "\n".join(
    f"a{n + 1} = [a{n}, a{n}, a{n}, a{n}, a{n}, a{n}, a{n}, a{n}]" for n in range(12)
)
NESTED_LOOPS = " ".join(f"for v{n} in range(64)" for n in range(8))

HOSTILE: dict[str, tuple[bytes, str]] = {
    # reaching out
    "import at the top": (b"import os\n" + CONTROL.encode(), "nothing can be imported"),
    "import numpy": (b"import numpy as np\n" + CONTROL.encode(), "nothing can be imported"),
    "import from": (with_top("from subprocess import run"), "nothing can be imported"),
    "import in a function": (with_line("import os"), "nothing can be imported"),
    "__import__": (returning("__import__('os').system('true')"), "only np"),
    "open": (returning("open('/etc/passwd').read()"), "only np"),
    "print": (with_line("print(offset)"), "print is not available"),
    "exec": (with_line("exec('x = 1')"), "exec is not available"),
    "eval": (returning("eval('1')"), "eval is not available"),
    "compile": (returning("compile('1', 'f', 'eval')"), "compile is not available"),
    "getattr": (returning("getattr(np, 'load')(1)"), "by their names"),
    "globals": (returning("globals()['np']"), "globals is not available"),
    "__builtins__": (returning("__builtins__"), "__builtins__ is not available"),
    "__builtins__ item": (returning("__builtins__['open']"), "__builtins__ is not available"),
    "type": (returning("type(offset)"), "type is not available"),
    "type with three arguments": (returning("type('X', (), {})()"), "by their names"),
    "super": (returning("super()"), "super is not available"),
    "breakpoint": (with_line("breakpoint()"), "breakpoint is not available"),
    "input": (returning("input()"), "input is not available"),
    # attributes
    "dunder chain": (returning("().__class__.__base__.__subclasses__()"), "no attributes"),
    "dunder of a value": (returning("offset.__class__"), "no attributes"),
    "dunder of np": (returning("np.__dict__"), "not among the functions"),
    "np.load": (returning("np.load('x.npy')"), "np.load is not among"),
    "np.core chain": (returning("np.core.multiarray.sys.modules"), "not among the functions"),
    "np.ctypeslib chain": (returning("np.ctypeslib.ctypes.CDLL(None)"), "not among the functions"),
    "np.linalg alone": (returning("np.linalg"), "not among the functions"),
    "np alone": (returning("np"), "np alone is no value"),
    "method of an array": (returning("offset.sum()"), "no attributes"),
    "tofile": (with_line("offset.tofile('/tmp/x')"), "no attributes"),
    "function as a value": (with_line("f = np.sqrt"), "is a function"),
    "function of a generator's frame": (returning("(o for o in keypoints).gi_frame.f_globals"), "no attributes"),
    "memory bomb np.ones": (returning("np.sum(np.ones((10**9,)))"), "np.ones is not among"),
    "memory bomb np.zeros": (returning("np.sum(np.zeros(-1))"), "np.zeros is not among"),
    "memory bomb np.arange": (returning("np.sum(np.arange(10**12))"), "np.arange is not among"),
    "memory bomb np.tile": (returning("np.sum(np.tile(offset, 10**9))"), "np.tile is not among"),
    "np.vectorize": (returning("np.vectorize(max)(offset)"), "by their names"),
    # bombs
    "tower of powers": (returning("10**10**10"), "exponent"),
    "large power": (returning("2.0 ** 1000000"), "exponent"),
    "power of a position": (returning("2.0 ** end_effector[0]"), "exponent"),
    "np.power of a position": (returning("np.power(2.0, end_effector[0])"), "exponent"),
    "huge whole number": (returning("9" * 30), "whole numbers go up to"),
    "very long number": (returning("9" * 1500), "a number has at most"),
    "huge float": (returning("1e999"), "too large"),
    "shifted number": (returning("1 << 10000000"), "on bits"),
    "repeated list": (returning("sum([1.0] * 10**9)"), "a list cannot be calculated with"),
    "repeated string": (returning("len('x' * 10**9)"), "strings have no use"),
    "range bomb": (returning("sum(i for i in range(10**9))"), "range takes constants"),
    "nested comprehensions": (returning(f"sum(1 {NESTED_LOOPS})"), "more than"),
    "comprehension in a comprehension": (
        returning("sum(sum(sum(sum(1 for d in range(64)) for c in range(64)) for b in range(64)) for a in range(64))"),
        "unroll to more than",
    ),
    "billion laughs": (with_line(LAUGHS + "\nb = np.array(a12)"), "too large"),
    "outer product bomb": (
        returning(
            "np.sum([[[[[a * b * c * d for a in offset] for b in offset] * 9] for c in offset] for d in offset])"
        ),
        "a list cannot be calculated with",
    ),
    "large array": (
        returning("np.sum([[[o + p + q for o in range(11)] for p in range(11)] for q in range(11)])"),
        "too large",
    ),
    "more than 256 nodes": (with_line("\n".join(f"x{n} = end_effector[0] * 2.0" for n in range(60))), "more than 256"),
    "deep expression": (returning("abs(" * 17 + "1.0" + ")" * 17), "nested more than 16"),
    "deep brackets": (returning("(" * 200 + "1.0" + ")" * 200), "brackets are nested"),
    "deep lists": (returning("[" * 60 + "]" * 60), "brackets are nested"),
    "deep brackets that never close": (with_line("x = " + "([{" * 600), "brackets are nested"),
    "many minus signs": (returning("- " * 900 + "1.0"), "nested more than 16"),
    "many nots": (returning("not " * 400 + "1.0"), "nested more than 16"),
    "many conditions": (returning("1.0 if offset[0] > 0 else " * 60 + "2.0"), "nested more than 16"),
    "many attributes": (returning("np" + ".core" * 300), "not among the functions"),
    "many calls": (returning("abs" + "(1.0)" * 300), "by their names"),
    "very many tokens": (with_line("x = (" + "1.0 +\n" * 1000 + "1.0)"), "far too long"),
    "very long line": (with_line("# " + "x" * 5000), "a line has at most"),
    "very long file": (CONTROL.encode() + b"# filler\n" * 20_000, "at most 65536 bytes"),
    "very long name": (with_line("x" * 500 + " = 1.0"), "a name has at most"),
    "many functions": (
        CONTROL.encode()
        + b"".join(
            f"def stage1_path_constraint{n}(end_effector, keypoints):\n    return 1.0\n".encode() for n in range(1, 80)
        ),
        "at most 64 constraints",
    ),
    "stages without end": (CONTROL.replace("num_stages = 1", "num_stages = 10**9").encode(), "num_stages must be"),
    # what Python has and a cost has not
    "for loop": (with_line("for o in keypoints:\n    offset = o"), "loops are not understood"),
    "while loop": (with_line("while True:\n    offset = offset"), "loops are not understood"),
    "if statement": (with_line("if offset[0] > 0:\n    offset = offset"), "`if` statements"),
    "early return": (with_line("if offset[0] > 0:\n    return 1.0"), "`if` statements"),
    "nested function": (with_line("def f(x):\n    return x"), "a function within a function"),
    "lambda": (returning("(lambda x: x)(1.0)"), "by their names"),
    "lambda kept": (with_line("f = lambda x: x"), "a function within a function"),
    "class": (with_top("class A:\n    x = 1"), "classes are not understood"),
    "async function": (with_top("async def f():\n    return 1"), "async"),
    "yield": (with_line("x = yield 1"), "yield"),
    "await": (CONTROL.replace("def ", "async def ").replace("offset)", "await offset)").encode(), "async"),
    "try": (with_line("try:\n    x = 1\nexcept Exception:\n    x = 2"), "`try` is not understood"),
    "with": (with_line("with open('x') as f:\n    x = 1"), "`with` is not understood"),
    "global": (with_line("global np"), "`global`"),
    "del": (with_line("del offset"), "`del` is not understood"),
    "assert": (with_line("assert offset[0] > 0"), "`assert` is not understood"),
    "raise": (with_line("raise SystemExit"), "`raise` is not understood"),
    "walrus": (returning("(x := 1.0)"), "`:=` is not understood"),
    "f-string": (returning("len(f'{offset}')"), "strings have no use"),
    "string formatting": (returning("len('%1000000000d' % 1)"), "strings have no use"),
    "format attack": (returning("'{0.__class__}'.format(offset)"), "no attributes"),
    "bytes": (returning("len(b'x')"), "strings have no use"),
    "star argument": (returning("max(*offset)"), "`*` in front of a value"),
    "star assignment": (with_line("a, *b = offset"), "plain local variable"),
    "double star argument": (returning("max(**offset)"), "** arguments"),
    "dictionary": (returning("{1: 2}[1]"), "dictionaries are not understood"),
    "set": (returning("len({1, 2})"), "sets are not understood"),
    "decorator": (CONTROL.replace("def ", "@print\ndef ").encode(), "decorators"),
    "default argument": (
        with_header("def stage1_target_constraint1(end_effector, keypoints=[o for o in range(10**9)]):"),
        "without defaults",
    ),
    "star parameters": (with_header("def stage1_target_constraint1(*end_effector, **keypoints):"), "exactly"),
    "annotation": (
        with_header("def stage1_target_constraint1(end_effector: print(1), keypoints) -> exec('1'):"),
        "type annotations",
    ),
    "item assignment": (with_line("keypoints[0] = offset"), "plain local variable"),
    "attribute assignment": (with_line("np.linalg.norm = max"), "is a function"),
    "change in place": (with_line("offset += 1.0"), "in place"),
    "recursion": (returning("stage1_target_constraint1(end_effector, keypoints)"), "cannot call a constraint"),
    "statement at the left margin": (with_top("x = [0] * 10**9"), "left margin"),
    "call at the left margin": (with_top("stage1_target_constraint1(1, 2)"), "left margin"),
    # names
    "np rebound": (with_line("np = offset"), "np already means something"),
    "max rebound": (with_line("max = offset"), "max already means something"),
    "sum rebound by a loop": (returning("min(1.0 for sum in keypoints)"), "sum already means something"),
    "parameter rebound": (with_line("keypoints = offset"), "keypoints already means something"),
    "function rebound": (with_line("stage1_target_constraint1 = 1.0"), "already means something"),
    "function defined twice": ((CONTROL + CONTROL.partition("num_stages = 1")[2]).encode(), "a second time"),
    "np as a function's name": (CONTROL.replace("stage1_target_constraint1", "np").encode(), "np is not named"),
    "unknown name": (returning("ofset[0]"), "is offset meant"),
    "variable of a loop outside of it": (returning("sum(o[0] for o in keypoints) + o[0]"), "o has no value here"),
    # the text itself
    "byte-order mark": (b"\xef\xbb\xbf" + CONTROL.encode(), "byte-order mark"),
    "null byte": (CONTROL.encode() + b"\x00", "invisible character"),
    "null byte in a comment": (CONTROL.encode() + b"# \x00", "invisible character"),
    "UTF-16": (CONTROL.encode("utf-16"), "not UTF-8"),
    "Latin-1": ("# caf\u00e9\n".encode("latin-1") + CONTROL.encode(), "not UTF-8"),
    "UTF-7 cookie": (b"# -*- coding: utf-7 -*-\n+AGkAbQBwAG8AcgB0 os\n" + CONTROL.encode(), "not Python"),
    "escape sequence": (with_line("# \x1b[2J"), "invisible character"),
    "carriage return in a comment": (with_line("# harmless\rimport os"), "not Python"),
    "text that runs backwards": (with_line("# \u202e harmless"), "invisible character"),
    "zero-width name": (with_line("of\u200bfset = 1.0"), "invisible character"),
    "line separator": (with_line("# one\u2028import os"), "invisible character"),
    "full-width np": (returning("\uff4e\uff50.linalg.norm(offset)"), "plain ASCII only"),
    "mathematical letters": (returning("\U0001d526\U0001d52b\U0001d531(1.0)"), "plain ASCII only"),
    "Cyrillic letter": (returning("m\u0430x(1.0, 2.0)"), "plain ASCII only"),
    "curly quotes": (CONTROL.replace('"""Distance', "\u201cDistance").encode(), "plain ASCII only"),
    "string that does not end": (CONTROL.encode() + b'"""', "does not end"),
    "not Python": (returning("offset ="), "not Python"),
    "nothing": (b"", "num_stages is missing"),
    "binary": (bytes(range(256)) * 20, "not UTF-8"),
    # shapes, indices
    "array result": (returning("offset"), "an array of shape (3,)"),
    "list result": (returning("[1.0, 2.0]"), "a list of 2"),
    "generator result": (returning("(1.0 for o in keypoints)"), "a list of"),
    "bool result": (returning("offset[0] > 0"), "true or false"),
    "None result": (CONTROL.replace("return np.linalg.norm(offset)", "return").encode(), "must end in `return`"),
    "no result": (CONTROL.replace("return np.linalg.norm(offset)", "x = 1.0").encode(), "must end in `return`"),
    "None": (returning("None"), "not a real number"),
    "ellipsis": (returning("offset[...]"), "not a real number"),
    "complex number": (returning("abs(1j)"), "not a real number"),
    "keypoint out of range": (returning("keypoints[64][0]"), "does not exist"),
    "negative keypoint out of range": (returning("keypoints[-65][0]"), "indices go up to"),
    "index that depends on the data": (returning("keypoints[int(end_effector[0])][0]"), "known beforehand"),
    "boolean index": (returning("np.sum(offset[offset > 0])"), "known beforehand"),
    "no index": (returning("np.sum(keypoints[()])"), "the index is missing"),
    "fractional index": (returning("offset[0.5]"), "known beforehand"),
    "huge index": (returning("keypoints[10 ** 8 * 10 ** 8]"), "indices go up to"),
    "slice with a huge step": (returning("np.sum(keypoints[:: 10 ** 9])"), "indices go up to"),
    "slice with step zero": (returning("np.sum(keypoints[::0])"), "cannot be zero"),
    "new axes": (returning("np.sum(offset[None, None, None])"), "not a real number"),
    "shapes that do not fit": (returning("np.sum(offset + end_effector[:2])"), "do not fit together"),
    "matrix product": (returning("np.sum(np.dot(keypoints, keypoints))"), "not understood"),
    "axis out of range": (returning("np.sum(keypoints, axis=7)[0]"), "axis must be"),
    "ragged list": (returning("np.sum(np.array([[1.0], [1.0, 2.0]]))"), "differ in shape"),
    "min of nothing": (returning("min(o[0] for o in keypoints[60:10])"), "nothing to choose from"),
    "truth of an array": (returning("1.0 if offset > 0 else 0.0"), "np.all"),
    "arithmetic with truths": (returning("(offset[0] > 0) + (offset[1] > 0)"), "true and false"),
    # numbers that are none
    "division by zero": (returning("1 / 0"), "division by zero"),
    "hidden division by zero": (returning("end_effector[0] / (3 - 1 - 2)"), "division by zero"),
    "zero over zero for ever": (returning("offset[0] / (offset[0] - offset[0])"), "not a finite number"),
    "root of a negative number": (returning("(-8) ** 0.5"), "never a finite real number"),
    "root that is never real": (returning("np.sqrt(-1.0 - offset[0] ** 2)"), "not a finite number"),
    "logarithm of nothing": (returning("np.log(0)"), "never a finite real number"),
    "overflow": (returning("1e308 * 10"), "never a finite real number"),
    "overflow in the data": (returning("np.exp(1e6 + offset[0] ** 2)"), "not a finite number"),
    "np.inf": (returning("np.inf"), "np.inf is not among"),
    "np.nan": (returning("np.nan"), "np.nan is not among"),
    "float of a string": (returning("float('inf')"), "strings have no use"),
    "whole number of what is none": (returning("int(offset[0] / (offset[0] - offset[0]))"), "not a finite number"),
    # stages
    "no num_stages": (CONTROL.replace("num_stages = 1", "").encode(), "num_stages is missing"),
    "num_stages twice": (with_top("num_stages = 1"), "a second time"),
    "num_stages true": (CONTROL.replace("num_stages = 1", "num_stages = True").encode(), "num_stages must be"),
    "stage missing": (CONTROL.replace("num_stages = 1", "num_stages = 2").encode(), "stage 2 has no constraint"),
    "stage beyond": (CONTROL.replace("stage1_", "stage2_").encode(), "belongs to no stage"),
    "stage zero": (CONTROL.replace("stage1_", "stage0_").encode(), "is not named"),
    "unknown kind": (CONTROL.replace("_target_", "_speed_").encode(), "is not named"),
    "other parameters": (with_header("def stage1_target_constraint1(tcp):"), "must take exactly"),
}
