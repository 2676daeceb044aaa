import csv
import dataclasses
import json
import math
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from grape_episode.synthetic import make_episode
from grape_reward.result import Score, unscorable
from grape_reward.score import score_episode
from grape_reward.score_file import ENDINGS, ScoreFileError, row, write_scores

SCORES = (
    score_episode(make_episode(1, steps=8)),
    score_episode(make_episode(2, steps=8, success=False, variant="obstacle"), "safety"),
    dataclasses.replace(unscorable("e", "t", 7, "o", 'why, "oh" why\nnot'), stage_costs=(math.nan, 1.0)),
)
BAGS = (Path("a"), Path("b,c"), Path("d"))
HANDS = ("", "a person drove, for part of it", "")


def read(path):
    """The rows of a file as plain values, by an independent reader."""
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
        return [{**told, "constraints": dict(told["constraints"])} for told in rows]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    rows = list(csv.DictReader(path.open(newline="")))
    for told in rows:
        for name in ("stage_costs", "lambdas", "constraints", "problems", "undecided"):
            told[name] = json.loads(told[name])
        for name in ("log_r_ext", "r_self", "r_self_per_token", "reward"):
            told[name] = float(told[name]) if told[name] else None
        for name in ("initial_state", "stages_reached", "success"):
            told[name] = int(told[name])
        for name in ("incomplete", "approved"):
            told[name] = told[name] == "True"
    return rows


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".json"])
def test_every_number_comes_back_to_the_last_bit(tmp_path, ending):
    path = tmp_path / f"scores{ending}"
    write_scores(path, SCORES, BAGS, HANDS)
    told = read(path)
    assert told == [row(*each) for each in zip(SCORES, BAGS, HANDS, strict=True)]
    assert told[2]["reward"] is None and told[2]["stage_costs"] == [None, 1.0] and told[1]["bag"] == "b,c"
    assert [each["score_hash"] for each in told] == [score.hash for score in SCORES]


def test_lines_of_json_are_the_scores_themselves(tmp_path):
    write_scores(tmp_path / "scores.jsonl", SCORES, BAGS, HANDS)
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [Score.from_json(line).hash for line in lines] == [score.hash for score in SCORES]


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_scores_are_a_file_too(tmp_path, ending):
    path = tmp_path / f"scores{ending}"
    write_scores(path, (), (), ())
    assert path.exists() and (ending == ".jsonl" or read(path) == [])


def test_every_field_of_a_score_has_a_column(tmp_path):
    write_scores(tmp_path / "scores.parquet", SCORES[:1], BAGS[:1], HANDS[:1])
    names = {field.name for field in dataclasses.fields(Score)} | {"score_hash", "bag", "intervention"}
    assert set(pyarrow.parquet.read_table(tmp_path / "scores.parquet").column_names) == names


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    with pytest.raises(ScoreFileError, match=r"scores\.txt: the name must end in \.parquet, \.csv"):
        write_scores(tmp_path / "scores.txt", SCORES, BAGS, HANDS)
    with pytest.raises(ScoreFileError, match="nowhere"):
        write_scores(tmp_path / "nowhere" / "scores.csv", SCORES, BAGS, HANDS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ScoreFileError, match=r"scores\.parquet: Parquet needs the Python package pyarrow"):
        write_scores(tmp_path / "scores.parquet", SCORES, BAGS, HANDS)
