from __future__ import annotations

from dataclasses import replace

import pytest

from grape_episode import topics, writer
from grape_episode.reader import read_episode
from grape_episode.recording import Recording, RecordingError, RecordingSettings
from grape_episode.synthetic import episode_messages, make_episode
from grape_episode.typestore import typestore
from grape_episode.writer import DiskFullError

EPISODE = make_episode(seed=8, steps=3)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stream(episode=EPISODE):
    return [(t, bytes(typestore().serialize_cdr(m, topics.DATA_TYPES[t]))) for t, _, m in episode_messages(episode)]


def begin(root, episode=EPISODE, clock=None, **settings):
    settings = RecordingSettings(root, disk_floor=0, **settings)
    return Recording(settings, stream(episode)[0][1], 0, clock or Clock())


def feed(recording, entries):
    for n, (topic, data) in enumerate(entries):
        recording.take(topic, data, n + 1)


def test_it_is_done_when_everything_the_outcome_counts_is_here_in_any_order(tmp_path):
    recording = begin(tmp_path)
    body, outcome = stream()[1:-1], stream()[-1]
    late = [entry for entry in body if entry[0] in (topics.MODEL_INPUT, topics.GATE_STATUS)]
    feed(recording, [entry for entry in body if entry not in late])
    feed(recording, [outcome])
    for entry in late:
        assert not recording.done()
        feed(recording, [entry])
    assert recording.done()
    summary = recording.finish(10**6)
    assert summary.complete, summary.problems
    assert read_episode(summary.path).complete
    assert summary.size == sum(file.stat().st_size for file in summary.path.iterdir())


@pytest.mark.parametrize("topic", [topics.CURRENT_POSE, topics.KEYPOINTS, topics.JOINT_STATES, topics.WORLD_STATUS])
def test_it_waits_for_the_last_observation(tmp_path, topic):
    # a status of the world at every step, as the simulator sends it
    entries = stream()[1:]
    early = [entry for entry in stream(replace(EPISODE, outcome=None)) if entry[0] == topics.WORLD_STATUS]
    clock = Clock()
    recording = begin(tmp_path, clock=clock)
    last = [entry for entry in entries if entry[0] == topic][-1]
    entries.remove(last)
    if topic == topics.WORLD_STATUS:
        entries.insert(0, _earlier(early[0]))
    feed(recording, entries)
    assert not recording.done()
    feed(recording, [last])
    assert recording.done()
    recording.finish(10**6)


def _earlier(entry):
    message = typestore().deserialize_cdr(entry[1], topics.DATA_TYPES[entry[0]])
    message.header.stamp.sec = 0
    return entry[0], bytes(typestore().serialize_cdr(message, topics.DATA_TYPES[entry[0]]))


def test_it_waits_for_the_missing_only_so_long(tmp_path):
    clock = Clock()
    recording = begin(tmp_path, clock=clock, drain_seconds=2.0)
    feed(recording, [entry for entry in stream()[1:] if entry[0] != topics.POLICY_STEP])
    clock.now = 1.9
    assert not recording.done()
    clock.now = 2.1
    assert recording.done()
    summary = recording.finish(10**6)
    assert not summary.complete
    assert "no steps" in summary.problems
    assert summary.problems == read_episode(summary.path).problems


def test_the_identity_announced_must_be_the_one_prepared(tmp_path):
    changed = replace(EPISODE, identity=replace(EPISODE.identity, seed=99))
    recording = begin(tmp_path)
    feed(recording, [stream()[0]])  # the same: not written twice
    feed(recording, [stream(changed)[0], *stream()[1:]])
    summary = recording.finish(10**6)
    assert summary.problems == (
        f"{topics.EPISODE}: the identity announced differs from the one that the recording began with",
    )
    assert read_episode(summary.path).problems == summary.problems


def test_another_episodes_messages_are_noted_and_its_outcome_does_not_end_this_one(tmp_path):
    other = make_episode(seed=9, steps=3)
    recording = begin(tmp_path)
    feed(recording, [entry for entry in stream(other) if entry[0] in (topics.POLICY_STEP, topics.OUTCOME)][-2:])
    assert not recording.done()
    feed(recording, stream()[1:])
    assert recording.done()
    assert f"step 2 of another episode: {other.identity.episode_id}" in recording.finish(10**6).problems


def test_steps_of_the_episode_before_that_come_late_are_left_out(tmp_path):
    before = make_episode(seed=9, steps=3)
    settings = RecordingSettings(tmp_path, disk_floor=0)
    recording = Recording(settings, stream()[0][1], 0, previous=before.identity.episode_id)
    feed(recording, [entry for entry in stream(before) if entry[0] == topics.POLICY_STEP])
    feed(recording, stream()[1:])
    summary = recording.finish(10**6)
    assert summary.complete, summary.problems
    assert [step.index for step in read_episode(summary.path).steps] == [0, 1, 2]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "-x\n"])
def test_ids_that_are_no_folder_name_are_refused(tmp_path, name):
    episode = replace(EPISODE, identity=replace(EPISODE.identity, episode_id=name))
    with pytest.raises(RecordingError, match="episode_id"):
        begin(tmp_path, episode)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_compression_is_refused_by_name(tmp_path):
    with pytest.raises(RecordingError, match="compression is 'zip', expected one of none, lz4, zstd"):
        RecordingSettings(tmp_path, compression="zip")


def test_a_bag_of_that_name_a_file_in_the_way_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    begin(tmp_path).finish(1)
    with pytest.raises(RecordingError, match="there is a bag of that name already"):
        begin(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="Not a directory"):
        begin(tmp_path / "file")
    monkeypatch.setattr(writer, "free_bytes", lambda folder: 10**6)
    with pytest.raises(DiskFullError, match="below the floor of 1000 MB"):
        Recording(RecordingSettings(tmp_path / "new"), stream()[0][1], 0)
