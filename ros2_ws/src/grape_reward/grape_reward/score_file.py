"""Scores as a file: Parquet, CSV or JSON by the name's ending, one row an episode, every number in full precision.

What is unknown is null (in CSV empty). ``score_hash`` is the score's own hash: equal hashes are equal scores."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grape_reward.errors import RewardError
from grape_reward.files import write_whole
from grape_reward.result import Score

ENDINGS = (".parquet", ".csv", ".json", ".jsonl")
_TEXTS = ("episode_id", "task", "objective", "outcome", "decomposition", "review", "intervention")
_HASHES = ("cost_program_hash", "task_hash", "inputs_hash", "code_version", "score_hash", "bag")
_WHOLE = ("initial_state", "stages_reached", "success")
_NUMBERS = ("log_r_ext", "r_self", "r_self_per_token", "reward")
_TRUTHS = ("incomplete", "approved")
_LISTS = ("stage_costs", "lambdas")
_LINES = ("problems", "undecided")


class ScoreFileError(RewardError):
    """A file of scores that cannot be written; the text begins with the file."""


def check_ending(path: Path) -> None:
    """Raises ScoreFileError for a name with another ending than ENDINGS, or where pyarrow is missing for Parquet."""
    if path.suffix not in ENDINGS:
        raise ScoreFileError(f"{path}: the name must end in {', '.join(ENDINGS)}")
    if path.suffix == ".parquet":
        _arrow(path)


def write_scores(path: Path, scores: Sequence[Score], bags: Sequence[Path], interventions: Sequence[str]) -> None:
    """Write scores, the bags they are of and what a person did in each; the file is whole or not there. ``.jsonl``
    holds each score's canonical JSON, a line each, and nothing else. Raises ScoreFileError."""
    check_ending(path)
    rows = [row(*told) for told in zip(scores, bags, interventions, strict=True)]
    try:
        if path.suffix == ".jsonl":
            write_whole(path, "".join(score.to_json() + "\n" for score in scores))
        elif path.suffix == ".json":
            write_whole(path, json.dumps(rows, indent=1, sort_keys=True, allow_nan=False) + "\n")
        elif path.suffix == ".csv":
            write_whole(path, _csv(rows))
        else:
            write_whole(path, _parquet(path, rows))
    except OSError as error:
        raise ScoreFileError(f"{path}: {error.strerror or error}") from None


def row(score: Score, bag: Path, intervention: str) -> dict[str, Any]:
    """Plain values of a score; ``constraints`` as {name: cost}; ``intervention``: "" where nobody interfered."""
    told = {**asdict(score), "score_hash": score.hash, "bag": str(bag), "intervention": intervention}
    told["constraints"] = {name: _known(value) for name, value in score.constraints}
    for name in _NUMBERS:
        told[name] = _known(told[name])
    for name in _LISTS:
        told[name] = [_known(value) for value in told[name]]
    for name in _LINES:
        told[name] = list(told[name])
    return told


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _columns() -> tuple[str, ...]:
    return (*_TEXTS, *_WHOLE, *_NUMBERS, *_LISTS, "constraints", *_TRUTHS, *_LINES, *_HASHES)


def _csv(rows: list[dict[str, Any]]) -> str:
    """Lists and mappings as JSON in their cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns())
    writer.writeheader()
    for told in rows:
        cells = {name: told[name] for name in _columns()}
        for name in (*_LISTS, *_LINES, "constraints"):
            cells[name] = json.dumps(cells[name])
        writer.writerow(cells)
    return text.getvalue()


def _parquet(path: Path, rows: list[dict[str, Any]]) -> bytes:
    pa = _arrow(path)
    import pyarrow.parquet

    types = {name: pa.string() for name in (*_TEXTS, *_HASHES)}
    types |= {name: pa.int64() for name in _WHOLE} | {name: pa.float64() for name in _NUMBERS}
    types |= {name: pa.bool_() for name in _TRUTHS} | {name: pa.list_(pa.float64()) for name in _LISTS}
    types |= {name: pa.list_(pa.string()) for name in _LINES}
    types["constraints"] = pa.map_(pa.string(), pa.float64())
    schema = pa.schema([(name, types[name]) for name in _columns()])
    listed = [{**told, "constraints": list(told["constraints"].items())} for told in rows]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(listed, schema), buffer)
    return buffer.getvalue()


def _arrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ScoreFileError(f"{path}: Parquet needs the Python package pyarrow ({error})") from None
    return pyarrow
