"""Stored initial states: what was stored comes back; whatever is damaged or wrong is named."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_robot.state_library import INDEX, StateError, StateLibrary

WHEN = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def picture(seed: int = 0, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def library(tmp_path: Path) -> StateLibrary:
    return StateLibrary(tmp_path / "states")


KEYS = st.lists(
    st.tuples(st.sampled_from(["carrot", "spoon"]), st.sampled_from(["clean", "dim-1"]), st.integers(0, 2**32 - 1)),
    unique=True,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(KEYS)
def test_what_was_stored_comes_back(tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[str, str, int]]) -> None:
    root = tmp_path_factory.mktemp("library") / "states"
    for number, key in enumerate(keys):
        StateLibrary(root).store(*key, picture(number), f"bag {number}", when=WHEN)
    library = StateLibrary(root)
    assert library.tasks() == sorted({task for task, _, _ in keys})
    for number, key in enumerate(keys):
        state = library.find(*key)
        assert state is not None and (state.task, state.variant, state.initial_state) == key
        assert np.array_equal(library.image(state), picture(number))
        assert (state.width, state.height, state.source) == (8, 6, f"bag {number}")
        assert state.captured == "2026-11-20T12:00:00Z"
    for task in library.tasks():
        found = [(state.variant, state.initial_state) for state in library.states(task)]
        assert found == sorted((variant, number) for name, variant, number in keys if name == task)
        files = {path.name for path in (root / task).glob("*.png")}
        assert files == {state.file for state in library.states(task)}


def test_a_state_is_replaced_only_on_purpose(library: StateLibrary) -> None:
    first = library.store("carrot", "clean", 7, picture(1), "live")
    with pytest.raises(StateError, match=r"carrot 7 \(clean\) is stored already"):
        library.store("carrot", "clean", 7, picture(2), "live")
    assert np.array_equal(library.image(first), picture(1))
    second = library.store("carrot", "clean", 7, picture(2), "live", replace=True)
    assert library.states("carrot") == (second,)
    assert np.array_equal(library.image(second), picture(2))
    assert [path.name for path in (library.root / "carrot").glob("*.png")] == [second.file]
    # the same picture again: its file stays
    assert library.image(library.store("carrot", "clean", 7, picture(2), "live", replace=True)).shape == (6, 8, 3)


def test_what_is_not_there_is_none(library: StateLibrary) -> None:
    assert library.tasks() == [] and library.states("carrot") == ()
    assert library.find("carrot", "clean", 7) is None
    library.store("carrot", "clean", 7, picture(), "live")
    assert library.find("carrot", "dim", 7) is None and library.find("carrot", "clean", 8) is None


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "ä", "a\n", "x" * 101])
def test_names_that_are_no_names_are_refused(library: StateLibrary, name: str) -> None:
    for key in ((name, "clean", 1), ("carrot", name, 1)):
        with pytest.raises(StateError, match="letters, digits"):
            library.find(*key)
        with pytest.raises(StateError, match="letters, digits"):
            library.store(*key, picture(), "live")
    assert not library.root.exists()


def test_a_frame_that_is_no_frame_is_refused(library: StateLibrary) -> None:
    for image in (picture()[..., 0], picture().astype(float), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(StateError, match="expected uint8"):
            library.store("carrot", "clean", 1, image, "live")
    with pytest.raises(StateError, match="initial state -1"):
        library.store("carrot", "clean", -1, picture(), "live")


def test_a_picture_that_was_changed_or_is_gone_is_named(library: StateLibrary) -> None:
    state = library.store("carrot", "clean", 7, picture(), "live")
    path = library.root / "carrot" / state.file
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(StateError, match=f"{state.file}: not the frame that was stored"):
        library.image(state)
    path.unlink()
    with pytest.raises(StateError, match=f"{state.file}: the frame of carrot 7"):
        library.image(state)


BREAKS = {
    "no YAML": lambda told: "a: [",
    "expected task: carrot": lambda told: yaml.safe_dump({**told, "task": "spoon"}),
    r"states\[0\]: expected": lambda told: yaml.safe_dump({**told, "states": [{**told["states"][0], "more": 1}]}),
    r"states\[0\]: width: expected int": lambda told: yaml.safe_dump(
        {**told, "states": [{**told["states"][0], "width": "8"}]}
    ),
    r"states\[0\]: initial_state: expected int": lambda told: yaml.safe_dump(
        {**told, "states": [{**told["states"][0], "initial_state": True}]}
    ),
    r"states\[0\]: file '\.\./x\.png'": lambda told: yaml.safe_dump(
        {**told, "states": [{**told["states"][0], "file": "../x.png"}]}
    ),
    "is given twice": lambda told: yaml.safe_dump({**told, "states": told["states"] * 2}),
}


@pytest.mark.parametrize("words", BREAKS)
def test_a_damaged_index_is_named_with_its_field(library: StateLibrary, words: str) -> None:
    library.store("carrot", "clean", 7, picture(), "live")
    path = library.root / "carrot" / INDEX
    path.write_text(BREAKS[words](yaml.safe_load(path.read_text())))
    with pytest.raises(StateError, match=words) as failure:
        library.states("carrot")
    assert str(failure.value).startswith(str(path))
    before = path.read_text()
    with pytest.raises(StateError):  # nothing is added to what cannot be read
        library.store("carrot", "clean", 8, picture(), "live")
    assert path.read_text() == before


def test_writers_at_the_same_time_lose_nothing(library: StateLibrary) -> None:
    with ThreadPoolExecutor(8) as pool:  # each takes the lock by a file of its own, as processes do
        stored = list(pool.map(lambda n: library.store("carrot", "clean", n, picture(n), "live"), range(16)))
    assert library.states("carrot") == tuple(stored)


def test_a_writer_killed_at_any_moment_leaves_an_index_that_fits(library: StateLibrary, tmp_path: Path) -> None:
    library.store("carrot", "clean", 1, picture(1), "live")
    script = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "import grape_robot.state_library as m\n"
        "left = [int(sys.argv[2])]\n"
        "real = os.replace\n"
        "def replace(a, b):\n"
        "    if not left[0]: os._exit(9)\n"
        "    left[0] -= 1; real(a, b)\n"
        "os.replace = replace\n"
        "image = np.full((6, 8, 3), 200, np.uint8)\n"
        "m.StateLibrary(Path(sys.argv[1])).store('carrot', 'clean', 1, image, 'live', replace=True)\n"
    )
    for after, replaced in ((0, False), (1, False), (2, True)):
        status = subprocess.run([sys.executable, "-c", script, str(library.root), str(after)], check=False).returncode
        assert status == (0 if replaced else 9)
        (state,) = library.states("carrot")
        assert (library.image(state) == 200).all() == replaced
