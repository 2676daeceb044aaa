"""The program, or the JSON object, in the prose of an answer."""

from __future__ import annotations

import json
import re
from typing import Any

from grape_reward.errors import RewardError

_FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_COUNT = re.compile(r"^num_stages[ \t]*=", re.MULTILINE)
_FUNCTION = re.compile(r"^def[ \t]+(\w+)", re.MULTILINE)
_FIRST_LINE = re.compile(r"^(#|num_stages\b|def |import |from )")


class ExtractError(RewardError):
    """An answer without the one program, or the one object, that was asked for. Said to whoever answered."""


def fenced_blocks(answer: str) -> list[str]:
    """The contents of the fenced code blocks of a Markdown text, in order; one left open reaches to the end."""
    blocks: list[str] = []
    lines: list[str] = []
    fence = ""
    for line in answer.splitlines():
        match = _FENCE.match(line)
        if not fence and match:
            fence, lines = match[1], []
        elif fence and match and match[1].startswith(fence) and not match[2].strip():
            blocks.append("\n".join(lines))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        blocks.append("\n".join(lines))
    return blocks


def program_text(answer: str) -> str:
    """The cost program in an answer, with a final newline.

    Blocks that are no part of one (a shell command, an example call) are passed over. A program that was cut into
    several blocks, as the paper prints its own, is put together again. Two different programs are not chosen between.
    Without any fence the answer is read from its first line of code on. Raises ExtractError."""
    blocks = list(dict.fromkeys(block for block in fenced_blocks(answer) if _is_code(block)))
    if not blocks:
        blocks = _unfenced(answer)
    if not blocks:
        raise ExtractError("the answer holds no program: no code block with num_stages and stage functions")
    heads = [block for block in blocks if _COUNT.search(block)]
    if len(heads) > 1:
        raise ExtractError(f"the answer holds {len(heads)} programs, each with num_stages: give exactly one")
    names = [name for block in blocks for name in _FUNCTION.findall(block)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice and len(blocks) > 1:
        raise ExtractError(f"the answer defines {twice[0]} in more than one code block: give exactly one program")
    return "\n".join(block.strip("\n") for block in blocks) + "\n"


def json_object(answer: str) -> dict[str, Any]:
    """The JSON object in an answer: in a fenced block, or bare between prose. Raises ExtractError for none, or for
    several that differ."""
    blocks = fenced_blocks(answer)
    found = [value for block in blocks if (value := _object(block)) is not None]
    if not found and (value := _object(answer)) is not None:
        found = [value]
    if not found:
        raise ExtractError("the answer holds no JSON object")
    if any(value != found[0] for value in found):
        raise ExtractError(f"the answer holds {len(found)} JSON objects: give exactly one")
    return found[0]


def _is_code(block: str) -> bool:
    return bool(_COUNT.search(block)) or any(name.startswith("stage") for name in _FUNCTION.findall(block))


def _unfenced(answer: str) -> list[str]:
    if not (_COUNT.search(answer) and _FUNCTION.search(answer)):
        return []
    lines = answer.splitlines()
    first = next(index for index, line in enumerate(lines) if _FIRST_LINE.match(line))
    return ["\n".join(lines[first:])]


def _object(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
