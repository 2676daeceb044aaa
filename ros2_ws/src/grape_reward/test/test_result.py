import dataclasses
import json
import math

import pytest

from grape_reward.result import Score, unscorable

SCORE = Score(
    "e-1", "carrot_on_plate", 7, "safety", -1.25, (0.1, 1.15, 0.0), 3, -12.5, -0.25, 1, 1.9, False, "a" * 64, "b" * 64,
    constraints=(("stage1_target_constraint1", 0.1),),
)  # fmt: skip


def test_json_is_canonical_and_reads_back():
    text = SCORE.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert Score.from_json(text) == SCORE
    assert Score.from_json(text).hash == SCORE.hash


def test_unknown_numbers_are_null_and_come_back_as_nan():
    score = unscorable("e", "t", 1, "o", "unknown task 't'")
    data = json.loads(score.to_json())
    assert data["reward"] is None and data["log_r_ext"] is None and data["incomplete"] is True
    back = Score.from_json(score.to_json())
    assert math.isnan(back.reward) and back.success == -1 and back.problems == ("unknown task 't'",)
    assert back.hash == score.hash


def test_the_last_bit_of_any_number_changes_the_hash():
    assert dataclasses.replace(SCORE, log_r_ext=math.nextafter(-1.25, 0)).hash != SCORE.hash
    assert dataclasses.replace(SCORE, lambdas=(0.01, 0.02, 2.0)).hash != SCORE.hash


@pytest.mark.parametrize("text", ["[]", "{}", '{"episode_id": "e"}'])
def test_what_is_no_score_is_refused(text):
    with pytest.raises(ValueError, match="not a score"):
        Score.from_json(text)
