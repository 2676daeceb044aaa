"""The benchmark of cheap figures on made-up runs: what goes with the gain is found, what does not is not."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import instruments


def test_ranks_correlate_as_they_should() -> None:
    assert instruments.spearman([1, 2, 3, 10], [5, 6, 7, 8]) == pytest.approx(1.0)
    assert instruments.spearman([1, 2, 3, 4], [8, 7, 6, 5]) == pytest.approx(-1.0)
    # by hand, with two equal values: ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3
    wanted = np.corrcoef([0, 1.5, 1.5, 3], [0, 1, 2, 3])[0, 1]
    assert instruments.spearman([1, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(wanted)
    assert np.isnan(instruments.spearman([1, 1], [1, 2]))


def test_what_predicts_the_gain_is_told_from_what_does_not() -> None:
    random = np.random.default_rng(0)
    rows = []
    for run in range(12):
        for update in range(4):
            gain = float(random.normal())
            rows.append({"run": f"r{run}", "update": update, "gain": gain, "kl": -gain, "entropy": random.normal()})
    kl, entropy = (instruments.correlation(rows, name, 300) for name in ("kl", "entropy"))
    assert kl["spearman"] == pytest.approx(-1.0) and kl["high"] < -0.99 and kl["snapshots"] == 48
    assert entropy["low"] < 0 < entropy["high"]
    assert instruments.correlation(rows, "margin", 10)["spearman"] is None


def test_snapshots_are_read_with_the_figures_of_their_check(tmp_path: Path) -> None:
    run = tmp_path / "train/tpo-0"
    (run / "snapshots/00020").mkdir(parents=True)
    (tmp_path / "train/other-0").mkdir()
    lines = [{"update": 20, "loss": 1.0}, {"update": 20, "check": {"kl": 0.5, "loss": 3.0}}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "train/other-0/metrics.jsonl").write_text("")
    (found,) = instruments.snapshots(tmp_path)
    assert found == {"run": "tpo-0", "update": 20, "adapter": str(run / "snapshots/00020"), "kl": 0.5}
