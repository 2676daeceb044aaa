from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_episode import topics
from grape_episode.bag import Bag
from grape_episode.episode import CutOffError, EpisodeError
from grape_episode.reader import header_stamp
from grape_episode.replay import Pace, ReplaySettings, items, replayed
from grape_episode.synthetic import episode_messages, make_episode, write_episode
from grape_episode.typestore import typestore

EPISODE = make_episode(steps=4)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_episode(EPISODE, tmp_path_factory.mktemp("bags") / "bag")


def test_commands_never_go_onto_their_own_topics():
    for commands in ("remap", "skip"):
        settings = ReplaySettings(commands=commands)
        destinations = {settings.destination(topic) for topic in topics.DATA_TYPES}
        assert not destinations & {topics.POLICY_STEP, topics.TARGET_POSE, topics.STEP_COMMIT, topics.HEARTBEAT}
        assert {topics.MODEL_INPUT, topics.CURRENT_POSE, topics.KEYPOINTS, topics.OUTCOME} <= destinations
    assert ReplaySettings(commands="skip").destination(topics.POLICY_STEP) is None
    assert ReplaySettings().destination("/anything/else") is None
    assert replayed(topics.POLICY_STEP) == "/grape/replay/policy_step"
    assert replayed(topics.TARGET_POSE) == "/grape/replay/target_pose"


def test_times_are_those_of_the_headers_and_never_go_back(bag):
    played = list(items(bag, ReplaySettings()))
    assert [item.at for item in played] == sorted(item.at for item in played)
    assert played[0].topic == topics.EPISODE
    # the identity, announced earlier, is played together with the first observation
    assert played[0].at == played[1].at == EPISODE.steps[0].stamp
    assert all(item.at == header_stamp(item.data) for item in played[1:])
    assert played[-1].topic == topics.OUTCOME


def test_topics_can_be_left_out(bag):
    settings = ReplaySettings(commands="skip", skip=frozenset({topics.WRENCH, topics.EPISODE}))
    left = {item.topic for item in items(bag, settings)}
    assert not left & {topics.WRENCH, topics.EPISODE, replayed(topics.POLICY_STEP)}
    assert topics.KEYPOINTS in left


@pytest.mark.parametrize(
    ("field", "value"),
    [("commands", "maybe"), ("rate", -1.0), ("rate", float("nan")), ("skip", frozenset({"/nothing"}))],
)
def test_settings_are_refused_by_field(field, value):
    with pytest.raises(ValueError, match=field):
        replace(ReplaySettings(), **{field: value})


def test_a_bag_that_cannot_be_played_is_refused_before_the_first_item(bag, tmp_path):
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(next(bag.glob("*.mcap")).read_bytes()[:-9])
    with pytest.raises(CutOffError, match="grape recover"):
        items(cut, ReplaySettings())
    with pytest.raises(EpisodeError, match="no such bag"):
        items(tmp_path / "absent", ReplaySettings())


def test_a_topic_of_the_wrong_type_is_not_played(tmp_path):
    bag = Bag(tmp_path / "bag")
    (topic, _, message), *_ = episode_messages(EPISODE)
    name = topics.DATA_TYPES[topic]
    bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), 0)
    bag.write("/elsewhere", "std_msgs/msg/String", b"\0\1\0\0\1\0\0\0\0", 1)  # not ours: passed over
    bag.write(topics.KEYPOINTS, "std_msgs/msg/String", b"\0\1\0\0\1\0\0\0\0", 2)
    bag.close()
    with pytest.raises(EpisodeError, match="/grape/keypoints holds std_msgs/msg/String"):
        list(items(bag.folder, ReplaySettings()))


@given(st.integers(0, 2**60), st.floats(0, 1e6), st.floats(0.01, 100), st.floats(0, 1000))
def test_the_pace_is_the_rate(start, begun, rate, passed):
    pace = Pace(start, begun, rate)
    assert pace.at(begun) == start
    assert (pace.at(begun + passed) - start) / 1e9 == pytest.approx(passed * rate, rel=1e-6, abs=1e-6)
