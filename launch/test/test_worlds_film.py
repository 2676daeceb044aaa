"""Film strips: the right states are chosen, a trial is shown as it was, and a strip says where it is not."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from grape import worlds
from grape.closed_loop import ClosedLoop
from grape.evaluation import WORLD, Job, Result
from grape.suites import load_suite
from grape.worlds_film import Cell, cells, films
from grape_policy.testing import write_random_checkpoint

BASE, TPO = worlds.Policy("base", ("",)), worlds.Policy("tpo", ("/a", "/b"))


def plan(*policies: worlds.Policy, states: int = 4) -> worlds.Plan:
    return worlds.Plan((load_suite("in_domain"), load_suite("subject")), policies, (0.0, 1.0), states)


def results(wanted: worlds.Plan, good: Callable[[Job], bool]) -> list[Result]:
    return [
        Result(job, good(job), True, False, 20, -1, "success" if good(job) else "step_limit", "h")
        for job in worlds.jobs(wanted)
    ]


def test_the_first_state_each_way_is_shown_of_the_first_and_the_last_policy() -> None:
    middle = worlds.Policy("bc", ("/c",))
    wanted = plan(BASE, middle, TPO)

    def good(job: Job) -> bool:
        """Greedy, in the clean worlds: base succeeds on spoons, the first seed of tpo on the third state of all."""
        if job.variant != "clean" or job.temperature:
            return job.temperature > 0
        return job.task == "spoon_on_towel" if not job.adapter else job.initial_state % 100 == 2

    found = cells(wanted, results(wanted, good))
    shown = [[(name, r.job.task, r.job.initial_state, r.success) for name, r in cell.trials] for cell in found]
    items = {item.task: item.states for item in wanted.items(wanted.suites[0])}
    task = wanted.items(wanted.suites[0])[0].task
    third = next(state for state in items[task] if state % 100 == 2)
    spoon = next(state for state in items["spoon_on_towel"] if state % 100 != 2)
    assert shown == [
        [("base", task, third, False), ("tpo, training seed 1", task, third, True)],
        [("base", "spoon_on_towel", spoon, True), ("tpo, training seed 1", "spoon_on_towel", spoon, False)],
    ], "nothing of the second suite, where the two end alike"
    assert "base fails, tpo, training seed 1 succeeds" in found[0].title and "greedy" in found[0].title


def test_a_later_training_seed_is_shown_where_the_first_has_no_such_state() -> None:
    wanted = plan(BASE, TPO)
    found = cells(wanted, results(wanted, lambda job: job.adapter == "/b" and job.variant == "clean"))
    assert [name for cell in found for name, _ in cell.trials] == ["base", "tpo, training seed 2"]


def test_a_policy_alone_is_shown_failing_and_succeeding() -> None:
    wanted = plan(BASE)
    found = cells(wanted, results(wanted, lambda job: job.variant == "clean" and job.initial_state % 2 == 0))
    assert [[r.success for _, r in cell.trials] for cell in found] == [[True], [False], [False]]


def test_a_trial_is_shown_as_it_was_and_not_rolled_out_a_second_time(tmp_path: Path) -> None:
    job = Job("spoon_on_towel", "semantic", 63_001, 5, 1.0, "", WORLD, step_limit=3)
    with ClosedLoop(write_random_checkpoint(tmp_path / "tiny")) as loop:
        recorded = loop.run(job).result
        chosen = [Cell("semantic", "title", (("base", recorded),))]
        (made,) = films(chosen, tmp_path / "film", lambda: loop)
    (strip,) = made.strips
    assert "base: “" in strip.caption and "fails after 3 steps (step limit)" in strip.caption
    assert "differ" not in strip.caption and "no collision" in strip.caption
    with Image.open(io.BytesIO(base64.b64decode(strip.uri.removeprefix("data:image/png;base64,")))) as image:
        assert image.size == (3 * 150 + 2 * 4, 150)
        assert np.asarray(image.convert("RGB")).std() > 10, "there is something to see"

    def never() -> ClosedLoop:
        raise AssertionError("a strip that is kept needs no rollout")

    (again,) = films(chosen, tmp_path / "film", never)
    assert [s.caption for s in again.strips] == [strip.caption] and again.strips[0].uri
    (kept,) = (tmp_path / "film").glob("*.png")
    kept.write_bytes(kept.read_bytes()[:200])
    with pytest.raises(AssertionError, match="needs no rollout"):
        films(chosen, tmp_path / "film", never)
    other = [Cell("semantic", "title", (("base", replace(recorded, tokens_hash="other")),))]
    with pytest.raises(AssertionError, match="needs no rollout"):
        films(other, tmp_path / "film", never)


def test_a_strip_of_another_rollout_says_so_and_is_not_kept(tmp_path: Path) -> None:
    job = Job("spoon_on_towel", "clean", 60_000, 5, 1.0, "", WORLD)
    recorded = Result(job, True, True, True, 21, -1, "success", "recorded")
    images = np.zeros((5, 20, 20, 3), np.uint8)

    def loop(result: Result, images: np.ndarray) -> Callable[[], SimpleNamespace]:
        rollout = SimpleNamespace(result=result, episode=SimpleNamespace(images=images))
        return lambda: SimpleNamespace(run=lambda job: rollout)

    other = Result(job, False, False, False, 5, -1, "step_limit", "another")
    chosen = [Cell("in_domain", "title", (("base", recorded),))]
    (made,) = films(chosen, tmp_path, loop(other, images))
    assert "succeeds after 21 steps (success), COLLISION" in made.strips[0].caption
    assert "its tokens differ (fails after 5 steps (step limit), never grasped, no collision)" in (
        made.strips[0].caption
    )
    assert made.strips[0].uri and not list(tmp_path.iterdir())
    (made,) = films(chosen, tmp_path, loop(recorded, images[:0]))
    assert not made.strips[0].uri, "an episode that ended at once has no picture"
    unknown = [Cell("in_domain", "title", (("base", replace(recorded, tokens_hash="")),))]
    (made,) = films(unknown, tmp_path, loop(recorded, images))
    assert "is not known" in made.strips[0].caption
