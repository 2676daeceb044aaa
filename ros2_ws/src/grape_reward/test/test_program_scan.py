"""Text before it is parsed."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.program.scan import MAX_BYTES, MAX_LINE, MAX_NESTING, decode, guard, tokens
from grape_reward.program.tree import Refused


@given(st.text())
def test_any_text_is_read_or_refused_at_a_place(text: str) -> None:
    try:
        guard(text)
    except Refused as refused:
        assert refused.at.line >= 1 and refused.at.column >= 1 and refused.message.isprintable()


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert decode(data).encode() == data
    except Refused as refused:
        assert "not UTF-8" in refused.message


@given(st.text("ab1.\"'#\n\\()[]{} =-+", max_size=60))
def test_the_tokens_are_the_text_again(text: str) -> None:
    try:
        assert "".join(token.text for token in tokens(text)) == text
    except Refused as refused:
        assert "does not end" in refused.message


def test_places_depths_and_kinds() -> None:
    found = [
        (t.kind, t.text, t.at.line, t.at.column, t.depth)
        for t in tokens('x = """a\nb""" + f(1.5)  # c\n')
        if t.text != " "
    ]
    assert found == [
        ("name", "x", 1, 1, 0),
        ("other", "=", 1, 3, 0),
        ("string", '"""a\nb"""', 1, 5, 0),
        ("other", "+", 2, 6, 0),
        ("name", "f", 2, 8, 0),
        ("open", "(", 2, 9, 0),
        ("number", "1.5", 2, 10, 1),
        ("close", ")", 2, 13, 0),
        ("space", "  ", 2, 14, 0),
        ("comment", "# c", 2, 16, 0),
        ("newline", "\n", 2, 19, 0),
    ]


def test_brackets_and_hashes_in_strings_and_comments_count_for_nothing() -> None:
    text = f'"""{"(" * 100} # \'"""\nx = 1  # {"[" * 100} "\ny = "#("\n'
    assert guard(text) == text


def test_the_limits_are_where_they_say() -> None:
    good = "(" * MAX_NESTING + ")" * MAX_NESTING
    assert guard(good) == good
    with pytest.raises(Refused, match="nested"):
        guard(f"({good})")
    assert guard("#" * MAX_LINE)
    with pytest.raises(Refused, match="a line has at most"):
        guard("#" * (MAX_LINE + 1))
    assert decode(b"\n" * MAX_BYTES)
    with pytest.raises(Refused, match="bytes"):
        decode(b"\n" * (MAX_BYTES + 1))


def test_line_ends_of_other_systems_are_newlines() -> None:
    assert guard("a = 1\r\nb = 2\rc = 3\n") == "a = 1\nb = 2\nc = 3\n"


def test_letters_of_other_alphabets_may_stand_in_comments_and_strings_only() -> None:
    text = "# café, 杯\nx = '杯'\n"
    assert guard(text) == text
    with pytest.raises(Refused, match="LATIN SMALL LETTER E WITH ACUTE") as caught:
        guard("x = 1\ncafé = 2\n")
    assert (caught.value.at.line, caught.value.at.column) == (2, 4)


@pytest.mark.parametrize("text", ['"' * 60_000, "'''" + "\\" * 60_000, "\\\n" * 30_000, "a.b" * 500, "'\\" * 900])
def test_the_pass_is_linear(text: str) -> None:
    start = time.perf_counter()
    with contextlib.suppress(Refused):
        guard(text)
    assert time.perf_counter() - start < 1.0
