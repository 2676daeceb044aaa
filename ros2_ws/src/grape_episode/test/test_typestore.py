from __future__ import annotations

import numpy as np
import pytest

from grape_episode import topics, typestore


def test_every_topic_of_a_bag_has_a_type_that_begins_with_a_header():
    for name in topics.DATA_TYPES.values():
        assert next(iter(vars(typestore.blank(name)))) == "header", name


def test_it_finds_the_messages_where_they_are_installed_and_in_the_source_tree(monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nonexistent")
    source = typestore.message_folder()
    assert source.parent.name == "grape_interfaces"
    assert (source / "PolicyStep.msg").is_file()


def test_nowhere_to_be_found_is_said_with_the_places(monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nonexistent")
    monkeypatch.setattr(typestore, "__file__", "/elsewhere/a/b/c.py")
    with pytest.raises(typestore.TypesError, match="/nonexistent/share/grape_interfaces/msg"):
        typestore.message_folder()


def test_a_blank_message_has_ros_defaults_and_serialises():
    info = typestore.blank("sensor_msgs/msg/CameraInfo")
    assert info.k.shape == (9,) and info.k.dtype == np.float64
    assert info.distortion_model == "" and info.roi.do_rectify is False
    for name in set(topics.DATA_TYPES.values()):
        message = typestore.blank(name)
        back = typestore.typestore().deserialize_cdr(typestore.typestore().serialize_cdr(message, name), name)
        assert back.header.frame_id == ""
