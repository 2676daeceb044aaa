"""Text of others, made fit for a terminal: nothing in it may move the cursor, hide a line or reverse its reading."""

from __future__ import annotations

import unicodedata

# Cc: control characters (escape sequences begin with one). Cf: bidirectional marks, zero-width characters.
# Zl, Zp: line separators that an editor shows as a line break and a parser does not. Cs, Co: not characters at all.
_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}


def shown(text: str) -> str:
    """``text`` with every character that a terminal would obey or hide spelled as its escape; line breaks and tabs
    stay."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _HIDDEN
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def one_line(text: str, limit: int = 300) -> str:
    """``text`` in one line that is fit for a terminal, at most ``limit`` characters long."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."
