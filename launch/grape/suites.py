"""Suites of a safety evaluation: YAML files of named items, read, checked and selected by what a robot can do."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grape.paths import PathError, shipped
from grape_reward.yaml_file import read_yaml

TAGS = ("sim", "real")
HOME, NEAR_LIMIT = "home", "near_limit"
STARTS = (HOME, NEAR_LIMIT)
NEAR_LIMIT_VARIANTS = ("near_limit", "near_edge")
HAND_VARIANT = "moving_hand"
LAST_STATE = 99_999
"""Initial-state ids from 100,000 on are of rollouts that train."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class SuiteError(Exception):
    """A suite cannot be read, or cannot be run as asked; the text begins with the file and names the item's field."""


@dataclass(frozen=True)
class Item:
    """What is tried, and from which initial states. ``instruction``: empty for the task's own; ``tags``: where it can
    be run, of :data:`TAGS`; ``start``: of :data:`STARTS`; ``step_limit``: 0 for the task's own."""

    name: str
    task: str
    variant: str
    states: tuple[int, ...]
    tags: tuple[str, ...]
    start: str
    moving_hand: bool
    step_limit: int
    instruction: str = ""


@dataclass(frozen=True)
class Suite:
    """Named items. ``source``: the file that it was read from."""

    name: str
    description: str
    items: tuple[Item, ...]
    source: str = ""

    @property
    def hash(self) -> str:
        """sha256 hex of everything that decides what is run."""
        told = json.dumps([self.name, [asdict(item) for item in self.items]], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


def suite_file(name: str) -> Path:
    """The shipped suite of this name, or the file at this path. Raises SuiteError naming it."""
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or "/" in name:
        if not path.is_file():
            raise SuiteError(f"{path}: no such suite file")
        return path.absolute()
    try:
        return shipped("suites", f"{name}.yaml")
    except PathError:
        raise SuiteError(f"suite {name!r}: neither a shipped one nor a .yaml file") from None


def load_suite(name: str) -> Suite:
    """A shipped suite by name, or a suite file by path. Raises SuiteError naming file, item and field."""
    path = suite_file(name)
    return parse_suite(read_yaml(path, SuiteError), str(path))


def parse_suite(content: Any, source: str) -> Suite:
    """``content`` as YAML gives it; ``source`` begins the text of the errors. Raises SuiteError."""
    _keys(content, ("name", "description", "items"), (), source)
    name = _text(content["name"], f"{source}: name", _NAME)
    if not isinstance(content["items"], list) or not content["items"]:
        raise SuiteError(f"{source}: items: a list of at least one item is needed")
    items = tuple(_item(entry, f"{source}: item {number}") for number, entry in enumerate(content["items"], 1))
    names = [item.name for item in items]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise SuiteError(f"{source}: item {twice}: the name is given twice")
    return Suite(name, _text(content["description"], f"{source}: description"), items, source)


def select(suite: Suite, tag: str, names: Sequence[str] = ()) -> tuple[Item, ...]:
    """The items with these names, in the suite's order; without names all that carry ``tag``.

    Raises SuiteError naming an item that does not exist, or that cannot be run where ``tag`` says."""
    known = {item.name: item for item in suite.items}
    for name in names:
        if name not in known:
            raise SuiteError(f"{suite.source}: no item {name!r}; there are {', '.join(known)}")
        if tag not in known[name].tags:
            raise SuiteError(f"{suite.source}: item {name}: tags: it is for {', '.join(known[name].tags)}, not {tag}")
    chosen = tuple(item for item in suite.items if (item.name in names if names else tag in item.tags))
    if not chosen:
        raise SuiteError(f"{suite.source}: tags: no item is for {tag}")
    return chosen


def limited(item: Item, states: int = 0, first_state: int = 0, source: str = "") -> Item:
    """The item with ``states`` initial states (0: its own number), from ``first_state`` on (0: its own).

    Raises SuiteError naming the item where it has not so many, or where they are no evaluation's."""
    if first_state:
        own = tuple(range(first_state, first_state + (states or len(item.states))))
        if own[-1] > LAST_STATE:
            raise SuiteError(f"{source}: item {item.name}: state {own[-1]} is above {LAST_STATE}: it is of training")
    else:
        own = item.states[: states or None]
        if states > len(own):
            raise SuiteError(f"{source}: item {item.name}: states: it has {len(own)}, not {states}")
    return replace(item, states=own)


def _item(data: Any, where: str) -> Item:
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        where = f"{where.rsplit(' ', 1)[0]} {data['name']}"
    needed = ("name", "task", "variant", "states", "tags", "start", "moving_hand", "step_limit")
    _keys(data, needed, ("instruction",), where)
    tags = data["tags"]
    if not isinstance(tags, list) or not tags or any(tag not in TAGS for tag in tags) or len(set(tags)) < len(tags):
        raise SuiteError(f"{where}: tags: a list of {', '.join(TAGS)} is needed, not {tags!r}")
    if data["start"] not in STARTS:
        raise SuiteError(f"{where}: start: {data['start']!r}, expected one of {', '.join(STARTS)}")
    if not isinstance(data["moving_hand"], bool):
        raise SuiteError(f"{where}: moving_hand: true or false is needed, not {data['moving_hand']!r}")
    item = Item(
        name=_text(data["name"], f"{where}: name", _NAME),
        task=_text(data["task"], f"{where}: task"),
        variant=_text(data["variant"], f"{where}: variant"),
        states=_states(data["states"], f"{where}: states"),
        tags=tuple(tags),
        start=data["start"],
        moving_hand=data["moving_hand"],
        step_limit=_whole(data["step_limit"], f"{where}: step_limit"),
        instruction=_text(data["instruction"], f"{where}: instruction") if "instruction" in data else "",
    )
    _fits(item, where)
    return item


def _fits(item: Item, where: str) -> None:
    """Raises SuiteError where the fields contradict each other, or ask for what nobody can do."""
    # only a simulated hand may be asked into an arm's way, and a lab's homing knows one start
    for asked, what in ((item.moving_hand, "moving_hand"), (item.start == NEAR_LIMIT, "start")):
        if asked and item.tags != ("sim",):
            raise SuiteError(f"{where}: {what}: only in simulation: tags must be [sim]")
    if "sim" not in item.tags:
        return
    from grape_sim.errors import SimError
    from grape_sim.tasks import check_variant, sim_task

    try:
        sim_task(item.task), check_variant(item.variant)
    except SimError as error:
        raise SuiteError(f"{where}: {error}") from None
    if item.moving_hand != (item.variant == HAND_VARIANT):
        raise SuiteError(f"{where}: moving_hand: {item.moving_hand} with variant {item.variant}")
    if (item.start == NEAR_LIMIT) != (item.variant in NEAR_LIMIT_VARIANTS):
        raise SuiteError(f"{where}: start: {item.start} with variant {item.variant}")


def _states(data: Any, where: str) -> tuple[int, ...]:
    if isinstance(data, dict):
        _keys(data, ("first", "count"), (), where)
        first, count = _whole(data["first"], f"{where}.first"), _whole(data["count"], f"{where}.count")
        if first + count - 1 > LAST_STATE:
            raise SuiteError(f"{where}: {first + count - 1} is above {LAST_STATE}: it is of training")
        found = tuple(range(first, first + count))
    elif isinstance(data, list):
        found = tuple(_whole(one, where) for one in data)
    else:
        raise SuiteError(f"{where}: a list, or first and count, is needed, not {data!r}")
    if not found:
        raise SuiteError(f"{where}: at least one is needed")
    if len(set(found)) < len(found):
        raise SuiteError(f"{where}: one is given twice")
    if max(found) > LAST_STATE:
        raise SuiteError(f"{where}: {max(found)} is above {LAST_STATE}: it is of training")
    return found


def _keys(data: Any, needed: Sequence[str], optional: Sequence[str], where: str) -> None:
    if not isinstance(data, dict):
        raise SuiteError(f"{where}: fields {', '.join(needed)} are needed")
    for key in data:
        if key not in (*needed, *optional):
            raise SuiteError(f"{where}: {key}: unknown field")
    for key in needed:
        if key not in data:
            raise SuiteError(f"{where}: {key}: missing")


def _text(value: Any, where: str, form: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value or (form is not None and not form.fullmatch(value)):
        raise SuiteError(f"{where}: {'a name' if form else 'text'} is needed, not {value!r}")
    return value


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise SuiteError(f"{where}: a whole number from 0 on is needed, not {value!r}")
    return value
