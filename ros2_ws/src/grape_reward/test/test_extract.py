"""Programs and JSON objects in the prose of answers."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.extract import ExtractError, fenced_blocks, json_object, program_text

PROGRAM = '''# put the carrot on the plate
num_stages = 1

### stage 1: grasp
def stage1_target_constraint1(end_effector, keypoints):
    """Reach the carrot."""
    return np.linalg.norm(end_effector - keypoints[0])
'''
HEAD, _, BODY = PROGRAM.partition("\n### stage 1")
BODY = "### stage 1" + BODY


def fenced(text: str, info: str = "python", mark: str = "```") -> str:
    return f"{mark}{info}\n{text}{mark}\n"


@pytest.mark.parametrize(
    "answer",
    [
        fenced(PROGRAM),
        fenced(PROGRAM, info=""),
        fenced(PROGRAM, mark="~~~"),
        fenced(PROGRAM, mark="````"),
        fenced(PROGRAM).replace("\n", "\r\n"),
        f"Sure! Here is the program:\n\n{fenced(PROGRAM)}\nIt rewards `reaching`. Run it with:\n{fenced('ls', 'bash')}",
        f"{fenced(PROGRAM)}\nOnce more:\n{fenced(PROGRAM)}",
        fenced(PROGRAM).removesuffix("```\n"),
        PROGRAM,
        f"Here it is.\n{PROGRAM}",
    ],
    ids=["fence", "bare", "tildes", "four", "crlf", "prose", "twice", "open", "no fence", "prose, no fence"],
)
def test_one_program_is_found_whatever_is_around_it(answer: str) -> None:
    assert program_text(answer) == PROGRAM


def test_a_program_in_pieces_is_put_together_in_its_order() -> None:
    assert program_text(f"First:\n{fenced(HEAD)}\nthen\n{fenced(BODY)}") == f"{HEAD.strip()}\n{BODY}"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("I am sorry, I cannot help with that.", "no program"),
        ("", "no program"),
        (fenced("print('hello')"), "no program"),
        (f"{fenced(PROGRAM)}or better\n{fenced(PROGRAM.replace('[0]', '[1]'))}", "2 programs"),
        (f"{fenced(PROGRAM)}and\n{fenced(BODY.replace('[0]', '[1]'))}", "stage1_target_constraint1 in more than one"),
    ],
    ids=["refusal", "nothing", "other code", "two programs", "function twice"],
)
def test_none_or_several_are_not_guessed_at(answer: str, words: str) -> None:
    with pytest.raises(ExtractError, match=words):
        program_text(answer)


def test_a_json_object_is_found_in_a_fence_and_in_prose() -> None:
    value = {"a": [1, {"b": "}"}]}
    text = json.dumps(value)
    assert json_object(f"Here:\n```json\n{text}\n```\nDone {{sic}}.") == value
    assert json_object(f"The answer is {text}, I think.") == value
    assert json_object(f"```json\n{text}\n```\n```json\n{text}\n```") == value


@pytest.mark.parametrize(
    "answer",
    ["", "none", "[1]", "{", "```json\n{'a': 1}\n```", "{" * 100_000],
    ids=["nothing", "word", "list", "open", "Python", "nested"],
)
def test_what_holds_no_json_object_is_refused(answer: str) -> None:
    with pytest.raises(ExtractError, match="no JSON object"):
        json_object(answer)


def test_two_different_objects_are_not_chosen_between() -> None:
    with pytest.raises(ExtractError, match="2 JSON objects"):
        json_object('```\n{"a": 1}\n```\n```\n{"a": 2}\n```')


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="`~\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))))
def test_every_block_comes_back_as_it_was(blocks: list[str]) -> None:
    answer = "\n".join(f"prose\n```python\n{block}\n```" for block in blocks)
    assert fenced_blocks(answer) == blocks


@given(st.text())
def test_any_answer_is_read_or_refused(answer: str) -> None:
    for read in (program_text, json_object):
        with contextlib.suppress(ExtractError):
            read(answer)
