"""The loop without topics in worlds that the reward does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from grape.closed_loop import ClosedLoop
from grape.evaluation import WORLD, Job
from grape_policy.testing import write_random_checkpoint
from grape_reward.errors import TaskError
from grape_sim.judge import JudgeConfig
from grape_sim.scene import instruction_of
from grape_sim.world import WorldConfig


def test_worlds_tell_their_own_words_and_need_no_reward(tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "tiny")
    with ClosedLoop(model) as loop:
        job = Job("spoon_on_towel", "semantic", 63_001, 5, 1.0, "", WORLD, step_limit=2)
        ran = loop.run(job)
        words = instruction_of(job.task, job.variant, job.initial_state)
        assert ran.episode.identity.instruction == words != "put the spoon on the towel"
        assert {step.instruction for step in ran.episode.steps} == {words}
        assert ran.result.steps == 2 and ran.result.end_reason == "step_limit"
        plain = loop.run(Job(job.task, "clean", job.initial_state, 5, 1.0, "", WORLD, step_limit=2))
        assert plain.result.tokens_hash != ran.result.tokens_hash, "other words, another episode of the same scene"

        pressed = loop.run(Job("press_button", "clean", 64_000, 5, 1.0, "", WORLD, step_limit=2)).result
        assert (pressed.success, pressed.reward_success, pressed.steps) == (False, -1, 2)
        with pytest.raises(TaskError, match="press_button"):
            loop.run(Job("press_button", "clean", 64_000, 5, 1.0, ""))
    # a judge that says yes at once: its word ends the episode
    with ClosedLoop(model, world=WorldConfig(judge=JudgeConfig(rest_checks=0))) as loop:
        done = loop.run(Job("press_button", "clean", 64_000, 5, 1.0, "", WORLD)).result
        assert (done.success, done.end_reason, done.steps) == (True, "success", 0)
