"""The self-contained HTML report of an alignment: table, curves, stage costs, film strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@dataclass(frozen=True)
class Chart:
    """A picture with its caption: inline SVG text, or a data URI."""

    title: str
    caption: str
    svg: str = ""
    uri: str = ""


@dataclass(frozen=True)
class Report:
    """What a report says; ``metrics`` as ``evaluation.compare`` returns them, by figure."""

    title: str
    subtitle: str
    words: Sequence[str]
    names: tuple[str, str]
    metrics: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Chart] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


UNITS = {"success": "%", "grasp": "%", "collision": "%", "steps": "", "success steps": ""}


def _cell(estimate: Mapping[str, Any], percent: bool) -> dict[str, str]:
    scale, form = (100.0, "{:.1f} %") if percent else (1.0, "{:.1f}")
    plain = form.replace(" %", "")
    return {
        "value": form.format(scale * estimate["rate"]),
        "interval": f"{plain.format(scale * estimate['low'])} to {plain.format(scale * estimate['high'])}",
        "trials": str(estimate["trials"]),
    }


def table_rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table for people: {name, first, second, difference, interval, beyond_noise}."""
    rows = []
    for name, cells in metrics.items():
        percent = UNITS.get(name, "%") == "%"
        gap = cells["paired"]
        scale, unit = (100.0, " points") if percent else (1.0, "")
        rows.append(
            {
                "name": name,
                "first": _cell(cells["first"], percent),
                "second": _cell(cells["second"], percent),
                "difference": f"{scale * gap['difference']:+.1f}{unit}",
                "interval": f"{scale * gap['low']:+.1f} to {scale * gap['high']:+.1f}",
                "beyond_noise": gap["beyond_noise"],
            }
        )
    return rows


def template(name: str) -> Template:
    """A template of this package: what is put into it is escaped, and a name that it lacks is an error."""
    environment = Environment(
        loader=PackageLoader("grape", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def render(report: Report) -> str:
    """The HTML text; everything a person wrote or a model said is escaped."""
    return template("report.html.j2").render(
        title=report.title,
        subtitle=report.subtitle,
        words=report.words,
        names=report.names,
        table=table_rows(report.metrics),
        figures=report.figures,
        facts=report.facts,
    )


def write(report: Report, path: Path) -> Path:
    """Write the report to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(render(report), encoding="utf-8")
    draft.replace(path)
    return path
