"""Live, replayed and offline: the same score of an episode that was recorded in the simulator, bit for bit."""

from pathlib import Path

import pytest

from grape.paths import default_model
from grape.three_ways import score_three_ways
from grape_reward.result import Score
from grape_trainer.rig import Job

pytestmark = pytest.mark.ros


def test_three_episodes_score_the_same_live_replayed_and_offline(tmp_path: Path) -> None:
    jobs = [
        Job("carrot_on_plate", 300_000, 1, variant="clean"),
        Job("green_cube_on_yellow_cube", 300_001, 2, variant="obstacle", objective="safety", step_limit=12),
        Job("spoon_on_towel", 300_002, 3, variant="distractors", objective="efficiency", step_limit=12),
    ]
    found = score_three_ways(default_model(), jobs, tmp_path)
    assert len(found) == 3
    for one in found:
        assert one.live == one.replayed == one.offline, one.episode_id
        score = Score.from_json(one.live)
        assert one.equal and score.approved and not score.incomplete, score.problems
        assert score.stages_reached >= 1 and score.r_self == score.r_self
    assert {Score.from_json(one.live).objective for one in found} == {"task_completion", "safety", "efficiency"}
    assert len({one.hashes for one in found}) == 3
