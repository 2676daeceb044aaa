"""The benchmark of cheap figures on made-up runs: what goes with the gain is found, what does not is not."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import instruments

from grape import evaluation


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
    assert found == {"run": f"{tmp_path.name}/tpo-0", "update": 20, "adapter": str(run / "snapshots/00020"), "kl": 0.5}


def trial(adapter: Path | str, state: int, success: bool) -> str:
    job = evaluation.Job("carrot_on_plate", "clean", state, state, 0.0, str(adapter))
    return json.dumps(dataclasses.asdict(evaluation.Result(job, success, True, False, 20, 1, "success"))) + "\n"


def test_kept_adapters_are_set_beside_the_trials_of_the_same_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs: one gains in one of two shared states, the other loses in both; a third was never tried."""
    text = "".join(trial("", state, state > 0) for state in range(2))
    for name, fell, outcomes in (("good-0", 0.2, (True, True)), ("bad-0", -0.1, (False, False)), ("new-0", 0.0, ())):
        run = tmp_path / "train" / name
        run.mkdir(parents=True)
        checks = [{"kl": 0.1, "supervised_loss": 2.0}, {"kl": 0.3, "supervised_loss": 2.0 - fell}]
        lines = [{"update": 20 * (i + 1), "check": check} for i, check in enumerate(checks)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "result.json").write_text(json.dumps({"kept_update": 40}))
        # state 7 was tried of this adapter alone
        shown = [*enumerate(outcomes), (7, True)] if outcomes else []
        text += "".join(trial(f"/moved/since/{name}/adapter", state, success) for state, success in shown)
    (tmp_path / "trials.jsonl").write_text(text)
    bad, good = instruments.kept(tmp_path)
    assert good["run"].endswith("good-0") and good["update"] == 40 and good["kl"] == 0.3 and good["trials"] == 2
    assert (good["success"], good["gain"], bad["gain"]) == (1.0, 0.5, -0.5)
    assert good["supervised_loss_fell"] == pytest.approx(0.2) and bad["supervised_loss_fell"] == pytest.approx(-0.1)
    assert instruments.main(argparse.Namespace(folder=[tmp_path], kept=True)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"]["supervised_loss_fell"]["spearman"] == pytest.approx(1.0) and len(told["snapshots"]) == 2
    (tmp_path / "trials.jsonl").write_text("")
    assert instruments.main(argparse.Namespace(folder=[tmp_path], kept=True)) == 1
    assert "no finished run with trials" in capsys.readouterr().err


def test_without_snapshots_nothing_is_rolled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    monkeypatch.setattr(instruments.evaluation, "run", lambda *a: pytest.fail("rolled out"))
    told = argparse.Namespace(folder=[tmp_path], kept=False, first_state=0, states=1, workers=1, model=Path("m"))
    assert instruments.main(told) == 1
    assert "no training run kept snapshots" in capsys.readouterr().err
