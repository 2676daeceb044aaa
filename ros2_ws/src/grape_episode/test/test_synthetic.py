from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode import topics
from grape_episode.episode import differences
from grape_episode.synthetic import INSTRUCTIONS, episode_messages, knuckle_angle, make_episode


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.booleans(), st.sampled_from(sorted(INSTRUCTIONS)))
def test_an_episode_is_whole_and_repeatable(seed, steps, success, task):
    episode = make_episode(seed, steps, success, task)
    assert episode.complete
    assert len(episode.steps) == episode.outcome.steps == steps
    assert episode.outcome.success_reward == int(success) == int(episode.world.success)
    assert differences(episode, make_episode(seed, steps, success, task)) == []
    assert set(episode.tcp.stamps) >= {step.stamp for step in episode.steps} | {episode.outcome.stamp}
    assert (episode.logprobs <= 0).all()
    for series in (episode.tcp, episode.gripper, episode.keypoints, episode.wrench):
        assert np.isfinite(series.values).all()


def test_success_brings_the_object_to_the_target_and_failure_does_not():
    for seed in range(10):
        for success in (True, False):
            episode = make_episode(seed, 30, success)
            carried, target = episode.keypoints.values[-1, 0], episode.keypoints.values[-1, 1]
            assert (np.linalg.norm(carried[:2] - target[:2]) < 0.03) == success


def test_the_scene_depends_on_task_variant_and_initial_state_alone():
    first = make_episode(1, 5, initial_state=7).keypoints.values[0]
    assert np.array_equal(first, make_episode(2, 9, False, initial_state=7).keypoints.values[0])
    assert not np.array_equal(first, make_episode(1, 5, initial_state=8).keypoints.values[0])


def test_obstacles_and_names():
    assert make_episode(variant="obstacle").keypoints.names == ("carrot", "plate", "obstacle")
    assert make_episode(keypoint_names=("a", "b")).keypoints.names == ("a", "b")


def test_messages_come_in_the_order_of_lock_step():
    episode = make_episode(steps=3)
    order = [(topic, stamp) for topic, stamp, _ in episode_messages(episode)]
    assert order[0][0] == topics.EPISODE and order[-1][0] == topics.OUTCOME
    assert [stamp for _, stamp in order] == sorted(stamp for _, stamp in order)
    for step in episode.steps:
        here = [topic for topic, stamp in order if stamp == step.stamp]
        assert here.index(topics.CURRENT_POSE) < here.index(topics.MODEL_INPUT) < here.index(topics.POLICY_STEP)
        assert here.index(topics.POLICY_STEP) < here.index(topics.GATE_STATUS)


@given(st.floats(0, topics.KNUCKLE_CLOSED))
def test_a_knuckle_angle_is_found_for_every_opening_to_the_last_bit(knuckle):
    width = topics.gripper_width(knuckle)
    assert topics.gripper_width(knuckle_angle(width)) == width
    assert knuckle_angle(width) == pytest.approx(knuckle, abs=1e-12)
