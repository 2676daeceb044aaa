"""The camera node in a process of its own over a software device: topics, rates, unplugging, a second camera."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool

from grape_episode import topics
from grape_episode.ros import CAMERA, image_from_msg, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_robot.realsense import CameraError, library

pytestmark = pytest.mark.ros

try:
    library()
except CameraError as missing:
    pytest.skip(str(missing), allow_module_level=True)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from software_camera import COLOR_FOCAL, FAR, NEAR, color_image  # noqa: E402

PATH = {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}


def software_node(domain: int, log: Path, *arguments: str, **params: object) -> NodeProcess:
    return NodeProcess("software_camera", domain, log, params, arguments, PATH)


@dataclass
class Viewer:
    """Holds what came on the camera's topics, by topic, with the time of arrival."""

    node: Node
    heard: dict[str, list] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, topic in ((Image, topics.COLOR), (Image, topics.DEPTH), (CameraInfo, topics.CAMERA_INFO)):
            self.heard[topic] = []
            self.node.create_subscription(
                kind, topic, lambda m, topic=topic: self.heard[topic].append((time.monotonic(), m)), CAMERA
            )
        self._plug = self.node.create_client(SetBool, "/test/plug")

    def plug(self, plugged: bool) -> None:
        wait_for(self._plug.service_is_ready, "/test/plug")
        future = self._plug.call_async(SetBool.Request(data=plugged))
        wait_for(future.done, "/test/plug")

    def count(self) -> int:
        return len(self.heard[topics.COLOR])


@pytest.fixture(scope="module")
def viewer() -> Iterator[tuple[Viewer, int]]:
    domain, context = free_domain(), rclpy.Context()
    context.init(domain_id=domain)
    viewer = Viewer(rclpy.create_node("viewer", context=context))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(viewer.node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield viewer, domain
    executor.shutdown()
    context.try_shutdown()
    thread.join(5.0)


@pytest.fixture(scope="module")
def lab(viewer: tuple[Viewer, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Viewer, NodeProcess]]:
    rig, domain = viewer
    log = tmp_path_factory.mktemp("camera") / "camera.log"
    with software_node(domain, log, frame_timeout=0.5) as process:
        wait_for(lambda: rig.count() > 5, "the first frames")
        yield rig, process
        process.stop()
        assert process.process.returncode == 0


def test_the_topics_are_those_of_realsense2_camera(lab: tuple[Viewer, NodeProcess]) -> None:
    rig, process = lab
    (info,) = rig.node.get_publishers_info_by_topic(topics.COLOR)
    assert info.node_name == "grape_camera" and info.qos_profile.reliability is ReliabilityPolicy.RELIABLE
    _, color = rig.heard[topics.COLOR][-1]
    assert (color.width, color.height, color.encoding, color.step) == (640, 480, "rgb8", 1920)
    assert color.header.frame_id == topics.CAMERA_FRAME
    image = image_from_msg(color)
    assert np.array_equal(image, color_image(int(image[0, 0, 0]), 640, 480))
    assert "Software camera software_1: 640x480 at 30 Hz, depth aligned to colour" in process.output
    assert "stamps are from the device's global timestamps (global_time)" in process.output


def test_one_stamp_for_all_three_and_it_is_now(lab: tuple[Viewer, NodeProcess]) -> None:
    rig, _ = lab
    seen = rig.count()
    wait_for(lambda: rig.count() > seen + 3, "more frames")
    _, color = rig.heard[topics.COLOR][seen]
    stamp = stamp_ns(color.header.stamp)
    assert abs(time.time() * 1e9 - stamp) < 3e9

    def same(topic: str):
        return next((m for _, m in rig.heard[topic] if stamp_ns(m.header.stamp) == stamp), None)

    depth = wait_for(lambda: same(topics.DEPTH), "depth of the colour's stamp")
    info = wait_for(lambda: same(topics.CAMERA_INFO), "camera_info of the colour's stamp")
    assert (depth.encoding, depth.header.frame_id) == ("16UC1", topics.CAMERA_FRAME)
    millimetres = image_from_msg(depth)
    assert millimetres.shape == (480, 640) and {NEAR, FAR} <= set(np.unique(millimetres).tolist())
    assert list(info.k) == [COLOR_FOCAL, 0, 320, 0, COLOR_FOCAL, 240, 0, 0, 1]
    assert list(info.p) == [COLOR_FOCAL, 0, 320, 0, 0, COLOR_FOCAL, 240, 0, 0, 0, 1, 0]
    assert (info.width, info.height, info.distortion_model, list(info.d)) == (640, 480, "plumb_bob", [0.0] * 5)


def test_thirty_frames_a_second_with_stamps_that_grow(lab: tuple[Viewer, NodeProcess]) -> None:
    rig, _ = lab
    seen = rig.count()
    wait_for(lambda: rig.count() >= seen + 61, "61 frames")
    stamps = np.array([stamp_ns(m.header.stamp) for _, m in rig.heard[topics.COLOR][seen : seen + 61]]) * 1e-9
    gaps = np.diff(stamps)
    assert (gaps > 0).all()
    # by their stamps, which the sender makes: a busy machine shows some late and none twice
    assert 0.030 < np.median(gaps) < 0.045


def test_an_unplugged_camera_is_told_once_and_comes_back(lab: tuple[Viewer, NodeProcess]) -> None:
    rig, process = lab
    rig.plug(False)
    wait_for(lambda: "lost: no frame for 0.5 s" in process.output, "the loss to be told")
    wait_for(lambda: process.output.count("no RealSense camera is connected") == 1, "the reason it stays lost")
    seen = rig.count()
    # at least two attempts more, of which nothing is said
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + 2.0, "two seconds without a camera")
    assert rig.count() == seen and process.running()
    assert process.output.count("no RealSense camera is connected") == 1
    rig.plug(True)
    wait_for(lambda: rig.count() > seen + 10, "frames after the camera came back")
    assert "frames again after" in process.output and process.output.count("lost") == 1
    last = rig.heard[topics.COLOR]
    stamps = [stamp_ns(m.header.stamp) for _, m in last]
    assert stamps == sorted(set(stamps))


def test_a_second_camera_on_the_topic_is_refused(viewer: tuple[Viewer, int], lab, tmp_path: Path) -> None:
    _, domain = viewer
    with software_node(domain, tmp_path / "second.log") as second:
        assert second.wait() == 1
        line = second.output.strip().splitlines()[-1]
        assert line.startswith(f"grape_camera: {topics.COLOR} is also published by /grape_camera")
    assert lab[1].running()


def test_without_a_camera_it_says_so_and_waits(tmp_path: Path) -> None:
    if len(library().context().query_devices()):
        pytest.skip("a RealSense camera is connected to this machine")
    params = {"discovery_seconds": 0.1}
    with NodeProcess("grape_robot.realsense_node", free_domain(), tmp_path / "none.log", params) as process:
        wait_for(lambda: "no RealSense camera is connected: trying again" in process.output, "the line")
        assert process.running() and "Traceback" not in process.output
        process.stop()
        assert process.process.returncode == 0
        assert process.output.count("no RealSense camera") == 1


def test_simulated_time_is_refused(tmp_path: Path) -> None:
    params = {"use_sim_time": True}
    with NodeProcess("grape_robot.realsense_node", free_domain(), tmp_path / "time.log", params) as process:
        assert process.wait() == 1
        assert process.output.strip().startswith("grape_camera: use_sim_time must be false")
