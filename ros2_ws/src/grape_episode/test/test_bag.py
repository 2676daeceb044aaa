"""A bag is what the other tools of the field take for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, Writer
from rosbags.rosbag2.enums import StoragePlugin

from grape_episode import topics
from grape_episode.bag import Bag, BagScan
from grape_episode.synthetic import episode_messages, make_episode, write_episode
from grape_episode.typestore import typestore

EPISODE = make_episode(seed=3, steps=4, variant="obstacle")


@pytest.fixture(scope="module", params=["zstd", "none"])
def bag(request, tmp_path_factory) -> Path:
    return write_episode(EPISODE, tmp_path_factory.mktemp("bags") / "bag", request.param)


def same(ours, theirs, where="") -> None:
    """Two decoded messages, of whatever library, have equal fields."""
    if hasattr(ours, "__dataclass_fields__"):
        for name in ours.__dataclass_fields__:
            if not name.startswith("__") and not name.isupper():  # constants are no fields
                same(getattr(ours, name), getattr(theirs, name), f"{where}.{name}")
    elif isinstance(ours, list) and ours and hasattr(ours[0], "__dataclass_fields__"):
        assert len(ours) == len(theirs), where
        for n, pair in enumerate(zip(ours, theirs, strict=True)):
            same(*pair, f"{where}[{n}]")
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, np.frombuffer(theirs, ours.dtype) if isinstance(theirs, bytes) else theirs)
    else:
        assert ours == theirs, where


def sent():
    return [(topic, message) for topic, _, message in episode_messages(EPISODE)]


def test_mcap_ros2_support_decodes_every_field_from_the_embedded_schemas(bag):
    with open(next(bag.glob("*.mcap")), "rb") as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        read = [(channel.topic, message) for _, channel, _, message in reader.iter_decoded_messages()]
    assert [topic for topic, _ in read] == [topic for topic, _ in sent()]
    for (topic, ours), (_, theirs) in zip(sent(), read, strict=True):
        same(ours, theirs, topic)


def test_rosbags_reads_it_with_types_of_its_own(bag):
    with Reader(bag) as reader:
        assert reader.message_count == len(sent())
        assert {c.topic: c.msgtype for c in reader.connections}.items() <= topics.DATA_TYPES.items()
        raw = [(connection.topic, bytes(data)) for connection, _, data in reader.messages()]
    store = typestore()
    assert raw == [(t, bytes(store.serialize_cdr(m, topics.DATA_TYPES[t]))) for t, m in sent()]
    with AnyReader([bag]) as reader:  # takes the types from the bag's schemas
        read = [(c.topic, reader.deserialize(data, c.msgtype)) for c, _, data in reader.messages()]
    for (topic, ours), (_, theirs) in zip(sent(), read, strict=True):
        same(ours, theirs, topic)


def test_identity_comes_first_and_outcome_last(bag):
    order = [record.topic for record in BagScan(next(bag.glob("*.mcap"))).records()]
    assert order[0] == topics.EPISODE
    assert order[-1] == topics.OUTCOME
    assert order.count(topics.EPISODE) == order.count(topics.OUTCOME) == 1


def shape_of(value):
    """The structure of a YAML document: keys and kinds, without the values."""
    if isinstance(value, dict):
        return {key: shape_of(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return type(value)


def test_metadata_has_the_form_that_rosbag2_reads(bag, tmp_path):
    # the reference: what rosbags' own writer, accepted by rosbag2, makes of the same messages
    with Writer(tmp_path / "theirs", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for n, (topic, message) in enumerate(sent()):
            name = topics.DATA_TYPES[topic]
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=typestore())
            writer.write(connections[topic], n, typestore().serialize_cdr(message, name))
    ours = yaml.safe_load((bag / "metadata.yaml").read_text())
    theirs = yaml.safe_load((tmp_path / "theirs" / "metadata.yaml").read_text())
    assert shape_of(ours) == shape_of(theirs)
    ours, theirs = ours["rosbag2_bagfile_information"], theirs["rosbag2_bagfile_information"]
    for key in ("version", "storage_identifier", "message_count", "compression_mode", "custom_data"):
        assert ours[key] == theirs[key]

    def listed(information):
        return sorted(
            (entry["topic_metadata"]["name"], entry["topic_metadata"]["type_description_hash"], entry["message_count"])
            for entry in information["topics_with_message_count"]
        )

    assert listed(ours) == listed(theirs)
    assert ours["relative_file_paths"] == [next(bag.glob("*.mcap")).name]


def test_an_open_bag_has_metadata_already(tmp_path):
    bag = Bag(tmp_path / "open")
    information = yaml.safe_load((bag.folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["relative_file_paths"] == ["open_0.mcap"]
    assert bag.bytes_safe == bag.file.stat().st_size > 0
    bag.close()


def test_a_bag_is_never_written_over(tmp_path):
    write_episode(EPISODE, tmp_path / "bag")
    with pytest.raises(FileExistsError, match="bag"):
        Bag(tmp_path / "bag")


def test_an_abandoned_bag_ends_at_its_last_flush(tmp_path):
    bag = Bag(tmp_path / "bag")
    for n, (topic, message) in enumerate(sent()):
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), n)
        if n == 5:
            bag.flush()
    bag.abandon()
    assert bag.file.stat().st_size == bag.bytes_safe
