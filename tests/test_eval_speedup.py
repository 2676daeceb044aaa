"""The benchmark of parallel worlds: what it calls equal, and what it says of a difference."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import eval_speedup

from grape.evaluation import Job, Result


class Fake:
    """Gives results in another order with several workers, and one other token where ``wrong``."""

    def __init__(self, workers: int, wrong: bool) -> None:
        self.workers, self.wrong = workers, wrong

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        order = list(jobs) if self.workers == 1 else list(jobs)[::-1]
        for number, job in enumerate(order):
            found = Result(job, True, True, False, 30, -1, "success", f"hash of {job.task} {job.initial_state}")
            yield replace(found, tokens_hash="other") if self.wrong and number == 1 and self.workers > 1 else found


@pytest.mark.parametrize("wrong", [False, True])
def test_equal_results_pass_in_any_order_and_another_token_does_not(
    wrong: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_speedup, "WorldWorkers", lambda model, workers: Fake(workers, wrong))
    monkeypatch.setattr(sys, "argv", ["eval_speedup.py", "--workers", "3"])
    assert eval_speedup.main() == int(wrong)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["rollouts"], told["steps"], told["ok"], told["workers"]) == (8, 240, not wrong, 3)
    assert len(told["differing"]) == int(wrong)


def test_a_result_that_is_missing_is_a_difference() -> None:
    job = Job("t", "clean", 1, 1, 0.0, "")
    result = Result(job, True, True, False, 3, -1, "success", "h")
    assert eval_speedup.differing({job.key: result}, {}) == [job.key] == eval_speedup.differing({}, {job.key: result})
    assert eval_speedup.differing({job.key: result}, {job.key: replace(result)}) == []
