"""The report on worlds says the figures of the table, calls noise noise, and is one file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from grape import worlds, worlds_report, worlds_rows
from grape.evaluation import Job, Result
from grape.suites import load_suite
from grape.worlds_film import Film, Strip

SUITES = tuple(load_suite(name) for name in ("in_domain", "grounding", "action"))
BASE, TPO = worlds.Policy("base", ("",)), worlds.Policy("<b>tpo", ("/a", "/b"))


def plan(**changed) -> worlds.Plan:
    return worlds.Plan(**{"suites": SUITES, "policies": (BASE, TPO), "states": 6, **changed})


def result(job: Job) -> Result:
    """Greedy, base succeeds on every second state and the adapters nearly everywhere; at temperature 1 nobody does."""
    state = job.initial_state
    good = (state % 2 == 0 if not job.adapter else state % 6 != 5) and job.temperature == 0
    adapter = "ab" * 32 if job.adapter else ""
    mistaken = job.variant == "grounding" and not good
    return Result(job, good, True, state % 6 == 0, 20 if good else 60, -1, "x", "h", adapter, mistaken=mistaken)


def all_of(wanted: worlds.Plan) -> tuple[dict, list[Result]]:
    found = [result(job) for job in worlds.jobs(wanted)]
    return {"model": "mini", "base_hash": "f" * 64, **worlds.table(wanted, found)}, found


@pytest.fixture(scope="module")
def made() -> tuple[worlds.Plan, dict, list[Result]]:
    wanted = plan()
    return (wanted, *all_of(wanted))


def text(wanted: worlds.Plan, told: dict, found: list[Result], films: tuple[Film, ...] = ()) -> str:
    return worlds_report.render(told, wanted, found, (), films, {"command": "grape eval --suite a"})


def test_the_headline_table_has_a_row_a_policy_suite_and_decoding(made) -> None:
    wanted, told, _ = made
    groups = worlds_rows.groups(told, wanted)
    decodings = ("greedy", "temperature 1")
    names = [(group["suite"], group["decoding"]) for group in groups]
    assert names == [(s, d) for s in ("in domain", "grounding", "action", worlds.TOGETHER) for d in decodings]
    assert all([row["policy"] for row in group["rows"]] == ["base", "<b>tpo"] for group in groups)
    heads = worlds_rows.columns(wanted)
    assert all(len(row["cells"]) == len(heads) for group in groups for row in group["rows"])
    base, tpo = (dict(zip(heads, row["cells"], strict=True)) for row in groups[0]["rows"])
    row = next(r for r in told["rows"] if (r["policy"], r["suite"]) == ("<b>tpo", "in_domain"))
    shown = row["success"]
    assert base["success"]["value"] == "50.0 %" and base["success, minus base"]["value"] == ""
    assert tpo["success"]["value"] == f"{100 * shown['rate']:.1f} %"
    assert tpo["success"]["lines"][0] == f"{100 * shown['low']:.1f} to {100 * shown['high']:.1f}, n = 48"
    assert tpo["success"]["lines"][1].startswith("by training seed ")
    gap = next(g for g in told["differences"] if g["suite"] == "in_domain")
    assert tpo["success, minus base"]["value"] == f"{gap['points']:+.1f} points" and not gap["noise"]
    assert tpo["success, minus base"]["real"] and "noise" not in tpo["success, minus base"]["lines"][0]
    assert tpo["collision, minus base"]["lines"][0].endswith(", noise") and not tpo["collision, minus base"]["real"]


def test_a_figure_that_nobody_could_measure_is_no_number(made) -> None:
    wanted, told, _ = made
    never = worlds_rows.groups(told, wanted)[1]["rows"][1]["cells"]
    heads = worlds_rows.columns(wanted)
    assert never[heads.index("success")]["value"] == "0.0 %"
    assert never[heads.index("steps of successes")]["value"] == worlds_rows.UNKNOWN
    assert never[heads.index("steps, minus base")]["value"] == worlds_rows.UNKNOWN


def test_the_unseen_suites_together_weigh_the_same(made) -> None:
    wanted, told, _ = made
    row = next(g for g in worlds_rows.groups(told, wanted) if g["suite"] == worlds.TOGETHER)["rows"][1]
    rates = [
        r["success"]["rate"]
        for r in told["rows"]
        if (r["policy"], r["decoding"]) == ("<b>tpo", "greedy") and r["suite"] in ("grounding", "action")
    ]
    assert row["cells"][0]["value"] == f"{50 * sum(rates):.1f} %" and row["cells"][0]["lines"] == ["mean of 2 suites"]
    gap = next(g for g in told["differences"] if g["suite"] == worlds.TOGETHER)
    assert row["cells"][-3]["value"] == f"{gap['points']:+.1f} points"


def test_what_people_wrote_is_escaped_and_every_part_is_there(made) -> None:
    film = Film("a <i>title", (Strip("caption <i> one", "data:image/png;base64,AAAA"), Strip("no step", "")))
    page = text(*made, films=(film,))
    assert "<b>" not in page and "&lt;b&gt;tpo" in page and "caption &lt;i&gt; one" in page
    assert page.count("<img") == 1 and 'src="data:image/png;base64,AAAA"' in page
    assert "f" * 64 in page and "ab" * 32 in page and "grape eval --suite a" in page
    states = made[0].items(SUITES[0])[0].states
    assert f"{states[0]} to {states[-1]}" in page
    assert "wrong candidate" in page and "initial states were tried: 6." in page and "One training seed" not in page
    assert "unseen together, greedy: &lt;b&gt;tpo against base" in page
    assert "Film strips" not in text(*made)


def test_one_policy_has_no_differences_and_its_report_says_how_often_it_succeeds() -> None:
    wanted = plan(suites=SUITES[:1], policies=(BASE,), temperatures=(0.0,))
    told, found = all_of(wanted)
    page = text(wanted, told, found)
    assert "in domain, greedy: base succeeds in 50.0 % of 24" in page
    assert "minus" not in page and "wrong candidate" not in page
    drawn = worlds_report.plots(told, wanted)
    assert [title for _, title, *_ in drawn] == ["Success by suite", "in domain: success by task"]


def test_cautions_say_what_the_figures_do_not() -> None:
    tuned = plan(suites=(load_suite("tuning_in_domain"),), policies=(BASE, replace(TPO, adapters=("/a",))), states=0)
    told, _ = all_of(tuned)
    told["rows"][0]["errors"] = 3
    said = " ".join(worlds_report.cautions(told, tuned))
    for part in ("flatter the choice", "One training seed", "3 rollouts ended by an error"):
        assert part in said
    assert "were tried" not in said
    few = plan(suites=SUITES[:1], states=2)
    assert "8 states in a suite" in " ".join(worlds_report.cautions(all_of(few)[0], few))
    whole = plan(states=0, temperatures=(0.0,), policies=(BASE,))
    assert worlds_report.cautions({"rows": [], "differences": []}, whole) == []


def test_the_report_is_one_file_that_fetches_nothing(made, tmp_path: Path) -> None:
    wanted, told, found = made
    (tmp_path / worlds_report.DIFFERENCES).write_text("of an earlier run")
    path = worlds_report.write(tmp_path, told, wanted, found)
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and "<script" not in page
    without = re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", page, flags=re.DOTALL)
    assert "http" not in without, "nothing but names of formats"
    for name in (worlds_report.SUCCESS, worlds_report.DIFFERENCES):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    alone = plan(policies=(BASE,))
    told, found = all_of(alone)
    worlds_report.write(tmp_path, told, alone, found)
    assert not (tmp_path / worlds_report.DIFFERENCES).exists(), "it would be of another run"
