"""What an evaluation on worlds leaves behind for people: ``report.html``, and its two plots as pictures."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from grape import worlds_rows
from grape.charts import as_svg
from grape.evaluation import Result
from grape.report import Chart, template
from grape.suites import Suite
from grape.worlds import IN_DOMAIN, TOGETHER, Plan, decoding
from grape.worlds_charts import Bar, Rows, forest
from grape.worlds_film import Film
from grape.worlds_rows import TUNING, suite_name
from grape_policy.identity import CODE_VERSION
from grape_trainer.files import write_text

REPORT, SUCCESS, DIFFERENCES = "report.html", "success.png", "differences.png"
FEW = 20
"""Over fewer states a percentile bootstrap holds the truth clearly less often than it says."""
PACKAGES = ("torch", "pybullet", "numpy")
FILM_NOTE = (
    "Of every suite the first state where the two policies part, each way where there is one: an illustration, not a "
    "sample. What the policy saw, one picture a step, evenly spaced."
)
FILM_NOTE_ALONE = (
    "Of every suite the first failure and the first success: an illustration, not a sample. What the policy saw, one "
    "picture a step, evenly spaced."
)
_DOTS_PER_INCH = 120


def write(
    folder: Path,
    told: Mapping[str, Any],
    plan: Plan,
    results: Sequence[Result],
    films: Sequence[Film] = (),
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write the report and its plots into ``folder``; the report's path.

    ``told``: the table (:func:`grape.worlds.table`); ``facts``: what else was run, by name."""
    drawn = plots(told, plan)
    for name in (SUCCESS, DIFFERENCES):
        (folder / name).unlink(missing_ok=True)
    charts = []
    for file, title, caption, figure in drawn:
        if file:
            figure.savefig(folder / file, dpi=_DOTS_PER_INCH)
        charts.append(Chart(title, caption, svg=as_svg(figure)))
    write_text(folder / REPORT, render(told, plan, results, charts, films, facts or {}))
    return folder / REPORT


def render(
    told: Mapping[str, Any],
    plan: Plan,
    results: Sequence[Result],
    charts: Sequence[Chart],
    films: Sequence[Film],
    facts: Mapping[str, object],
) -> str:
    """The HTML text, one file with its pictures; what people wrote is escaped."""
    names = [policy.name for policy in plan.policies]
    several = len(names) > 1
    return template("worlds.html.j2").render(
        title="Policies on suites of worlds",
        subtitle=f"{', '.join(names)} on {', '.join(suite.name for suite in plan.suites)}: {len(results)} rollouts in "
        f"simulation{', the same initial states and sampling seeds for every policy' if several else ''}",
        words=words(told, plan),
        cautions=cautions(told, plan),
        columns=worlds_rows.columns(plan),
        groups=worlds_rows.groups(told, plan),
        notes=_notes(plan, worlds_rows.mistakes(plan)),
        figures=charts,
        films=films,
        film_note=FILM_NOTE if several else FILM_NOTE_ALONE,
        facts={**footer(told, plan, results), **facts},
    )


def words(told: Mapping[str, Any], plan: Plan) -> list[str]:
    """The answer in sentences: on the first suite, and on the unseen ones together."""
    leading = plan.suites[0].name
    if len(plan.policies) > 1:
        gaps = [gap for gap in told["differences"] if gap["suite"] in (leading, TOGETHER)]
        return [f"{suite_name(gap['suite'])}, {gap['decoding']}: {gap['words']}" for gap in gaps]
    rows = [row for row in told["rows"] if row["suite"] == leading]
    return [
        f"{suite_name(leading)}, {row['decoding']}: {row['policy']} succeeds in {_share(row['success'])}"
        for row in rows
    ]


def cautions(told: Mapping[str, Any], plan: Plan) -> list[str]:
    """What the figures do not say, a sentence each."""
    said = []
    if any(suite.name.startswith(TUNING) for suite in plan.suites):
        said.append("Suites for tuning: figures on states by which something was chosen flatter the choice.")
    if plan.states:
        said.append(f"Of every item only so many initial states were tried: {plan.states}.")
    fewest = min(sum(len(item.states) for item in plan.items(suite)) for suite in plan.suites)
    if fewest < FEW and len(plan.policies) > 1:
        said.append(f"{fewest} states in a suite: intervals of differences over so few are too narrow.")
    trained = [policy for policy in plan.policies if any(policy.adapters)]
    if trained and all(len(policy.adapters) == 1 for policy in trained):
        said.append("One training seed a policy: the intervals speak of states alone, not of training it again.")
    if broken := sum(row["errors"] for row in told["rows"]):
        said.append(f"{broken} rollouts ended by an error and count as failures.")
    gaps = [gap for gap in told["differences"] if gap["suite"] != TOGETHER]
    if len(gaps) > 4:
        said.append(f"{len(gaps)} differences at 95 %: about one in twenty leaves zero out by chance alone.")
    return said


def plots(told: Mapping[str, Any], plan: Plan) -> list[tuple[str, str, str, Figure]]:
    """(file, or empty for none; title; caption; figure): success, differences, by task and by kind."""
    names = [policy.name for policy in plan.policies]
    decodings = [decoding(temperature) for temperature in plan.temperatures]

    def panels(rows_of) -> dict[str, Rows]:
        return {name: rows_of([row for row in told["rows"] if row["decoding"] == name]) for name in decodings}

    whiskers = "Bars: 95 % intervals (Wilson)."
    success = panels(lambda rows: _bars((suite_name(row["suite"]), row["policy"], row["success"]) for row in rows))
    found = [(SUCCESS, "Success by suite", whiskers, forest(success, names, "success, %"))]
    if len(names) > 1:
        gaps = {name: _gap_bars(told, name) for name in decodings}
        title = f"Success minus that of {names[0]}"
        caption = (
            "Bars: 95 % intervals of paired differences (bootstrap over training seeds and states). Hollow: the "
            "interval holds zero, the difference is noise."
        )
        found.append((DIFFERENCES, title, caption, forest(gaps, names, "difference, points", differences=True)))
    leading = next((s.name for s in plan.suites if s.name.removeprefix(TUNING) == IN_DOMAIN), plan.suites[0].name)
    by_task = panels(lambda rows: _parts([row for row in rows if row["suite"] == leading], "tasks"))
    found.append(("", f"{suite_name(leading)}: success by task", whiskers, forest(by_task, names, "success, %")))
    by_kind = panels(lambda rows: _parts(rows, "kinds"))
    if any(by_kind.values()):
        found.append(("", "Success by kind", whiskers, forest(by_kind, names, "success, %")))
    return found


def _parts(rows: Sequence[Mapping[str, Any]], field: str) -> Rows:
    """Success by task or kind; a kind is named after its suite, whose names may recur in another."""
    return _bars(
        (f"{suite_name(row['suite'])}: {part}" if field == "kinds" else part, row["policy"], cell)
        for row in rows
        for part, cell in row[field].items()
    )


def _bars(cells) -> Rows:
    """(row, policy, estimate) of shares, in per cent; without what was not measured."""
    found: dict[str, dict[str, Bar]] = {}
    for row, policy, cell in cells:
        if cell["trials"]:
            found.setdefault(row, {})[policy] = Bar(*(100 * cell[key] for key in ("rate", "low", "high")))
    return found


def _gap_bars(told: Mapping[str, Any], name: str) -> Rows:
    found: dict[str, dict[str, Bar]] = {}
    for gap in told["differences"]:
        if gap["decoding"] == name:
            bar = Bar(gap["points"], gap["low"], gap["high"], gap["noise"])
            found.setdefault(suite_name(gap["suite"]), {})[gap["policy"]] = bar
    return found


def footer(told: Mapping[str, Any], plan: Plan, results: Sequence[Result]) -> dict[str, str]:
    """What was run, by name: enough to run it again."""
    ids = {result.job.adapter: result.adapter_id for result in results}
    return {
        "model": f"{told['model']} ({told['base_hash']})",
        **{
            f"policy {policy.name}": "; ".join(
                f"adapter {ids[adapter] or 'without an id'} ({adapter})" if adapter else "the base model alone"
                for adapter in policy.adapters
            )
            for policy in plan.policies
        },
        **{f"suite {suite.name}": f"{_states(plan, suite)} (suite {suite.hash[:12]})" for suite in plan.suites},
        "sampling seed": f"{plan.seed} plus the initial state",
        "budget": f"{len(results):,} rollouts, {sum(result.steps for result in results):,} steps",
        "versions": f"grape {CODE_VERSION}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES),
    }


def _states(plan: Plan, suite: Suite) -> str:
    """Items with their initial states; a run of ids as its two ends."""

    def told(states: Sequence[int]) -> str:
        whole = list(states) == list(range(states[0], states[-1] + 1))
        return f"{states[0]} to {states[-1]}" if whole and len(states) > 1 else ", ".join(map(str, states))

    return "; ".join(f"{item.task} {item.variant} {told(item.states)}" for item in plan.items(suite))


def _notes(plan: Plan, mistakes: bool) -> str:
    said = (
        "Small: 95 % intervals and trials; Wilson for shares, Student's t for steps, both with trials taken as "
        "independent. Success, grasp and collision are the simulated world's own judgement, which training never sees."
    )
    if mistakes:
        said += " Wrong candidate: the other one of two was taken, which fails the episode."
    if len(plan.policies) > 1:
        said += (
            f" Differences are paired with {plan.policies[0].name} by state and sampling seed, with a bootstrap over "
            "training seeds and states; those of steps are over the states in which both succeed. Bold: the interval "
            "leaves zero out; else it is noise. Unseen together: every suite weighs the same, a state is drawn with "
            "all its suites."
        )
    return said


def _share(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['rate']:.1f} % of {cell['trials']} ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
