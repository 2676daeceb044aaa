from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.episode import (
    DEMONSTRATION,
    GATE_VETOED,
    PERSON_DROVE,
    EpisodeError,
    Series,
    World,
    differences,
    step_problems,
)
from grape_episode.synthetic import make_episode

EPISODE = make_episode(seed=2, steps=6)
SEEN = {step.stamp for step in EPISODE.steps}


def problems(steps=EPISODE.steps, outcome=EPISODE.outcome, seen=SEEN, identity=EPISODE.identity):
    return step_problems(identity, tuple(steps), outcome, seen)


def test_a_whole_episode_has_no_problems():
    assert problems() == []
    assert EPISODE.complete


def test_each_kind_of_damage_has_its_line():
    steps = EPISODE.steps
    assert problems(steps[:-2]) == ["missing: steps 4, 5"]
    assert problems(
        [*steps, replace(steps[5], index=6, stamp=steps[5].stamp + 1)], seen=SEEN | {steps[5].stamp + 1}
    ) == ["step 6 beyond the 6 that the outcome counts"]
    twice = problems([*steps[:3], steps[2], *steps[3:]])
    assert twice[0] == "recorded twice: step 2" and twice[1].startswith("out of order")
    assert problems([steps[1], steps[0], *steps[2:]])[0].startswith("out of order: step 0")
    assert problems(seen=SEEN - {steps[4].stamp}) == ["no image for step 4"]
    assert problems(outcome=None) == ["no outcome: the recording ended before the episode did"]
    assert problems((), outcome=None)[0] == "no steps"
    other = replace(steps[3], base_hash="0" * 64)
    assert problems([*steps[:3], other, *steps[4:]])[0].startswith("the model changed at step 3")


def test_a_demonstration_has_pictures_and_no_steps():
    identity = replace(EPISODE.identity, notes=("seed 3", DEMONSTRATION))
    outcome = replace(EPISODE.outcome, steps=0)
    assert problems((), outcome, identity=identity) == []
    assert problems((), outcome, seen=set(), identity=identity) == ["no image"]
    assert problems((), outcome) == ["no steps"]
    assert identity.demonstration and not EPISODE.identity.demonstration


def test_who_moved_the_arm_is_known():
    moves = Series(np.array([5, 6]), np.zeros((2, 7)))
    assert not EPISODE.driven and replace(EPISODE, operator=moves).driven
    assert replace(EPISODE, identity=replace(EPISODE.identity, notes=(DEMONSTRATION,))).driven
    assert EPISODE.released is None
    held = replace(EPISODE.gate[3], verdict=GATE_VETOED, check="dead_man")
    assert replace(EPISODE, gate=(*EPISODE.gate[:3], held)).released == 3
    assert EPISODE.intervention == "" and replace(EPISODE, operator=moves).intervention == PERSON_DROVE
    assert "step 3" in replace(EPISODE, gate=(*EPISODE.gate[:3], held)).intervention


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 5), max_size=5), st.sets(st.integers(0, 5), max_size=5))
def test_exactly_what_was_taken_away_is_missed(lost_steps, lost_images):
    steps = [step for step in EPISODE.steps if step.index not in lost_steps]
    seen = {step.stamp for step in EPISODE.steps if step.index not in lost_images}
    text = " ".join(problems(steps, seen=seen))
    blind = lost_images - lost_steps
    assert ("missing" in text) == bool(lost_steps)
    assert ("no image" in text) == bool(blind)
    numbers = {int(word.strip(",")) for word in text.split() if word.strip(",").isdigit()}
    if len(lost_steps) <= 5 and len(blind) <= 5:
        assert numbers == lost_steps | blind


def test_arrays_have_the_shapes_promised():
    assert EPISODE.images.shape == (6, 32, 32, 3) and EPISODE.images.dtype == np.uint8
    assert EPISODE.tokens.shape == (6, 7) and EPISODE.tokens.dtype == np.int32
    assert EPISODE.logprobs.shape == (6, 7) and EPISODE.logprobs.dtype == np.float32
    empty = replace(EPISODE, steps=())
    assert (empty.tokens.shape, empty.logprobs.shape, len(empty.images)) == ((0, 7), (0, 7), 0)
    blind = replace(EPISODE, steps=(EPISODE.steps[0], replace(EPISODE.steps[1], image=None)))
    with pytest.raises(EpisodeError, match="step 1 has no image"):
        _ = blind.images
    assert len(Series.empty(3)) == 0


def test_differences_are_bitwise_and_named():
    assert differences(EPISODE, make_episode(seed=2, steps=6)) == []
    logprobs = EPISODE.steps[1].logprobs.copy()
    logprobs[3] = np.nextafter(logprobs[3], 0)
    changed = replace(
        EPISODE, steps=(EPISODE.steps[0], replace(EPISODE.steps[1], logprobs=logprobs), *EPISODE.steps[2:])
    )
    assert differences(EPISODE, changed) == ["steps[1].logprobs"]
    assert differences(EPISODE, replace(EPISODE, steps=())) == ["steps: 6 and 0 entries"]
    assert differences(0.0, -0.0, "x") == ["x"]
    assert differences(math.nan, math.nan, "x") == []
    assert differences(1, True, "x") == ["x"]
    one, two = World(True, True, False, 0, 0.0, math.nan), World(True, True, False, 0, 0.0, 1.0)
    assert differences(one, two) == ["clearance"]
    wide = replace(EPISODE.tcp, values=EPISODE.tcp.values.astype(np.float32))
    assert differences(EPISODE.tcp, wide) == ["values"]
