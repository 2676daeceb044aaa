import copy
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from grape_reward.errors import CostError, TaskError
from grape_reward.predicates import AnyOf, Between, Force, GripperWidth, Height, Moved, Not
from grape_reward.result import Score
from grape_reward.spec import Constraint
from grape_reward.task_file import TaskFileError, load_task
from grape_reward.task_schema import MEASURES, ConstraintFields, SuccessFields, TaskFields
from grape_reward.tasks import SHIPPED, TASKS

CARROT = yaml.safe_load((SHIPPED / "carrot_on_plate" / "task.yaml").read_text())


@pytest.fixture
def write(tmp_path):
    """Writes the carrot's task with changes: {path of fields: value, or Ellipsis to leave it out}."""
    folder = tmp_path / "carrot_on_plate"
    folder.mkdir()
    shutil.copy(SHIPPED / "carrot_on_plate" / "program.txt", folder)

    def write(changes) -> Path:
        told = copy.deepcopy(CARROT)
        for path, value in changes.items():
            *above, last = path
            at = told
            for part in above:
                at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
            if value is ...:
                del at[last]
            else:
                at[last] = value
        (folder / "task.yaml").write_text(yaml.safe_dump(told))
        return folder

    return write


def test_unchanged_it_is_the_shipped_task(write):
    task = load_task(write({}))
    assert task.task_hash == TASKS["carrot_on_plate"].task_hash
    assert load_task(write({}) / "task.yaml").folder == task.folder


def test_layout_and_comments_do_not_change_the_hash(write):
    folder = write({})
    before = load_task(folder).task_hash
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text("# mine\n" + text.replace("step_limit: 60", "step_limit:   60 # steps"))
    assert load_task(folder).task_hash == before
    (folder / "task.yaml").write_text(text.replace("step_limit: 60", "step_limit: 61"))
    assert load_task(folder).task_hash != before


def test_a_constraint_may_have_numbers_of_its_own(write):
    own = {"tau": 0.5, "over_time": "mean"}
    task = load_task(write({("constraints",): {"stage1_path_constraint1": own}}))
    assert task.constraints["stage1_path_constraint1"] == Constraint(0.5, 0.1, 30.0, "mean")
    assert task.constraints["stage2_path_constraint1"] == Constraint(2.0, 0.1, 30.0, "integral")


def test_objectives_of_ones_own_stand_beside_the_presets(write):
    task = load_task(write({("objectives",): {"gentle": {"beta": {"grasp": 3}, "tau": {"grasp": 0.5}}}}))
    assert list(task.objectives) == ["task_completion", "safety", "efficiency", "gentle"]
    assert task.objectives["gentle"].beta == {"grasp": 3.0}


def test_every_form_of_condition(write):
    told = {
        "any": [
            {"not": {"measure": "force", "at_most": 5}},
            {"measure": "height", "of": "carrot", "over": "tcp", "at_least": -0.1, "at_most": 0.1},
            {"measure": "moved", "of": "plate", "at_least": 0.02},
            {"measure": "gripper_width", "at_most": 0.01},
        ]
    }
    task = load_task(write({("stages", 0, "until"): told, ("up",): "y"}))
    assert task.boundaries[0] == AnyOf(
        (
            Not(Between(Force(), at_most=5.0)),
            Between(Height(0, -1, 1), -0.1, 0.1),
            Between(Moved(1), at_least=0.02),
            Between(GripperWidth(), at_most=0.01),
        )
    )
    assert task.reads_force and not TASKS["carrot_on_plate"].reads_force


RISE = {"measure": "rise", "of": "carrot", "at_least": 0.01}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({("format",): "grape-task-2"}, "format: "),
        ({("step_limit",): 0}, "step_limit: "),
        ({("step_limit",): "60"}, "step_limit: "),
        ({("speed",): 1}, "speed: Extra inputs"),
        ({("up",): ...}, "up: Field required"),
        ({("name",): "carrot"}, "name: 'carrot' in the folder carrot_on_plate"),
        ({("program",): "other.txt"}, r"program: .*other\.txt: no such file"),
        ({("program",): "../program.txt"}, "program: "),
        ({("keypoints", 1, "name"): "carrot"}, r"keypoints\[1\]\.name: 'carrot' is given twice"),
        ({("keypoints", 1, "name"): "tcp"}, r"keypoints\[1\]\.name: tcp is the tool centre point"),
        ({("keypoints", 0, "colour"): "red"}, r"keypoints\[0\]\.colour: "),
        ({("stages", 0, "until"): ...}, r"stages\[0\]\.until: missing"),
        ({("stages", 2, "until"): RISE}, r"stages\[2\]\.until: the last stage ends with success"),
        ({("stages", 0, "until", "all", 0, "of"): "cup"}, r"stages\[0\]\.until\.all\[0\]\.of: no keypoint 'cup'"),
        ({("stages", 0, "until", "all", 1, "between", 1): "cup"}, r"stages\[0\]\.until\.all\[1\]\.between\[1\]: no"),
        ({("stages", 0, "until", "all", 1, "between"): ["tcp"]}, r"stages\[0\]\.until\.all\[1\]\.between.*: "),
        ({("stages", 0, "until", "all", 1, "at_most"): "5 cm"}, r"stages\[0\]\.until\.all\[1\]\.at_most: "),
        ({("stages", 0, "until", "all", 1, "at_most"): float("inf")}, r"stages\[0\]\.until\.all\[1\]\.at_most: "),
        ({("stages", 0, "until", "all", 1, "colour"): 1}, r"stages\[0\]\.until\.all\[1\]\.colour: "),
        ({("stages", 1, "until"): {"measure": "speed", "at_most": 1}}, r"stages\[1\]\.until: a condition has one of"),
        ({("stages", 1, "until"): {"all": [RISE], "any": [dict(RISE)]}}, r"stages\[1\]\.until: a condition has one of"),
        ({("stages", 1, "until"): "carrot.z > 1"}, r"stages\[1\]\.until: a condition has one of"),
        ({("stages", 1, "until"): {"not": {"measure": "force"}}}, r"stages\[1\]\.until\.not: needs at_least"),
        ({("stages", 1, "until"): {"any": []}}, r"stages\[1\]\.until\.any: "),
        ({("stages", 1, "until", "at_least"): 0.9}, r"stages\[1\]\.until: at_least 0\.9 is above at_most 0\.06"),
        ({("success", "hold"): -1}, r"success\.hold: "),
        ({("success", "gripper_open"): ...}, r"success\.gripper_open: "),
        ({("success", "still"): {"cup": 0.1}}, r"success\.still\.cup: no keypoint 'cup'"),
        ({("success", "when", "all", 1, "over"): "cup"}, r"success\.when\.all\[1\]\.over: no keypoint"),
        ({("defaults", "path"): ...}, r"constraints\.stage1_path_constraint1\.tau: missing, and defaults\.path"),
        ({("defaults", "path", "beta"): -1}, r"defaults\.path\.beta: "),
        ({("defaults", "path", "worst"): 1.0}, r"constraints\.stage1_path_constraint1\.worst: 1 is below tau 2"),
        ({("defaults", "path", "over_time"): "median"}, r"defaults\.path\.over_time: "),
        ({("defaults", "speed"): {}}, r"defaults\.speed"),
        ({("constraints",): {"stage4_path_constraint1": {}}}, r"constraints\.stage4_path_constraint1: no such"),
        ({("objectives",): {"gentle": {"beta": {"speed": 1}}}}, r"objectives\.gentle\.beta\.speed"),
        ({("stages",): CARROT["stages"][1:]}, r"stages: 2, but .*program\.txt has 3"),
        ({("instructions",): []}, "instructions: "),
        ({("instructions",): ["two\nlines"]}, r"instructions\[0\]: "),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_file_and_field_in_one_line(write, changes, named):
    folder = write(changes)
    with pytest.raises(TaskFileError, match=rf"^{folder}/task\.yaml: {named}") as error:
        load_task(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected fields, found nothing"),
        ("[]", "expected fields, found list"),
        ("a: [", "cannot be read"),
        ("a: 1\na: 2", "a is given twice"),
        ("a: &x 1\nb: *x", r"aliases \(\*\) are not read"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_what_is_no_task_file_is_refused_in_one_line(tmp_path, text, named):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(TaskFileError, match=named) as error:
        load_task(tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"task\.yaml: No such file"):
        load_task(tmp_path / "task.yaml")


def test_a_program_that_reads_keypoints_the_task_does_not_have_is_refused(write):
    folder = write({("keypoints",): CARROT["keypoints"][:1], ("stages", 1, "until"): RISE})
    told = yaml.safe_load((folder / "task.yaml").read_text())
    told["success"]["when"] = RISE
    (folder / "task.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(CostError, match=r"program\.txt:\d+:\d+: "):
        load_task(folder)


def test_the_page_on_task_files_names_every_field_measure_and_score():
    page = (Path(__file__).resolve().parents[4] / "docs" / "tasks.md").read_text()
    for model in (TaskFields, SuccessFields, ConstraintFields):
        missing = [name for name in model.model_fields if f"`{name}`" not in page and f"{name}:" not in page]
        assert missing == []
    assert [name for name in MEASURES if f"measure: {name}," not in page] == []
    identity = {"episode_id", "task", "initial_state", "objective", "stages_reached", "decomposition"}
    assert [f.name for f in fields(Score) if f.name not in identity and f"`{f.name}`" not in page] == []
