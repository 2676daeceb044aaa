from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import Writer

from grape_episode import messages, reader, topics
from grape_episode.bag import Bag
from grape_episode.episode import CutOffError, EpisodeError, Series, differences
from grape_episode.reader import find_bags, read_episode, read_identity
from grape_episode.synthetic import episode_messages, make_episode, write_episode
from grape_episode.typestore import blank, typestore


def written(episode, path, keep=lambda topic, stamp: True, compression="zstd"):
    bag = Bag(path, compression)
    for n, (topic, stamp, message) in enumerate(episode_messages(episode)):
        if keep(topic, stamp):
            name = topics.DATA_TYPES[topic]
            bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), 1000 + n)
    bag.close()
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 9),
    success=st.booleans(),
    variant=st.sampled_from(["clean", "obstacle"]),
    samples=st.integers(1, 4),
    size=st.integers(1, 20),
    names=st.none() | st.lists(st.text("abc_", min_size=1, max_size=4), min_size=2, max_size=5, unique=True).map(tuple),
    text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20),
    compression=st.sampled_from(["none", "lz4", "zstd"]),
    drive=st.integers(0, 2),
)
def test_what_is_written_is_read_bit_for_bit(
    tmp_path_factory, seed, steps, success, variant, samples, size, names, text, compression, drive
):
    episode = make_episode(
        seed, steps, success, variant=variant, samples_per_step=samples, image_size=size, keypoint_names=names
    )
    identity = replace(episode.identity, instruction=text, notes=(text, "", text), seed=2**64 - 1 - seed)
    drove = Series(episode.tcp.stamps[:drive], np.random.default_rng(seed).normal(size=(drive, 7)))
    episode = replace(episode, identity=identity, operator=drove)
    path = write_episode(episode, tmp_path_factory.mktemp("bags") / "bag", compression)
    back = read_episode(path)
    assert differences(replace(episode, path=path), back) == []
    assert back.complete
    assert read_identity(path) == identity
    without = read_episode(path, images=False)
    blind = tuple(replace(step, image=None) for step in episode.steps)
    assert differences(replace(episode, path=path, steps=blind), without) == []


def test_the_file_itself_may_be_named(tmp_path):
    path = write_episode(make_episode(steps=2), tmp_path / "bag")
    assert differences(read_episode(path / "bag_0.mcap"), read_episode(path)) == []


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        (topics.OUTCOME, "no outcome: the recording ended before the episode did"),
        (topics.POLICY_STEP, "no steps"),
        (topics.MODEL_INPUT, "no image for steps 0, 1, 2"),
    ],
)
def test_a_lost_topic_is_listed(tmp_path, lost, problem):
    episode = read_episode(written(make_episode(steps=3), tmp_path / "bag", lambda topic, _: topic != lost))
    assert episode.problems == (problem,)
    assert not episode.complete


@pytest.mark.parametrize("images", [True, False])
def test_a_lost_step_and_a_lost_image_are_listed_by_number(tmp_path, images):
    whole = make_episode(steps=5)

    def keep(topic, stamp):
        return not (
            (topic == topics.POLICY_STEP and stamp == whole.steps[1].stamp)
            or (topic == topics.MODEL_INPUT and stamp == whole.steps[3].stamp)
        )

    episode = read_episode(written(whole, tmp_path / "bag", keep), images)
    assert episode.problems == ("missing: step 1", "no image for step 3")


def test_an_adapter_that_changes_within_is_listed(tmp_path):
    whole = make_episode(steps=4)
    steps = (*whole.steps[:2], *(replace(step, adapter_id="f" * 64, adapter_seq=1) for step in whole.steps[2:]))
    episode = read_episode(write_episode(replace(whole, steps=steps), tmp_path / "bag"))
    assert len(episode.problems) == 1
    assert episode.problems[0].startswith("the model changed at step 2")


def test_a_mixed_outcome_is_not_complete(tmp_path):
    whole = make_episode(steps=2)
    mixed = replace(whole, outcome=replace(whole.outcome, mixed_adapter=True))
    episode = read_episode(write_episode(mixed, tmp_path / "bag"))
    assert not episode.complete
    assert episode.problems == ("mixed: the outcome says that the adapter changed within the episode",)


def test_messages_after_the_outcome_and_of_other_episodes_are_listed(tmp_path):
    whole, other = make_episode(steps=2), make_episode(seed=9, steps=2)
    bag = Bag(tmp_path / "bag")
    stream = list(episode_messages(whole))
    stray = [entry for entry in episode_messages(other) if entry[0] in (topics.POLICY_STEP, topics.EPISODE)]
    for n, (topic, _, message) in enumerate([*stream, *stray]):
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), n)
    bag.close(["the disk was slow"])
    problems = read_episode(bag.folder).problems
    assert "the outcome is not the last message" in problems
    assert f"another episode was announced within: {other.identity.episode_id}" in problems
    assert f"step 0 of another episode: {other.identity.episode_id}" in problems
    assert "the disk was slow" in problems


def test_a_foreign_or_damaged_file_is_refused_by_name(tmp_path):
    empty, text, foreign = tmp_path / "a.mcap", tmp_path / "b.mcap", tmp_path / "c.mcap"
    empty.touch()
    text.write_text("not a bag" * 100)
    with open(foreign, "wb") as stream:
        writer = Writer(stream)
        writer.start(profile="ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
        writer.add_message(writer.register_channel("/chatter", "cdr", schema), 0, b"\0\1\0\0\1\0\0\0\0", 0)
        writer.finish()
    for file, reason in ((empty, "is empty"), (text, "not an MCAP"), (foreign, "the first message is on /chatter")):
        for read in (read_episode, read_identity):
            with pytest.raises(EpisodeError, match=reason) as raised:
                read(file)
            assert str(raised.value).startswith(str(file))
    with pytest.raises(EpisodeError, match="no such bag"):
        read_episode(tmp_path / "nowhere")
    with pytest.raises(EpisodeError, match=r"holds 3 \.mcap files"):
        read_episode(tmp_path)


def test_a_topic_of_the_wrong_type_is_refused_by_name(tmp_path):
    bag = Bag(tmp_path / "bag")
    (topic, _, message), *_ = episode_messages(make_episode(steps=1))
    name = topics.DATA_TYPES[topic]
    bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), 0)
    bag.write(topics.KEYPOINTS, "std_msgs/msg/String", b"\0\1\0\0\1\0\0\0\0", 1)
    bag.close()
    with pytest.raises(EpisodeError, match="/grape/keypoints holds std_msgs/msg/String, expected grape_interfaces"):
        read_episode(bag.folder)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = write_episode(make_episode(steps=3), tmp_path / "bag")
    file = path / "bag_0.mcap"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CutOffError, match="grape recover"):
        read_episode(path)


def test_bags_are_found_below_a_folder(tmp_path):
    made = [write_episode(make_episode(steps=1), tmp_path / name) for name in ("b", "x/a", "x/c")]
    (tmp_path / "empty").mkdir()
    assert find_bags(tmp_path) == sorted(made)
    assert find_bags(made[0]) == [made[0]]
    assert find_bags(tmp_path / "empty") == []


def test_sixty_steps_cost_fifty_milliseconds_of_processor_time(tmp_path):
    path = write_episode(make_episode(steps=60, image_size=112, variant="obstacle"), tmp_path / "bag")
    assert len(read_episode(path).steps) == 60  # builds the deserialisers
    durations = []
    for _ in range(7):
        begun = time.process_time()
        read_episode(path)
        durations.append(time.process_time() - begun)
    assert min(durations) < 0.05


def test_the_command_line_prints_one_line(tmp_path, capsys):
    path = write_episode(make_episode(steps=2), tmp_path / "bag")
    assert reader.main([str(path)]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["steps"], about["complete"], about["success_reward"]) == (2, True, 1)
    assert reader.main([str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'absent'}: no such bag\n"
    assert reader.main([]) == 2


def test_doubt_about_a_keypoint_is_read_and_certainty_takes_no_room(tmp_path):
    episode = make_episode(5, steps=4)
    sure = read_episode(write_episode(episode, tmp_path / "sure"))
    assert len(sure.confidence) == 0
    values = np.linspace(0.0, 1.0, episode.keypoints.values[..., 0].size).reshape(-1, 2).astype(np.float32)
    doubt = replace(episode.keypoints, values=values.astype(np.float64))
    read = read_episode(write_episode(replace(episode, confidence=doubt), tmp_path / "doubt"))
    assert np.array_equal(read.confidence.values, doubt.values) and read.confidence.names == ("carrot", "plate")
    assert np.array_equal(read.confidence.stamps, episode.keypoints.stamps)


def test_confidences_for_other_keypoints_than_there_are_are_refused(tmp_path):
    bag = Bag(tmp_path / "bag", "zstd")
    for topic, stamp, message in episode_messages(make_episode(5, steps=2)):
        if topic == topics.KEYPOINTS:
            message.confidence = np.ones(3, np.float32)
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), stamp)
    bag.close()
    with pytest.raises(EpisodeError, match=f"{topics.KEYPOINTS}: 3 confidences, 2 names"):
        read_episode(bag.folder)


def renamed(tmp_path, before, after):
    """A bag in which some keypoint samples, told by their stamps, are of a cup and a saucer."""
    episode = make_episode(5, steps=4, samples_per_step=2)
    bag = Bag(tmp_path / "bag", "zstd")
    for topic, stamp, message in episode_messages(episode):
        if topic == topics.EPISODE:
            name = topics.DATA_TYPES[topic]
            bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), stamp)
            continue
        if topic == topics.KEYPOINTS and stamp == episode.keypoints.stamps[0] and before:
            stale = typestore().deserialize_cdr(
                typestore().serialize_cdr(message, topics.DATA_TYPES[topic]), topics.DATA_TYPES[topic]
            )
            stale.names, stale.header.stamp.sec, stale.header.stamp.nanosec = ["cup", "saucer"], 6, 100_000_000
            bag.write(
                topic,
                topics.DATA_TYPES[topic],
                bytes(typestore().serialize_cdr(stale, topics.DATA_TYPES[topic])),
                stamp,
            )
        if topic == topics.KEYPOINTS and stamp == episode.keypoints.stamps[-1] and after:
            message.names = ["cup", "saucer"]
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), stamp)
    bag.close()
    return episode, read_episode(bag.folder)


def test_the_world_before_the_reset_may_have_other_things_in_it(tmp_path):
    episode, read = renamed(tmp_path, before=True, after=False)
    assert episode.identity.stamp < 6_100_000_000 < episode.steps[0].stamp
    assert read.complete, read.problems
    assert differences(episode.keypoints, read.keypoints) == []


def test_things_that_change_while_the_policy_acts_are_a_problem(tmp_path):
    _, read = renamed(tmp_path, before=False, after=True)
    assert read.problems == ("the keypoints changed their names from carrot, plate to cup, saucer",)
    assert len(read.keypoints) == 8


def operators_step(stamp, source="teleop", kind=0, length=7):
    message = blank(topics.DATA_TYPES[topics.OPERATOR_STEP])
    messages.fill_header(message, stamp)
    message.source, message.kind, message.action = source, kind, np.full(length, 0.25)
    return message


def test_what_a_person_commanded_is_read_and_homing_is_not_of_them(tmp_path):
    episode = make_episode(4, 3)
    told = list(episode_messages(episode))
    stamp = episode.steps[1].stamp
    extra = [
        operators_step(stamp - 2, "homing"),
        operators_step(stamp),
        operators_step(stamp + 1, kind=1),  # handing back is no motion
        operators_step(stamp + 2, length=3),  # the gate refuses it; a person touched the stick all the same
    ]
    bag = Bag(tmp_path / "bag", "zstd")
    joy, status, boxes = (blank(topics.DATA_TYPES[t]) for t in (topics.JOY, topics.ARM_STATUS, topics.KEEP_OUT))
    others = [(topics.JOY, stamp, joy), (topics.ARM_STATUS, stamp, status), (topics.KEEP_OUT, stamp, boxes)]
    entries = [*told[:-1], *((topics.OPERATOR_STEP, stamp, message) for message in extra), *others, told[-1]]
    for n, (topic, _, message) in enumerate(entries):
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), 1000 + n)
    bag.close()
    back = read_episode(bag.folder)
    assert back.complete and back.driven
    assert back.operator.stamps.tolist() == [stamp, stamp + 2]
    assert np.all(back.operator.values[0] == 0.25) and np.all(np.isnan(back.operator.values[1]))
