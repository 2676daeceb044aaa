"""`grape states` and `grape confirm`: what they store and say, and one line for what is wrong."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rclpy
from grape_interfaces.srv import ConfirmReset
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from grape.cli import app
from grape.console import guarded
from grape_episode import topics
from grape_episode.bag import Bag
from grape_episode.ros import CAMERA, image_to_msg
from grape_episode.synthetic import episode_messages, make_episode
from grape_episode.testing import free_domain
from grape_episode.typestore import blank, typestore
from grape_robot.state_library import StateLibrary

PICTURE = np.random.default_rng(5).integers(0, 256, (24, 32, 3)).astype(np.uint8)


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def grape(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process: starting one takes seconds."""

    def run(*arguments: object) -> Done:
        try:
            status = guarded(lambda: app(list(map(str, arguments)), standalone_mode=True))
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return Done(status, said.out, said.err)

    return run


def refused(done: Done, *words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("grape: "), done
    assert all(word in lines[0] for word in words), lines


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode recorded with its camera."""
    episode = make_episode(seed=4, steps=3, episode_id="recorded")
    out, now = Bag(tmp_path_factory.mktemp("bags") / "recorded"), 0
    for topic, stamp, message in episode_messages(episode):
        entries = [(topic, message)]
        if topic == topics.MODEL_INPUT and stamp == episode.steps[0].stamp:
            color = blank(topics.IMAGE_TYPE)
            color.header = message.header
            color.height, color.width, color.encoding, color.step = 24, 32, "rgb8", 96
            color.data = PICTURE.reshape(-1)
            entries.insert(0, (topics.COLOR, color))
        for name, content in entries:
            now = max(now + 1, stamp)
            kind = topics.DATA_TYPES[name]
            out.write(name, kind, bytes(typestore().serialize_cdr(content, kind)), now)
    out.close()
    return out.folder


def test_captured_from_a_bag_listed_and_shown(grape: Callable[..., Done], bag: Path, tmp_path: Path) -> None:
    identity = make_episode(seed=4, steps=3, episode_id="recorded").identity
    key = identity.task, identity.variant, identity.initial_state
    states = tmp_path / "states"
    done = grape("states", "capture", "--bag", bag, "--states", states)
    assert done.returncode == 0, done.stderr
    stored = StateLibrary(states).find(*key)
    assert stored is not None and stored.source == "episode recorded"
    assert np.array_equal(StateLibrary(states).image(stored), PICTURE)
    refused(grape("states", "capture", "--bag", bag, "--states", states), "stored already")
    refused(grape("states", "capture", "other_task", "--bag", bag, "--states", states), "is of task", "not other_task")
    listed = grape("states", "list", "--states", states)
    assert listed.returncode == 0 and identity.task in listed.stdout.replace("\n", "")
    shown = grape("states", "show", identity.task, identity.initial_state, "--states", states)
    assert shown.returncode == 0 and stored.file in shown.stdout.replace("\n", "")
    (states / identity.task / stored.file).write_bytes(b"x")
    refused(
        grape("states", "show", identity.task, identity.initial_state, "--states", states), "not the frame that was"
    )


def test_what_is_wrong_is_one_line(grape: Callable[..., Done], tmp_path: Path) -> None:
    refused(grape("states", "capture", "--states", tmp_path), "name task and id")
    refused(grape("states", "show", "carrot", "7", "--states", tmp_path), "no first frame of carrot 7 (clean)")


class Desk:
    """A camera and a reset that waits for carrot 7."""

    def __init__(self, node: Node) -> None:
        self.asked: list[tuple[str, int]] = []
        self._color = node.create_publisher(Image, topics.COLOR, CAMERA)
        node.create_timer(0.1, lambda: self._color.publish(image_to_msg(PICTURE, 10**9, topics.CAMERA_FRAME)))
        node.create_service(ConfirmReset, topics.CONFIRM_RESET, self._confirm)

    def _confirm(self, request: ConfirmReset.Request, response: ConfirmReset.Response) -> ConfirmReset.Response:
        self.asked.append((request.task, request.initial_state))
        response.accepted = (request.task, request.initial_state) == ("carrot", 7)
        response.reason = "" if response.accepted else "carrot 7 is waited for"
        return response


@pytest.fixture(scope="module")
def desk() -> Iterator[tuple[Desk, int]]:
    domain, context = free_domain(), rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node("desk", context=context)
    rig = Desk(node)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield rig, domain
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


@pytest.mark.ros
def test_the_word_goes_to_the_reset_and_a_wrong_one_fails(grape: Callable[..., Done], desk: tuple[Desk, int]) -> None:
    rig, domain = desk
    assert grape("confirm", "carrot", 7, "--domain", domain).returncode == 0
    refused(grape("confirm", "carrot", 8, "--domain", domain), "carrot 7 is waited for")
    assert set(rig.asked) == {("carrot", 7), ("carrot", 8)}


@pytest.mark.ros
def test_captured_from_the_live_camera(grape: Callable[..., Done], desk: tuple[Desk, int], tmp_path: Path) -> None:
    _, domain = desk
    done = grape("states", "capture", "carrot", 9, "--variant", "dim", "--states", tmp_path, "--domain", domain)
    assert done.returncode == 0, done.stderr
    library = StateLibrary(tmp_path)
    stored = library.find("carrot", "dim", 9)
    assert stored is not None and stored.source == "camera" and np.array_equal(library.image(stored), PICTURE)
