import pytest

from grape_episode.synthetic import INSTRUCTIONS
from grape_reward.errors import TaskError
from grape_reward.tasks import TASKS, task_named


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
