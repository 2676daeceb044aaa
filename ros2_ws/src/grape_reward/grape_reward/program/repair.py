"""Gives a cost program back the indentation that it lost when it was copied out of a PDF or a chat."""

from __future__ import annotations

import re

from grape_reward.program.scan import newlines, tokens
from grape_reward.program.tree import Refused

_FENCE = re.compile(r"[ \t]*(```|~~~)\w*[ \t]*")


def repair(text: str) -> str | None:
    """The text without code fences, with every statement from a ``def`` to its ``return`` indented by four blanks.

    None where that changes nothing, or where the text cannot be read at all. Whether the result compiles is for the
    caller to find out."""
    text = newlines(text)
    lines = _without_fences(text.split("\n"))
    try:
        repaired = _indent(lines)
    except Refused:
        return None
    return None if repaired == text else repaired


def _without_fences(lines: list[str]) -> list[str]:
    """A fence goes, and the empty lines about it but for one."""
    kept: list[str] = []
    gap = False
    for line in lines:
        if _FENCE.fullmatch(line):
            gap = True
        elif not gap or line.strip() or (kept and kept[-1].strip()):
            kept.append(line)
            gap = gap and not line.strip()
    return kept


def _indent(lines: list[str]) -> str:
    """Every first line of a statement gets its indentation, lines within brackets at least some; strings none."""
    starts: dict[int, str] = {}
    within: dict[int, str] = {}
    seen: set[int] = set()
    fresh = True
    for token in tokens("\n".join(lines)):
        if token.kind == "newline":
            fresh = fresh or token.depth == 0
        elif token.kind not in ("space", "comment"):
            row = token.at.line - 1
            if fresh:
                starts[row] = token.text
            elif row not in seen:
                within[row] = token.kind
            seen.update(range(row, row + token.text.count("\n") + 1))
            fresh = False
    inside = False
    for row, line in enumerate(lines):
        if row in starts:
            inside = inside and starts[row] != "def"
            lines[row] = "    " * inside + line.lstrip()
            inside = starts[row] != "return" if inside else starts[row] == "def"
        elif row in within and inside and line[:1] not in (" ", "\t"):
            lines[row] = ("    " if within[row] == "close" else "        ") + line
    return "\n".join(lines)
