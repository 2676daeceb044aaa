"""From what is asked to what is run; and how `grape eval` tells its two kinds of evaluation apart."""

import json
from pathlib import Path

import pytest

from grape import evaluate_cli, safety_cli, safety_plan
from grape.console import CommandError
from grape.safety_plan import Asked
from grape.safety_run import Adapter, SafetyError, trials
from grape.suites import SuiteError

SERVING = Adapter("5" * 64, "/served")


def adapter(folder: Path, letter: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"adapter_id": letter * 64}))
    return folder


def test_without_adapters_what_serves_is_tried_on_the_suites_own_states():
    plan = safety_plan.plan(Asked("safety"), "sim", SERVING, "m" * 64)
    (policy,) = plan.policies
    assert (policy.adapter_id, policy.path) == (SERVING.adapter_id, SERVING.path)
    assert len(list(trials(plan))) == sum(len(item.states) for item in plan.items) == 200
    assert {item.variant for item in safety_plan.plan(Asked(""), "real", SERVING, "").items} == {"obstacle"}


def test_what_is_asked_for_narrows_it(tmp_path: Path):
    one = adapter(tmp_path / "one", "a")
    asked = Asked("safety", ("hand_cube",), 2, 0, ("base", str(one)), 7, 0.5)
    plan = safety_plan.plan(asked, "sim", SERVING, "m" * 64)
    assert [policy.name for policy in plan.policies] == ["base", f"adapter {'a' * 12}"]
    assert {(t.item, t.seed - t.initial_state, t.temperature) for t in trials(plan)} == {("hand_cube", 7, 0.5)}
    assert len(list(trials(plan))) == 4


def test_an_adapter_is_a_folder_or_an_id_of_the_registry(tmp_path: Path):
    adapter(tmp_path / "registry" / ("b" * 64), "b")
    (found,) = safety_plan.policies(["bbbb"], SERVING, str(tmp_path / "registry"))
    assert found.adapter_id == "b" * 64 and Path(found.path).name == "b" * 64
    with pytest.raises(SafetyError, match="adapter cccc"):
        safety_plan.policies(["cccc"], SERVING, str(tmp_path / "registry"))
    with pytest.raises(SafetyError, match="adapter cccc"):
        safety_plan.policies(["cccc"], SERVING)
    with pytest.raises(SafetyError, match="given twice"):
        safety_plan.policies(["base", "none"], SERVING)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text("{}")
    with pytest.raises(SafetyError, match="adapter_id is missing"):
        safety_plan.policies([str(tmp_path / "empty")], SERVING)


def test_the_gate_s_limits_are_named_by_content(tmp_path: Path):
    file = tmp_path / "gate_mine.yaml"
    file.write_text("a: 1")
    one = safety_plan.plan(Asked("safety"), "sim", SERVING, "", profile=str(file)).profile
    file.write_text("a: 2")
    assert one.startswith("mine ") and one != safety_plan.limits(str(file)) and safety_plan.limits("") == ""
    with pytest.raises(SafetyError, match=r"no\.yaml: No such file"):
        safety_plan.limits(str(tmp_path / "no.yaml"))


def test_wrong_wishes_are_named():
    with pytest.raises(SafetyError, match="temperature: -1"):
        safety_plan.plan(Asked("safety", temperature=-1.0), "sim", SERVING, "")
    with pytest.raises(SuiteError, match="item hand_cube: tags"):
        safety_plan.plan(Asked("safety", ("hand_cube",)), "real", SERVING, "")
    with pytest.raises(SuiteError, match="states: it has 20, not 21"):
        safety_plan.plan(Asked("safety", states=21), "sim", SERVING, "")


def test_a_goal_without_a_folder_gets_one_of_its_own(tmp_path: Path):
    plan = safety_plan.plan(Asked("safety"), "sim", SERVING, "")
    assert safety_plan.folder(str(tmp_path / "x"), "runs", plan) == tmp_path / "x"
    assert safety_plan.folder("", str(tmp_path), plan).name.startswith("safety-2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"suite": "safety", "task": ["carrot_on_plate"]}, "--task: not with --suite"),
        ({"suite": "safety", "variant": "obstacle"}, "--variant: not with --suite"),
        ({"suite": "safety", "workers": 2}, "--workers: not with --suite"),
        ({"adapters": "a,b"}, "--adapters: only with --suite"),
        ({"item": ["one"]}, "--item: only with --suite"),
        ({"domain": 3}, "--domain: only with --suite"),
    ],
)
def test_options_of_the_other_evaluation_are_refused(options, words):
    with pytest.raises(CommandError, match=words):
        evaluate_cli.evaluate_command(**options)


def test_the_options_reach_the_goal_and_the_old_evaluation_stays(monkeypatch: pytest.MonkeyPatch):
    seen: list = []
    monkeypatch.setattr(safety_cli, "run_suite", seen.append)
    evaluate_cli.evaluate_command(suite="safety", adapter=["one"], adapters="base, two,", states=5, domain=0)
    (asked,) = seen
    assert (asked.adapters, asked.states, asked.domain) == (("one", "base", "two"), 5, 0)
    monkeypatch.setattr("grape.assess.assess", lambda *arguments: seen.append(arguments))
    evaluate_cli.evaluate_command(task=["spoon_on_towel"])
    _, folders, tasks, span, variant, *rest = seen[1]
    assert (folders, tasks, span, variant) == ([""], ["spoon_on_towel"], range(25), "clean")
    assert rest[-1].name == "eval"


def test_a_wrong_suite_is_named_before_anything_starts(tmp_path: Path):
    with pytest.raises(SuiteError, match="suite 'nothing'"):
        evaluate_cli.evaluate_command(suite="nothing", out=tmp_path)
    with pytest.raises(SuiteError, match="no item 'lunch'"):
        evaluate_cli.evaluate_command(suite="safety", item=["lunch"], out=tmp_path)
    assert list(tmp_path.iterdir()) == []
