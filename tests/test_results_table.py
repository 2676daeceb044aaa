"""The file of figures: what a reader may compute with, table by table, and what it says of a file that is none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def called(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/results_table.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def comparison(path: Path, points: float) -> Path:
    cell = {"rate": 0.5, "low": 0.4, "high": 0.6, "trials": 100}
    mean: dict[str, Any] = {"rate": None, "low": None, "high": None, "trials": 0}
    row = {"policy": "SFT", "suite": "in-domain", "decoding": "greedy", "success": cell, "collision": cell}
    gap = {"policy": "TPO", "against": "SFT", "suite": "in-domain", "decoding": "greedy", "points": points}
    gap |= {"low": points - 5, "high": points + 5, "noise": abs(points) < 5, "words": "not kept"}
    found = {"rows": [row | {"success_steps": mean, "seeds": [cell]}], "differences": [gap]}
    path.write_text(json.dumps(found))
    return path


def test_tables_are_kept_by_letter_and_replaced_by_it(tmp_path: Path) -> None:
    out = tmp_path / "results/TABLE.json"
    one, two = comparison(tmp_path / "one.json", 12.0), comparison(tmp_path / "two.json", 2.0)
    assert called(f"a={one}", f"b={two}", "--out", out).returncode == 0
    done = called(f"a={two}", "--out", out, "--picture", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "TPO - SFT | in-domain | greedy | +2.0 (-3.0 to +7.0) | noise |" in done.stdout
    told = json.loads(out.read_text())
    assert [(g["table"], g["points"]) for g in told["differences"]] == [("a", 2.0), ("b", 2.0)]
    assert "words" not in told["differences"][0]
    (row, _) = told["rows"]
    assert row["table"] == "a" and row["success"] == {"rate": 0.5, "low": 0.4, "high": 0.6, "trials": 100}
    assert row["seeds"] == [0.5] and row["success_steps"]["rate"] is None


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    done = called(f"a={tmp_path}/other.json", "--out", tmp_path / "TABLE.json")
    assert done.returncode == 2 and not (tmp_path / "TABLE.json").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/other.json: no table of a comparison or an evaluation")
