import dataclasses

import pytest

from grape_reward.errors import TaskError
from grape_reward.predicates import Between, HorizontalDistance
from grape_reward.spec import OBJECTIVES, Constraint, Objective
from grape_reward.tasks import TASKS

CARROT = TASKS["carrot_on_plate"]


def test_objectives_scale_the_constraints_of_their_kind_only():
    for stage in range(3):
        terms = CARROT.program.stages[stage]
        plain = CARROT.stage_constraints(stage, "task_completion")
        safe = CARROT.stage_constraints(stage, "safety")
        quick = CARROT.stage_constraints(stage, "efficiency")
        for term, base, safety, efficiency in zip(terms, plain, safe, quick, strict=True):
            assert base == CARROT.constraints[term.name]
            if term.kind == "collision":
                assert safety.tau < base.tau and safety.beta > base.beta and efficiency.beta == 0.0
            elif term.kind == "path":
                assert efficiency.tau < base.tau and efficiency.beta > base.beta and safety.beta == 0.0
            else:
                assert safety == efficiency == base


def test_an_unknown_objective_is_named_with_those_there_are():
    with pytest.raises(TaskError, match=r"'speed'.*task_completion, safety, efficiency"):
        CARROT.objective("speed")


def test_a_users_own_objective_is_one_more_entry():
    mine = {**OBJECTIVES, "gentle": Objective(beta={"grasp": 3.0})}
    task = dataclasses.replace(CARROT, objectives=mine)
    grasp = [
        c for t, c in zip(task.program.stages[0], task.stage_constraints(0, "gentle"), strict=True) if t.kind == "grasp"
    ]
    assert [c.beta for c in grasp] == [3.0 * CARROT.constraints["stage1_grasp_constraint1"].beta]


def test_numbers_and_program_must_fit():
    fewer = {name: c for name, c in CARROT.constraints.items() if name != "stage2_path_constraint1"}
    with pytest.raises(TaskError, match="stage2_path_constraint1"):
        dataclasses.replace(CARROT, constraints=fewer)
    with pytest.raises(TaskError, match="do not fit a cost program of 3 stages"):
        dataclasses.replace(CARROT, boundaries=CARROT.boundaries[:1])
    bad = {**CARROT.constraints, "stage1_path_constraint1": Constraint(0.0, -1.0, 1.0)}
    with pytest.raises(TaskError, match="stage1_path_constraint1"):
        dataclasses.replace(CARROT, constraints=bad)
    with pytest.raises(TaskError, match="speed"):
        dataclasses.replace(CARROT, objectives={"x": Objective(tau={"speed": 1.0})})


def test_the_task_hash_covers_the_program_and_every_number():
    def nudged(constraint):
        return dataclasses.replace(constraint, worst=constraint.worst + 1e-12)

    def success(**changes):
        return dataclasses.replace(CARROT, success=dataclasses.replace(CARROT.success, **changes))

    wider = Between(HorizontalDistance(0, 1, 2), at_most=0.0601)
    path = CARROT.constraints["stage1_path_constraint1"]
    variants = [
        CARROT,
        dataclasses.replace(CARROT, program=dataclasses.replace(CARROT.program, canonical="other")),
        dataclasses.replace(CARROT, boundaries=(CARROT.boundaries[0], wider)),
        success(when=wider),
        success(hold=0.16),
        success(gripper_open=0.059),
        success(still={0: 0.006}),
        dataclasses.replace(CARROT, confidence=0.6),
        dataclasses.replace(CARROT, lost_at_most=0.6),
        dataclasses.replace(CARROT, step_limit=61),
        dataclasses.replace(CARROT, obstacles=False),
        dataclasses.replace(CARROT, instructions=("put the carrot away",)),
        dataclasses.replace(CARROT, objectives={**OBJECTIVES, "gentle": Objective(beta={"grasp": 3.0})}),
        dataclasses.replace(
            CARROT,
            constraints={**CARROT.constraints, "stage1_path_constraint1": dataclasses.replace(path, over_time="mean")},
        ),
        *(
            dataclasses.replace(CARROT, constraints={**CARROT.constraints, name: nudged(c)})
            for name, c in CARROT.constraints.items()
        ),
        *(task for name, task in TASKS.items() if name != "carrot_on_plate"),
    ]
    hashes = [task.task_hash for task in variants]
    assert len(set(hashes)) == len(hashes)
    assert CARROT.task_hash == dataclasses.replace(CARROT, folder=None).task_hash
    assert all(len(value) == 64 for value in hashes)
    assert {task.program_hash for task in variants[2:8]} == {CARROT.program_hash}
