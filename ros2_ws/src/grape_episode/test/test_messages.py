from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from grape_episode import messages, ros, topics
from grape_episode.episode import differences
from grape_episode.synthetic import make_episode
from grape_episode.typestore import blank, typestore

EPISODE = make_episode(seed=4, steps=2)
ID = EPISODE.identity.episode_id
CASES = {
    topics.EPISODE: (lambda m: messages.fill_identity(m, EPISODE.identity), messages.identity_of, EPISODE.identity),
    topics.OUTCOME: (lambda m: messages.fill_outcome(m, EPISODE.outcome, ID), messages.outcome_of, EPISODE.outcome),
    topics.POLICY_STEP: (
        lambda m: messages.fill_step(m, EPISODE.steps[1], ID),
        messages.step_of,
        replace(EPISODE.steps[1], image=None),
    ),
    topics.GATE_STATUS: (lambda m: messages.fill_gate(m, EPISODE.gate[1]), messages.gate_of, EPISODE.gate[1]),
    topics.WORLD_STATUS: (lambda m: messages.fill_world(m, EPISODE.world, 5, ID), messages.world_of, EPISODE.world),
}


@pytest.mark.parametrize("topic", CASES)
def test_rclpy_and_rosbags_messages_hold_the_same(topic):
    fill, read, value = CASES[topic]
    name = topics.DATA_TYPES[topic]
    ours, theirs = blank(name), ros.message_class(name)()
    fill(ours)
    fill(theirs)
    assert differences(read(ours), value) == []
    assert differences(read(theirs), value) == []
    # and they cross: what one serialises the other reads
    from_ros = typestore().deserialize_cdr(serialize_message(theirs), name)
    assert differences(read(from_ros), value) == []
    to_ros = deserialize_message(bytes(typestore().serialize_cdr(ours, name)), ros.message_class(name))
    assert differences(read(to_ros), value) == []


@pytest.mark.parametrize("field", ["token_ids", "logprobs", "margins", "action"])
def test_a_step_of_other_than_seven_tokens_is_refused_by_field(field):
    message = blank(topics.DATA_TYPES[topics.POLICY_STEP])
    messages.fill_step(message, EPISODE.steps[0], ID)
    setattr(message, field, np.zeros(6, getattr(message, field).dtype))
    with pytest.raises(ValueError, match=f"step 0 has 6 {field.replace('token_ids', 'tokens')}, expected 7"):
        messages.step_of(message)
