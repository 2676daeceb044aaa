"""The benchmark of iterations: which commands it gives, and what it makes of a loop that ended early."""

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import iterations


def asked(out: Path, **changes: object) -> argparse.Namespace:
    told = {"model": Path("m"), "out": out, "iterations": 3, "seeds": 2, "rollout_states": 4, "temperature": 1.0}
    told |= {"preset": "recommended", "method": "tpo", "states": 5, "temperatures": "0"}
    return argparse.Namespace(**{**told, **changes})


def test_every_iteration_that_all_runs_have_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 0 makes three iterations, seed 1 ends after two."""
    said: list[tuple[str, ...]] = []

    def grape(*arguments: object) -> None:
        said.append(tuple(map(str, arguments)))
        out = Path(str(arguments[arguments.index("--out") + 1]))
        out.mkdir(parents=True)
        if arguments[0] == "eval":
            (out / "table.json").write_text(json.dumps({"rows": [1], "differences": [2], "more": 3}))
            return
        made = 3 - int(str(arguments[arguments.index("--seed") + 1]))
        for number in range(1, made + 1):
            (out / f"iteration_{number}/train/adapter").mkdir(parents=True)
        entries = [{"successes": 7, "episodes": 16}] * made
        (out / "align.json").write_text(json.dumps({"iterations": entries, "reason": "done"}))

    monkeypatch.setattr(iterations, "grape", grape)
    assert iterations.main(asked(tmp_path)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == [1] and found["differences"] == [2]
    assert [len(run["successes"]) for run in found["runs"]] == [3, 2] and found["runs"][0]["ended"] == "done"
    assert [words[0] for words in said] == ["align", "align", "eval"]
    registries = {words[words.index("--registry") + 1] for words in said[:2]}
    assert len(registries) == 2 and all(words[words.index("--canary") + 1] == "0" for words in said[:2])
    given = said[2][said[2].index("--policies") + 1].split(",")
    assert [name.partition("=")[0] for name in given] == ["base", "K1", "K2"]
    assert given[2].count("+") == 1 and "seed_0/iteration_2/train/adapter" in given[2]


def test_a_loop_that_leaves_no_adapter_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(iterations, "grape", lambda *arguments: None)
    assert iterations.main(asked(tmp_path)) == 1
    assert "no iteration left an adapter" in capsys.readouterr().err


def test_the_command_itself_is_found(capfd: pytest.CaptureFixture[str]) -> None:
    iterations.grape("align", "--help")
    assert "--gate-kl" in capfd.readouterr().err
