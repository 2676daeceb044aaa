"""The camera over librealsense's software device: content, alignment, intrinsics, what a lost camera says."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_robot.realsense import (
    CameraError,
    CameraFrame,
    CameraSettings,
    NewestFrame,
    RealSense,
    library,
    millimetres,
    ros_intrinsics,
)

try:
    library()
except CameraError as missing:
    pytest.skip(str(missing), allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
from software_camera import (
    BASELINE,
    COLOR_FOCAL,
    DEPTH_FOCAL,
    FAR,
    NEAR,
    SERIAL,
    SoftwareCamera,
    color_image,
    depth_image,
)

SIZE = {"width": 160, "height": 120}
FIRST = 1.79e12
"""Timestamp of the first frame, ms. The syncer pairs by time: frames are a period apart, however fast they are sent."""


def opened(software: SoftwareCamera, **changes: object) -> RealSense:
    camera = RealSense(CameraSettings(**{**SIZE, "depth": software.depth, **changes}), software.find)  # type: ignore[arg-type]
    camera.open()
    return camera


@pytest.fixture
def software() -> SoftwareCamera:
    return SoftwareCamera()


@pytest.fixture
def camera(software: SoftwareCamera) -> Iterator[RealSense]:
    camera = opened(software)
    yield camera
    camera.close()


def next_frame(software: SoftwareCamera, camera: RealSense) -> CameraFrame:
    """The first whole frame of those sent from now on: the first set of a stream is half."""
    for _ in range(20):
        software.send(FIRST + software.number * 1e3 / software.rate)
        if (frame := camera.read(0.2)) is not None:
            return frame
    raise AssertionError("no frame in twenty")


def test_what_is_sent_is_what_is_read(software: SoftwareCamera, camera: RealSense) -> None:
    for _ in range(3):
        frame = next_frame(software, camera)
        assert np.array_equal(frame.color, color_image(software.number, 160, 120))
        assert frame.color.dtype == np.uint8 and frame.domain == "global_time"
        assert frame.timestamp == pytest.approx(FIRST + (software.number - 1) * 1e3 / 30, abs=1e-3)
        assert frame.depth is not None and frame.depth.shape == (120, 160) and frame.depth.dtype == np.uint16


def test_a_frame_survives_those_after_it(software: SoftwareCamera, camera: RealSense) -> None:
    frames = [(next_frame(software, camera), software.number) for _ in range(20)]
    assert all(frame.color[0, 0, 0] == number for frame, number in frames)


def test_depth_is_aligned_to_colour(software: SoftwareCamera, camera: RealSense) -> None:
    depth = next_frame(software, camera).depth
    assert depth is not None
    # the patch's corners, projected by hand: out of depth's pinhole, over the baseline, into colour's
    rows, columns = np.nonzero(depth_image(160, 120) == NEAR)
    x = (columns - 80.0) / DEPTH_FOCAL * NEAR * 1e-3 - BASELINE
    y = (rows - 60.0) / DEPTH_FOCAL * NEAR * 1e-3
    u, v = x / (NEAR * 1e-3) * COLOR_FOCAL + 80.0, y / (NEAR * 1e-3) * COLOR_FOCAL + 60.0
    inside = np.zeros_like(depth, bool)
    inside[int(v.min()) + 2 : int(v.max()) - 1, int(u.min()) + 2 : int(u.max()) - 1] = True
    outside = np.ones_like(depth, bool)
    outside[int(v.min()) - 2 : int(v.max()) + 3, int(u.min()) - 2 : int(u.max()) + 3] = False
    assert inside.sum() > 1000
    assert (depth[inside] == NEAR).all()
    assert set(np.unique(depth[outside])) <= {0, FAR} and (depth[outside] == FAR).mean() > 0.5
    # and it is not where the depth camera sees it
    assert not np.array_equal(depth, depth_image(160, 120))


def test_intrinsics_are_the_colour_streams(camera: RealSense) -> None:
    found = camera.intrinsics
    assert found is not None and (found.width, found.height) == (160, 120)
    assert np.array_equal(found.matrix, [[COLOR_FOCAL, 0, 80], [0, COLOR_FOCAL, 60], [0, 0, 1]])
    assert found.distortion == "plumb_bob" and found.coefficients == (0.0,) * 5 and found.exact


def test_without_depth_there_is_none_and_nothing_waits_for_it() -> None:
    software = SoftwareCamera(depth=False)
    camera = opened(software)
    software.send()
    frame = camera.read(1.0)
    camera.close()
    assert frame is not None and frame.depth is None and frame.color[0, 0, 0] == 1


def test_reading_does_not_hold_the_interpreter(camera: RealSense) -> None:
    counted, ending = [0], threading.Event()

    def count() -> None:
        while not ending.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    assert camera.read(0.3) is None
    ending.set()
    thread.join()
    assert counted[0] > 30


def test_a_camera_that_sends_nothing_is_lost_and_may_be_opened_again(software: SoftwareCamera) -> None:
    camera = opened(software, timeout=0.2)
    next_frame(software, camera)
    began = time.monotonic()
    with pytest.raises(CameraError, match=r"lost: no frame for 0\.2 s"):
        while time.monotonic() < began + 5.0:
            camera.read(0.05)
    camera.close()
    software.plugged = False
    with pytest.raises(CameraError, match="no RealSense camera is connected"):
        camera.open()
    software.plugged = True
    assert SERIAL in camera.open()
    assert next_frame(software, camera).color[0, 0, 0] == software.number
    camera.close()
    camera.close()


def test_a_stream_that_the_camera_has_not_is_named(software: SoftwareCamera) -> None:
    camera = RealSense(CameraSettings(width=640, height=480), software.find)
    with pytest.raises(CameraError, match=f"{SERIAL} has no color and depth stream of 640x480 at 30 Hz"):
        camera.open()
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)
    colour_only = SoftwareCamera(depth=False)
    with pytest.raises(CameraError, match="has no depth stream of 160x120"):
        opened(colour_only, depth=True)


def test_no_camera_on_this_machine_is_one_clear_line() -> None:
    connected = library().context().query_devices()
    if len(connected):
        pytest.skip("a RealSense camera is connected to this machine")
    with pytest.raises(CameraError, match=r"^no RealSense camera is connected$"):
        RealSense(CameraSettings()).open()


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30), st.sampled_from([0.001, 0.0001, 0.00025, 0.01]))
def test_depth_counts_become_millimetres(counts: list[int], unit: float) -> None:
    found = millimetres(np.array([counts], np.uint16), float(np.float32(unit)))
    assert found.dtype == np.uint16
    for count, value in zip(counts, found[0].tolist(), strict=True):
        exact = count * unit * 1000.0
        assert value == 0 if exact > 65535.6 else abs(value - exact) <= 0.51 or (value == 0 and exact > 65535.4)


def test_distortions_without_a_counterpart_are_marked() -> None:
    def found(model: str, values: list[float]) -> tuple[str, int, bool]:
        told = ros_intrinsics(4, 3, (1.0, 1.0), (2.0, 1.5), model, values)
        return told.distortion, len(told.coefficients), told.exact

    assert found("brown_conrady", [0.1, 0, 0, 0, 0]) == ("plumb_bob", 5, True)
    assert found("kannala_brandt4", [0.1, 0, 0, 0, 0]) == ("equidistant", 4, True)
    assert found("inverse_brown_conrady", [0.0] * 5) == ("plumb_bob", 5, True)
    assert found("inverse_brown_conrady", [0.1, 0, 0, 0, 0]) == ("plumb_bob", 5, False)


def test_the_newest_frame_wins_and_is_taken_once() -> None:
    slot = NewestFrame()
    assert slot.take() is None
    frames = [CameraFrame(float(i), "global_time", 0.0, np.zeros((1, 1, 3), np.uint8), None) for i in range(3)]
    for frame in frames:
        slot.put(frame)
    assert slot.take() is frames[2] and slot.take() is None
