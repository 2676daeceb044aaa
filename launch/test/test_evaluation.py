"""Evaluation: resumable, matched by state, honest about what is missing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from grape import evaluation as ev


class Fake:
    """A runner whose rollouts succeed by a rule; counts what it ran; may die after some."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.ran: list[ev.Job] = []
        self.dies_after = dies_after

    def run(self, jobs: Sequence[ev.Job]) -> Iterator[ev.Result]:
        for job in jobs:
            if self.dies_after is not None and len(self.ran) >= self.dies_after:
                raise KeyboardInterrupt
            self.ran.append(job)
            good = (job.initial_state % 2 == 0) or bool(job.adapter)
            yield ev.Result(job, good, True, not good, 20 if good else 60, int(good), "success" if good else "limit")


JOBS = ev.grid(["a", "b"], range(10), ["", "x"], "clean", 7, 0.0)


def test_adapters_of_a_state_share_its_seed() -> None:
    seeds = {(j.task, j.initial_state): set() for j in JOBS}
    for job in JOBS:
        seeds[(job.task, job.initial_state)].add(job.seed)
    assert all(len(s) == 1 for s in seeds.values())


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first = Fake(dies_after=13)
    with pytest.raises(KeyboardInterrupt):
        ev.run(JOBS, first, path)
    with path.open("a") as out:
        out.write('{"job": {"task": "a"')  # the write that the crash cut off
    second = Fake()
    results = ev.run(JOBS, second, path)
    assert len(first.ran) == 13 and len(second.ran) == len(JOBS) - 13
    assert [r.job for r in results] == JOBS
    assert ev.run(JOBS, Fake(dies_after=0), path) == results


def test_compare_matches_states(tmp_path: Path) -> None:
    results = ev.run(JOBS, Fake(), tmp_path / "r.jsonl")
    base = [r for r in results if not r.job.adapter]
    better = [r for r in results if r.job.adapter][::-1]
    got = ev.compare(base, better)
    assert got["success"]["first"]["rate"] == 0.5 and got["success"]["second"]["rate"] == 1.0
    assert got["success"]["paired"]["difference"] == 0.5
    assert got["success steps"]["paired"]["trials"] == 10
    with pytest.raises(ev.EvaluationError, match="share only"):
        ev.compare(base[1:], better)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("hello\n{}\n")
    with pytest.raises(ev.EvaluationError, match=r"r\.jsonl: line 1"):
        ev.read_results(path)


def test_agreement_counts_only_what_was_decided() -> None:
    job = JOBS[0]
    rows = [ev.Result(job, True, True, False, 9, s, "") for s in (1, 0, -1)]
    assert ev.agreement(rows)["trials"] == 2 and ev.agreement(rows)["rate"] == 0.5
