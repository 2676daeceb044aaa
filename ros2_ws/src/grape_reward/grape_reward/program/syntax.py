"""From text to the constraints of a program: what may stand at the left margin, and how constraints are declared."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable

from grape_reward.errors import Finding, ProgramError
from grape_reward.program.body import KINDS, PARAMETERS, TERM_NAME, Body, is_docstring, place
from grape_reward.program.refusals import SENTENCES
from grape_reward.program.scan import guard
from grape_reward.program.tree import At, Function, Refused

MAX_STAGES = 16
MAX_FUNCTIONS = 64
_FORM = f"stageN_{{{','.join(KINDS)}}}_constraintM"


def read(text: str, where: str) -> tuple[int, tuple[Function, ...]]:
    """``num_stages`` and the functions of a program, ordered by stage, kind and number.

    Raises ProgramError with one finding for each function or statement that is refused."""
    try:
        module = _parse(guard(text))
    except Refused as refused:
        raise ProgramError(where, (_finding(refused),)) from None
    reader = _Module(module)
    if reader.findings:
        raise ProgramError(where, tuple(sorted(reader.findings, key=lambda f: (f.line, f.column))))
    return reader.stages, reader.ordered()


def _parse(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in docstrings; nothing of the text may reach the terminal
            return ast.parse(text)
    except SyntaxError as error:
        at = At(error.lineno or 1, max(1, error.offset or 1))
        hint = ""
        if isinstance(error, IndentationError):
            hint = " (has the text lost its indentation? `grape costs check` suggests a repair)"
        raise Refused(at, f"this is not Python: {error.msg}{hint}") from None
    except (ValueError, MemoryError, RecursionError, OverflowError):
        raise Refused(At(1, 1), "this is nested too deeply or too large to be read") from None


def _finding(refused: Refused) -> Finding:
    return Finding(refused.at.line, refused.at.column, refused.message)


class _Module:
    """What stands at the left margin: a docstring, ``num_stages`` and the constraints."""

    def __init__(self, module: ast.Module) -> None:
        self.findings: list[Finding] = []
        self.stages = 0
        self._functions: dict[str, Function] = {}
        self._names: dict[str, ast.FunctionDef] = {}
        for index, statement in enumerate(module.body):
            if index or not is_docstring(statement):
                self._keep(self._statement, statement)
        self._keep(self._check_stages, module)

    def ordered(self) -> tuple[Function, ...]:
        return tuple(sorted(self._functions.values(), key=lambda f: (f.stage, KINDS.index(f.kind), f.number)))

    def _keep(self, step: Callable[..., None], node: ast.AST) -> None:
        try:
            step(node)
        except Refused as refused:
            self.findings.append(_finding(refused))

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef):
            if node.name in self._names:
                raise Refused(place(node), f"{node.name} is defined a second time")
            self._names[node.name] = node
            if len(self._names) > MAX_FUNCTIONS:
                raise Refused(place(node), f"a program has at most {MAX_FUNCTIONS} constraints")
            self._functions[node.name] = _function(node)
        elif isinstance(node, ast.Assign) and ast.dump(node.targets[0]) == ast.dump(
            ast.Name("num_stages", ast.Store())
        ):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if len(node.targets) != 1 or type(value) is not int or not 1 <= value <= MAX_STAGES:
                raise Refused(place(node), f"num_stages must be a whole number from 1 to {MAX_STAGES}")
            if self.stages:
                raise Refused(place(node), "num_stages is given a second time")
            self.stages = value
        elif type(node) in SENTENCES:
            raise Refused(place(node), SENTENCES[type(node)])
        else:
            raise Refused(place(node), "only num_stages = N and the constraint functions may stand at the left margin")

    def _check_stages(self, module: ast.Module) -> None:
        if not self.stages:
            if not any(f.message.startswith("num_stages") for f in self.findings):
                raise Refused(At(1, 1), "num_stages is missing: say how many stages there are, e.g. num_stages = 3")
            return
        seen = {}
        for name, node in self._names.items():
            match = TERM_NAME.fullmatch(name)
            if match is not None:
                seen[int(match[1])] = node
        beyond = [node for stage, node in seen.items() if stage > self.stages]
        if beyond:
            raise Refused(place(beyond[0]), f"{beyond[0].name} belongs to no stage: num_stages is {self.stages}")
        empty = [stage for stage in range(1, self.stages + 1) if stage not in seen]
        if empty:
            message = f"stage {empty[0]} has no constraint, though num_stages is {self.stages}"
            raise Refused(At(module.body[-1].end_lineno or 1, 1), message)


def _function(node: ast.FunctionDef) -> Function:
    match = TERM_NAME.fullmatch(node.name)
    if match is None:
        raise Refused(place(node), f"{node.name} is not named {_FORM}, N and M from 1")
    arguments = node.args
    plain = not (arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg)
    if not plain or arguments.defaults or [a.arg for a in arguments.args] != PARAMETERS:
        raise Refused(place(node), f"{node.name} must take exactly (end_effector, keypoints), without defaults")
    if node.returns is not None or any(a.annotation is not None for a in arguments.args):
        raise Refused(place(node), "leave out the type annotations")
    if node.decorator_list:
        raise Refused(place(node.decorator_list[0]), "a constraint has no decorators")
    if getattr(node, "type_params", None):
        raise Refused(place(node), "a constraint has no type parameters")
    body = node.body[1:] if is_docstring(node.body[0]) else node.body
    if not body or not isinstance(body[-1], ast.Return) or body[-1].value is None:
        for statement in body:
            if not isinstance(statement, (ast.Assign, ast.AugAssign, ast.Return)):
                Body(node.name).statement(statement)
        raise Refused(place(body[-1] if body else node), f"{node.name} must end in `return` with its cost")
    reader = Body(node.name)
    assigns = tuple(assign for statement in body[:-1] for assign in reader.statement(statement))
    result = reader.expression(body[-1].value)
    return Function(node.name, int(match[1]), match[2], int(match[3]), assigns, result, place(node), _summary(node))


def _summary(node: ast.FunctionDef) -> str:
    """The first line of its docstring, without what could play tricks on a terminal."""
    line = next(iter((ast.get_docstring(node) or "").splitlines()), "")
    return "".join(character for character in line if character.isprintable())
