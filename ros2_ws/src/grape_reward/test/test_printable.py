"""Text of others on a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.printable import one_line, shown


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb", "a\\rb"),
        ("safe \u202e } esrever", "safe \\u202e } esrever"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("half \ud800", "half \\ud800"),
        ("Küche → 桌\n\tdone", "Küche → 桌\n\tdone"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, spelled: str) -> None:
    assert shown(text) == spelled


@given(st.text(st.characters()))
def test_nothing_hidden_is_left(text: str) -> None:
    for character in shown(text):
        assert character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}
    line = one_line(text, 40)
    assert "\n" not in line and "\t" not in line and len(line) <= 40
