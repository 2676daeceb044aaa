import dataclasses
import math
import shutil

import numpy as np
import pytest

from grape_episode.reader import read_episode
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.approvals import NotApprovedError
from grape_reward.errors import ScoreError, TaskError
from grape_reward.gcpg import Lambdas
from grape_reward.score import score_episode
from grape_reward.tasks import SHIPPED, TASKS, library
from grape_reward.version import code_version


def test_a_bag_gives_the_score_of_the_episode_it_was_made_of(tmp_path):
    episode = make_episode(3, steps=20, variant="obstacle", objective="safety")
    read = read_episode(write_episode(episode, tmp_path / "bag"))
    assert score_episode(read).hash == score_episode(episode).hash
    score = score_episode(read)
    assert (score.episode_id, score.task, score.initial_state, score.objective) == (
        episode.identity.episode_id, "carrot_on_plate", 100_000, "safety",
    )  # fmt: skip
    task = TASKS["carrot_on_plate"]
    assert (score.cost_program_hash, score.task_hash, score.approved) == (task.program_hash, task.task_hash, True)
    assert score.code_version == code_version() and score.outcome == "success" and score.review == ""


def test_the_objective_asked_for_comes_before_the_episodes_own():
    episode = make_episode(3, steps=20, variant="obstacle", objective="safety")
    assert score_episode(episode, "efficiency").objective == "efficiency"
    unnamed = dataclasses.replace(episode, identity=dataclasses.replace(episode.identity, objective=""))
    assert score_episode(unnamed).objective == "task_completion"


def test_lambdas_enter_the_reward_and_the_score():
    episode = make_episode(3, steps=20)
    score = score_episode(episode, lambdas=Lambdas(0.0, 1.0, 0.0))
    assert score.reward == pytest.approx(math.exp(score.log_r_ext), rel=1e-12)
    assert score.lambdas == (0.0, 1.0, 0.0)


def test_r_self_is_unknown_without_log_probs_and_the_score_stands_otherwise():
    episode = make_episode(3, steps=20)
    steps = list(episode.steps)
    steps[5] = dataclasses.replace(steps[5], logprobs=np.full(7, np.nan, np.float32))
    score = score_episode(dataclasses.replace(episode, steps=tuple(steps)))
    assert math.isnan(score.r_self) and math.isnan(score.r_self_per_token) and math.isnan(score.reward)
    assert score.log_r_ext == score_episode(episode).log_r_ext and score.success == 1


def test_episodes_that_cannot_be_scored_are_named():
    episode = make_episode(3, steps=20, task="fold_towel")
    with pytest.raises(TaskError, match="fold_towel"):
        score_episode(episode)
    with pytest.raises(ScoreError, match="carrot_on_plate-100000-3: no outcome"):
        score_episode(dataclasses.replace(make_episode(3), outcome=None))


def test_a_program_that_nobody_approved_scores_on_a_persons_word_only_and_the_score_says_so(tmp_path):
    shutil.copytree(SHIPPED / "carrot_on_plate", tmp_path / "carrot_on_plate")
    (tmp_path / "carrot_on_plate" / "approvals.yaml").unlink()
    episode, tasks = make_episode(3, steps=20), library(tmp_path)
    with pytest.raises(NotApprovedError, match="carrot_on_plate"):
        score_episode(episode, tasks=tasks)
    score = score_episode(episode, tasks=tasks, unapproved=True)
    assert not score.approved and score == dataclasses.replace(score_episode(episode), approved=False)


def test_a_confidence_below_the_tasks_is_a_lost_keypoint_from_a_bag_too(tmp_path):
    episode = make_episode(3, steps=20, success=False)
    sure = np.ones(episode.keypoints.values.shape[:2])
    sure[-1, 0] = 0.49
    doubtful = dataclasses.replace(episode, confidence=dataclasses.replace(episode.keypoints, values=sure))
    score = score_episode(doubtful)
    assert score.outcome == "review" and score.undecided == ("the last observation: lost keypoint carrot",)
    assert score_episode(read_episode(write_episode(doubtful, tmp_path / "bag"))).hash == score.hash
    sure[-1, 0] = 0.5
    assert score_episode(doubtful).outcome == "failure"
