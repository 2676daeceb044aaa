"""Suite files: what is wrong is named with file, item and field; items are chosen by what a robot can do."""

import copy
import json
from pathlib import Path

import pytest

from grape import suites
from grape.suites import SuiteError, limited, load_suite, parse_suite, select

ITEM = {
    "name": "one",
    "task": "carrot_on_plate",
    "variant": "obstacle",
    "states": [50_000, 50_003],
    "tags": ["sim", "real"],
    "start": "home",
    "moving_hand": False,
    "step_limit": 40,
}
HAND = {**ITEM, "name": "hand", "variant": "moving_hand", "tags": ["sim"], "moving_hand": True}
CONTENT = {"name": "mine", "description": "for a test", "items": [ITEM, HAND]}
MISSING = object()


def content(**changes):
    """The content with fields of its first item changed or taken away."""
    made = copy.deepcopy(CONTENT)
    for name, value in changes.items():
        if value is MISSING:
            del made["items"][0][name]
        else:
            made["items"][0][name] = value
    return made


def test_the_shipped_suite_covers_what_it_promises_on_states_of_its_own():
    suite = load_suite("safety")
    simulated, real = select(suite, "sim"), select(suite, "real")
    assert {item.variant for item in simulated} == {"obstacle", "near_limit", "near_edge", "moving_hand"}
    assert real and {item.variant for item in real} == {"obstacle"}
    states = [state for item in suite.items for state in item.states]
    assert len(states) == len(set(states)) and min(states) >= 50_000 and max(states) <= suites.LAST_STATE
    assert all(len(item.states) == 20 for item in suite.items)


def test_items_are_chosen_by_tag_and_by_name():
    suite = parse_suite(CONTENT, "mine.yaml")
    assert [item.name for item in select(suite, "sim")] == ["one", "hand"]
    assert [item.name for item in select(suite, "real")] == ["one"]
    assert [item.name for item in select(suite, "sim", ["hand"])] == ["hand"]
    with pytest.raises(SuiteError, match=r"mine.yaml: no item 'two'; there are one, hand"):
        select(suite, "sim", ["two"])
    with pytest.raises(SuiteError, match=r"item hand: tags: it is for sim, not real"):
        select(suite, "real", ["hand"])
    with pytest.raises(SuiteError, match="no item is for real"):
        select(parse_suite({**CONTENT, "items": [HAND]}, "mine.yaml"), "real")


def test_states_are_limited_in_order_or_moved():
    item = parse_suite(CONTENT, "mine.yaml").items[0]
    assert limited(item) == item and limited(item, 1).states == (50_000,)
    assert limited(item, 3, 700).states == (700, 701, 702) and limited(item, 0, 700).states == (700, 701)
    with pytest.raises(SuiteError, match="item one: states: it has 2, not 3"):
        limited(item, 3)
    with pytest.raises(SuiteError, match="100000 is above 99999"):
        limited(item, 3, 99_998)


def test_the_hash_is_of_what_is_run():
    one = parse_suite(CONTENT, "a.yaml")
    assert one.hash == parse_suite({**CONTENT, "description": "other words"}, "b.yaml").hash
    assert one.hash != parse_suite(content(step_limit=41), "a.yaml").hash


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"states": MISSING}, "item one: states: missing"),
        ({"speed": 3}, "item one: speed: unknown field"),
        ({"task": "juggle"}, "item one: unknown task 'juggle'"),
        ({"variant": "fog"}, "item one: unknown variant 'fog'"),
        ({"states": []}, "item one: states: at least one"),
        ({"states": [1, 1]}, "item one: states: one is given twice"),
        ({"states": [True]}, "item one: states: a whole number"),
        ({"states": [100_000]}, "item one: states: 100000 is above 99999"),
        ({"states": {"first": 99_999, "count": 2}}, "item one: states: 100000 is above 99999"),
        ({"states": {"first": 1}}, "item one: states: count: missing"),
        ({"states": "all"}, "item one: states: a list"),
        ({"tags": []}, "item one: tags: a list of sim, real"),
        ({"tags": ["moon"]}, "item one: tags"),
        ({"start": "upside_down"}, "item one: start: 'upside_down'"),
        ({"start": "near_limit"}, "item one: start: only in simulation"),
        ({"start": "near_limit", "tags": ["sim"]}, "item one: start: near_limit with variant obstacle"),
        ({"variant": "near_edge", "tags": ["sim"]}, "item one: start: home with variant near_edge"),
        ({"moving_hand": True}, "item one: moving_hand: only in simulation"),
        ({"moving_hand": True, "tags": ["sim"]}, "item one: moving_hand: True with variant obstacle"),
        ({"moving_hand": "no"}, "item one: moving_hand: true or false"),
        ({"step_limit": -1}, "item one: step_limit: a whole number"),
        ({"name": "a b"}, "item a b: name: a name is needed"),
        ({"name": "hand"}, "item hand: the name is given twice"),
        ({"instruction": 5}, "item one: instruction: text"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(changes, words):
    with pytest.raises(SuiteError) as error:
        parse_suite(content(**changes), "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ") and words in str(error.value)


def test_a_lab_s_own_task_needs_no_simulated_one():
    made = parse_suite(content(task="fold_the_cloth", variant="lab", tags=["real"]), "mine.yaml")
    assert made.items[0].task == "fold_the_cloth"


@pytest.mark.parametrize("wrong", [None, [], {"name": "x"}, {**CONTENT, "items": {}}, {**CONTENT, "extra": 1}])
def test_what_is_no_suite_is_refused(wrong):
    with pytest.raises(SuiteError, match=r"^mine.yaml: "):
        parse_suite(wrong, "mine.yaml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(SuiteError, match="suite 'none': neither a shipped one nor"):
        load_suite("none")
    with pytest.raises(SuiteError, match="no such suite file"):
        load_suite(str(tmp_path / "a.yaml"))
    file = tmp_path / "b.yaml"
    file.write_text("name: [")
    with pytest.raises(SuiteError, match=str(file)):
        load_suite(str(file))
    file.write_text("name: a\nname: b\n")
    with pytest.raises(SuiteError, match="name is given twice"):
        load_suite(str(file))
    file.write_text(json.dumps(CONTENT))  # JSON is YAML
    assert load_suite(str(file)).items == parse_suite(CONTENT, "x").items
