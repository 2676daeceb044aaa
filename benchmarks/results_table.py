"""The figures behind docs/results.md in one file: docs/results/TABLE.json, and the same as tables in Markdown.

    python benchmarks/results_table.py a=runs/table_a/comparison.json b=runs/table_b/table.json

Takes what `benchmarks/compare_methods.py` and `grape eval --suite` wrote, each under the letter of its table, and keeps
of it what a reader may want to compute with: `rows` (table, policy, suite, decoding, success with rate, low, high and
trials, collision, steps of successes) and `differences` (table, policy, against, suite, decoding, points, low, high,
noise). A letter that is not given keeps what the file has of it. Prints the tables in Markdown. `--picture FILE.png`
draws the success of the given tables, a row a policy and suite, a panel a decoding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _paths

TABLE = _paths.ROOT / "docs/results/TABLE.json"
CELL = ("rate", "low", "high", "trials")
GAP = ("policy", "against", "suite", "decoding", "points", "low", "high", "trials", "noise")


class TableError(Exception):
    """A file holds no table; the text names it."""


def read(path: Path) -> dict[str, Any]:
    """What a comparison or an evaluation wrote. Raises TableError naming the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"rows": list(found["rows"]), "differences": list(found["differences"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path}: no table of a comparison or an evaluation ({error})") from None


def kept(letter: str, found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Of a table what TABLE.json holds."""
    rows = [
        {
            "table": letter,
            **{name: row[name] for name in ("policy", "suite", "decoding")},
            **{name: {k: row[name][k] for k in CELL} for name in ("success", "collision", "success_steps")},
            "seeds": [seed["rate"] for seed in row["seeds"]],
        }
        for row in found["rows"]
    ]
    gaps = [{"table": letter, **{name: gap[name] for name in GAP if name in gap}} for gap in found["differences"]]
    return {"rows": rows, "differences": gaps}


def markdown(letter: str, table: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One table for people."""
    lines = [f"({letter})", "", "| policy | suite | decoding | success, % | collisions, % | steps of successes |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in table["rows"]:
        s, c, n = row["success"], row["collision"], row["success_steps"]
        steps = "" if n["rate"] is None else f"{n['rate']:.1f}"
        lines.append(
            f"| {row['policy']} | {row['suite']} | {row['decoding']} | {_percent(s)} | {_percent(c)} | {steps} |"
        )
    lines += ["", "| difference | suite | decoding | points | |", "| --- | --- | --- | --- | --- |"]
    for gap in table["differences"]:
        told = f"{gap['points']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})"
        noise = "noise" if gap["noise"] else ""
        names = f"{gap['policy']} - {gap['against']}"
        lines.append(f"| {names} | {gap['suite']} | {gap['decoding']} | {told} | {noise} |")
    return "\n".join(lines) + "\n"


def _percent(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['rate']:.1f} ({100 * cell['low']:.1f} to {100 * cell['high']:.1f}), n = {cell['trials']}"


def picture(tables: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Success with its interval, a row a policy and suite."""
    from grape.worlds_charts import Bar, forest

    panels: dict[str, dict[str, dict[str, Bar]]] = {}
    suites = {row["suite"] for table in tables.values() for row in table["rows"]}
    for table in tables.values():
        for row in table["rows"]:
            cell = row["success"]
            bar = Bar(100 * cell["rate"], 100 * cell["low"], 100 * cell["high"])
            line = row["policy"] if len(suites) == 1 else f"{row['suite']}: {row['policy']}"
            panels.setdefault(row["decoding"], {})[line] = {"success": bar}
    figure = forest(panels, ["success"], "success, per cent, with 95 % intervals")
    figure.savefig(path, dpi=110)


def merged(before: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``before`` with these tables in the place of those of the same letter, by letter."""
    found: dict[str, Any] = {}
    for part in ("rows", "differences"):
        old = [entry for entry in before.get(part, []) if entry["table"] not in tables]
        new = [entry for letter in tables for entry in tables[letter][part]]
        found[part] = sorted(old + new, key=lambda entry: entry["table"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="+", metavar="LETTER=FILE")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    told = parser.parse_args()
    try:
        tables: dict[str, Any] = {}
        for word in told.tables:
            letter, equals, path = word.partition("=")
            if not equals or not letter:
                raise TableError(f"{word}: expected LETTER=FILE")
            tables[letter] = kept(letter, read(Path(path)))
        before = json.loads(told.out.read_text(encoding="utf-8")) if told.out.exists() else {}
    except (TableError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.write_text(json.dumps(merged(before, tables), indent=1) + "\n", encoding="utf-8")
    if told.picture:
        picture(tables, told.picture)
    for letter, table in tables.items():
        print(markdown(letter, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
