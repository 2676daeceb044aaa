"""The text of a cost program before it is parsed: what would hurt the parser, or deceive a reader, is refused here.

Python's parser may use memory and time out of proportion to a hostile text; so lengths, nesting and numbers of tokens
are limited first, in one linear pass of our own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from grape_reward.program.tree import At, Refused

MAX_BYTES = 65_536
MAX_LINE = 2_000
MAX_STATEMENT_TOKENS = 1_500
MAX_NESTING = 32
MAX_NUMBER = 32
MAX_NAME = 64

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\\\n)|(?P<comment>\#[^\n]*)|(?P<newline>\n)
    |(?P<string>[A-Za-z]{0,2}(?P<quote>\"\"\"|'''|"|'))|(?P<number>\.?[0-9][0-9A-Za-z_.]*)
    |(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<other>.)""",
    re.VERBOSE,
)
_ENDS = {
    quote: re.compile(rf"(?:[^\\{'' if len(quote) == 3 else chr(10)}]|\\.)*?{quote}", re.DOTALL)
    for quote in ('"""', "'''", '"', "'")
}


@dataclass(frozen=True)
class Token:
    """``kind``: a group of the token pattern. ``depth``: brackets open before it."""

    kind: str
    text: str
    at: At
    depth: int


def decode(data: bytes) -> str:
    """The text of a file. Raises Refused for what is too long or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise Refused(At(1, 1), f"a cost program has at most {MAX_BYTES} bytes, this one has {len(data)}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(At(line, 1), "the file is not UTF-8 text: save it as UTF-8") from None


def guard(text: str) -> str:
    """The text with its line ends as newlines, once it is known to be harmless to the parser. Raises Refused."""
    text = newlines(text)
    if len(text) > MAX_BYTES:
        raise Refused(At(1, 1), f"a cost program has at most {MAX_BYTES} characters, this one has {len(text)}")
    _check_characters(text)
    count = 0
    for token in tokens(text):
        if token.text == "`":
            raise Refused(token.at, "a code fence: delete this line, or take the repair of `grape costs check`")
        if token.kind == "newline" and token.depth == 0:
            count = 0
            continue
        count += token.kind not in ("space", "comment", "newline")
        if count > MAX_STATEMENT_TOKENS:
            raise Refused(token.at, "this statement is far too long: split it over several local variables")
        if token.kind == "number" and len(token.text) > MAX_NUMBER:
            raise Refused(token.at, f"a number has at most {MAX_NUMBER} characters")
        if token.kind == "name" and len(token.text) > MAX_NAME:
            raise Refused(token.at, f"a name has at most {MAX_NAME} characters")
        if token.kind == "open" and token.depth >= MAX_NESTING:
            raise Refused(token.at, f"brackets are nested more than {MAX_NESTING} deep")
        if token.kind == "other" and not token.text.isascii():
            name = unicodedata.name(token.text, "a special character")
            raise Refused(token.at, f"{name} (U+{ord(token.text):04X}) in the code: plain ASCII only, outside comments")
    return text


def newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, roughly as Python's: enough to find strings, brackets, statements. Raises Refused for a
    string that does not end."""
    position, line, start, depth = 0, 1, 0, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None and match.lastgroup is not None
        kind, end = match.lastgroup, match.end()
        at = At(line, position - start + 1)
        if match["string"] is not None:
            kind = "string"
            closing = _ENDS[match["quote"]].match(text, end)
            if closing is None:
                raise Refused(at, "this string does not end")
            end = closing.end()
        if kind == "close":
            depth = max(0, depth - 1)
        yield Token(kind, text[position:end], at, depth)
        if kind == "open":
            depth += 1
        breaks = text.count("\n", position, end)
        if breaks:
            line += breaks
            start = text.rindex("\n", position, end) + 1
        position = end


def _check_characters(text: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE:
            raise Refused(At(number, MAX_LINE + 1), f"a line has at most {MAX_LINE} characters")
        if line.isascii() and line.isprintable():
            continue
        for column, character in enumerate(line, start=1):
            if character != "\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
                message = f"an invisible character (U+{ord(character):04X}): delete it"
                if character == "\ufeff" and (number, column) == (1, 1):
                    message = "the text begins with a byte-order mark: save it as UTF-8 without one"
                raise Refused(At(number, column), message)
