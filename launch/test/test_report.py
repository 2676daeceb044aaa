"""Reports: everything shown is escaped, every figure comes from the data, the file is whole or not there."""

from pathlib import Path

import numpy as np
import pytest

from grape import charts, evaluation, report
from grape.evaluation import Job, Result


def results(rate: int, adapter: str) -> list[Result]:
    return [
        Result(Job("a", "clean", s, s, 0.0, adapter), s < rate, True, s % 2 == 0, 20 + s, 1, "success")
        for s in range(20)
    ]


def made(**changes: object) -> report.Report:
    metrics = evaluation.compare(results(8, ""), results(12, "x"))
    told: dict = {
        "title": "T <b>",
        "subtitle": "S",
        "words": ["better & better"],
        "names": ("SFT", "aligned"),
        "metrics": metrics,
        "figures": [report.Chart("C", "caption <i>", svg="<svg><g/></svg>")],
        "facts": {"path": "<script>alert(1)</script>"},
    }
    return report.Report(**{**told, **changes})


def test_what_people_and_models_wrote_is_escaped_and_charts_are_not() -> None:
    html = report.render(made())
    assert "T &lt;b&gt;" in html and "better &amp; better" in html and "caption &lt;i&gt;" in html
    assert "<script>" not in html and "<svg><g/></svg>" in html


def test_the_table_says_the_figures_of_the_data() -> None:
    rows = {row["name"]: row for row in report.table_rows(made().metrics)}
    assert rows["success"]["first"]["value"] == "40.0 %" and rows["success"]["second"]["value"] == "60.0 %"
    assert rows["success"]["difference"] == "+20.0 points"
    assert rows["steps"]["difference"] == "+0.0" and not rows["steps"]["beyond_noise"]


def test_the_report_is_one_file_and_nothing_is_fetched(tmp_path: Path) -> None:
    strip = charts.film_strip(np.zeros((9, 16, 16, 3), np.uint8))
    figure = report.Chart("F", "c", uri=charts.as_data_uri(strip))
    path = report.write(made(figures=[figure]), tmp_path / "deep" / "report.html")
    text = path.read_text()
    assert "data:image/png;base64," in text and "http" not in text and not list(path.parent.glob("*.part"))


def test_a_figure_that_is_missing_is_an_error_and_not_a_blank() -> None:
    metrics = {"success": {"first": {"rate": 1.0}, "second": {}, "paired": {}}}
    with pytest.raises(KeyError):
        report.render(made(metrics=metrics))


def test_charts_are_svg_of_their_data() -> None:
    rows = [{"update": u, "reward_chosen": 0.1 * u, "reward_rejected": -0.1 * u} for u in range(5)]
    assert charts.implicit_rewards(rows).startswith("<svg")
    bars = charts.stage_costs(["grasp", "move"], [[1.0, 2.0]], [[2.0, 3.0]])
    assert bars.startswith("<svg") and bars != charts.stage_costs(["grasp", "move"], [[1.0, 2.0]], [[2.0, 9.0]])
    drawn = charts.margins([0.0, 1.0, 2.0], [3, 1], [0, 2])
    assert drawn.startswith("<svg") and drawn != charts.margins([0.0, 1.0, 2.0], [3, 1], [0, 0])
    one = evaluation.summary(results(8, ""))["success"]
    assert charts.rates({"a_task": (one, one)}, ("SFT", "aligned")).startswith("<svg")


@pytest.mark.parametrize("frames", [1, 3, 8, 60])
def test_a_film_strip_shows_first_and_last(frames: int) -> None:
    film = np.zeros((frames, 10, 10, 3), np.uint8)
    film[0, :, :, 0] = 255
    film[-1, :, :, 2] = 255
    strip = np.asarray(charts.film_strip(film, count=4, height=20))
    assert strip.shape[0] == 20
    assert strip[-3, 2, 0] == 255 and strip[-3, -3, 2] == 255
