import shutil

import pytest

from grape_episode.synthetic import INSTRUCTIONS
from grape_reward.approvals import NotApprovedError, approve
from grape_reward.errors import TaskError
from grape_reward.tasks import SHIPPED, TASKS, TaskLibrary, library, task_named


def test_the_four_tasks_of_the_paper_with_three_stages_each():
    assert {name: task.instruction for name, task in TASKS.items()} == INSTRUCTIONS
    for name, task in TASKS.items():
        assert task.name == name == task_named(name).name
        assert len(task.stages) == len(task.program.stages) == 3
        assert task.step_limit == 60
        kinds = [{term.kind for term in stage} for stage in task.program.stages]
        assert all(kind == {"target", "path", "collision", "grasp"} for kind in kinds)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_cost_can_be_worse_than_its_declared_worst_at_the_far_end_of_the_table(task):
    # The sim's table: objects within 0.66 m by 0.32 m of the base. Every declared worst must bound what can happen.
    spec = TASKS[task]
    for term in spec.program.terms:
        constraint = spec.constraints[term.name]
        assert constraint.worst > constraint.tau
    path = spec.constraints["stage1_path_constraint1"]
    assert path.worst >= 2 * spec.step_limit * 0.2


def test_an_unknown_task_is_named_with_those_there_are():
    with pytest.raises(TaskError, match=r"unknown task 'fold_towel': known are carrot_on_plate, .*spoon_on_towel"):
        task_named("fold_towel")


@pytest.fixture
def mine(tmp_path):
    """A folder with a task of a person's own, and another version of a shipped one."""
    for name in ("pepper_on_plate", "carrot_on_plate"):
        shutil.copytree(SHIPPED / "carrot_on_plate", tmp_path / name)
        text = (tmp_path / name / "task.yaml").read_text()
        (tmp_path / name / "task.yaml").write_text(
            text.replace("carrot_on_plate", name).replace("hold: 0.15", "hold: 1")
        )
    return tmp_path


def test_a_folder_of_ones_own_comes_before_the_shipped_tasks(mine):
    tasks = library(mine)
    assert list(tasks) == ["carrot_on_plate", "pepper_on_plate", *list(TASKS)[1:]]
    assert tasks["carrot_on_plate"].success.hold == 1.0 and TASKS["carrot_on_plate"].success.hold == 0.15
    assert tasks["carrot_on_plate"].task_hash != TASKS["carrot_on_plate"].task_hash
    assert next(iter(library(mine / "pepper_on_plate"))) == "pepper_on_plate"
    assert library("") is library(None) is TASKS


def test_a_mistake_in_one_task_is_none_in_another(mine):
    (mine / "pepper_on_plate" / "task.yaml").write_text("format: x")
    tasks = TaskLibrary(mine)
    assert tasks.named("carrot_on_plate").name == "carrot_on_plate"
    with pytest.raises(TaskError, match=r"pepper_on_plate/task\.yaml: "):
        tasks.named("pepper_on_plate")


def test_a_folder_without_a_task_is_named(tmp_path):
    with pytest.raises(TaskError, match=f"{tmp_path}: holds no task.yaml"):
        library(tmp_path)


def test_a_task_scores_once_its_program_is_approved_in_its_folder(mine):
    (mine / "pepper_on_plate" / "approvals.yaml").unlink()
    tasks = library(mine)
    with pytest.raises(NotApprovedError, match=r"pepper_on_plate.*--unapproved"):
        tasks.cleared("pepper_on_plate")
    task, approved = tasks.cleared("pepper_on_plate", unapproved=True)
    assert not approved
    approve(mine / "pepper_on_plate", task.program_hash, "ana", "read")
    assert tasks.cleared("pepper_on_plate") == (task, True)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_shipped_task_is_approved_as_it_is_now(task):
    """Who changes a shipped program approves it anew: `grape costs approve FILE --note ...`."""
    assert TASKS.cleared(task)[1]
