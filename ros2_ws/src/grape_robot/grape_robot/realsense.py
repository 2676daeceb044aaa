"""A RealSense camera through pyrealsense2: colour, depth aligned to it, intrinsics. No ROS here.

Streams are opened sensor by sensor into librealsense's syncer, which works for cameras and for its software
devices alike; nothing of Python runs in librealsense's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CameraError(RuntimeError):
    """The camera cannot be used now; the text names it, its stream or the library."""


@dataclass(frozen=True)
class CameraSettings:
    """``serial`` empty: the one camera there is. ``timeout``: seconds without a frame after which it is lost."""

    serial: str = ""
    width: int = 640
    height: int = 480
    rate: int = 30
    depth: bool = True
    timeout: float = 1.0


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole of the colour stream: pixels; ``distortion`` as sensor_msgs/CameraInfo names it."""

    width: int
    height: int
    matrix: NDArray[np.float64]
    """(3, 3)."""
    distortion: str
    coefficients: tuple[float, ...]
    exact: bool
    """False: the device's own distortion model has no counterpart in ROS and is not zero."""


@dataclass(frozen=True)
class CameraFrame:
    """``color`` (H, W, 3) uint8 RGB; ``depth`` (H, W) uint16 millimetres in the colour's pixels, 0: unknown."""

    timestamp: float
    """Milliseconds in ``domain``."""
    domain: str
    """librealsense's name: hardware_clock, system_time or global_time."""
    received: float
    """Seconds of this machine's steady clock."""
    color: NDArray[np.uint8]
    depth: NDArray[np.uint16] | None


def library() -> Any:
    """pyrealsense2. Raises CameraError where it, or the system library it needs, is missing."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise CameraError(f"pyrealsense2 cannot be loaded: {error} (Debian: libusb-1.0-0)") from None
    return pyrealsense2


def find_camera(serial: str) -> Any:
    """The device with this serial number, or the only one. Raises CameraError naming what is connected."""
    rs = library()
    try:
        devices = {device.get_info(rs.camera_info.serial_number): device for device in rs.context().query_devices()}
    except RuntimeError as error:
        raise CameraError(f"no RealSense camera can be looked for: {error}") from None
    if not devices:
        raise CameraError("no RealSense camera is connected")
    if serial and serial not in devices:
        raise CameraError(f"RealSense camera {serial} is not connected; there is {', '.join(sorted(devices))}")
    if not serial and len(devices) > 1:
        raise CameraError(f"several RealSense cameras are connected: name one of {', '.join(sorted(devices))}")
    return devices[serial] if serial else next(iter(devices.values()))


def millimetres(depth: NDArray[np.uint16], unit: float) -> NDArray[np.uint16]:
    """``depth`` counts of ``unit`` metres to whole millimetres; what is out of range becomes 0, unknown."""
    if abs(unit - 0.001) < 1e-6:  # the device says its unit in single precision
        return np.array(depth)
    found = np.rint(depth.astype(np.float64) * unit * 1000.0)
    return np.where(found > 65535, 0, found).astype(np.uint16)


_DISTORTIONS = {"none": "plumb_bob", "brown_conrady": "plumb_bob", "kannala_brandt4": "equidistant"}


def ros_intrinsics(width: int, height: int, focal: Any, centre: Any, model: str, coefficients: Any) -> Intrinsics:
    """From librealsense's figures: ``focal`` and ``centre`` (2,) pixels, ``model`` by its name there.

    The inverse and the modified Brown-Conrady model have no counterpart in ROS: with all zeros they distort nothing and
    are given as plumb_bob; with others too, but marked as not exact."""
    values = tuple(float(value) for value in coefficients)
    (fx, fy), (cx, cy) = focal, centre
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    distortion = _DISTORTIONS.get(model, "plumb_bob")
    exact = model in _DISTORTIONS or not any(values)
    return Intrinsics(width, height, matrix, distortion, values[:4] if distortion == "equidistant" else values, exact)


class RealSense:
    """One camera, opened and closed as often as it comes and goes. For one thread at a time."""

    def __init__(self, settings: CameraSettings, find: Callable[[str], Any] = find_camera) -> None:
        self.settings, self._find = settings, find
        self.intrinsics: Intrinsics | None = None
        self._sensors: list[Any] = []
        self._syncer: Any = None
        self._align: Any = None
        self._last = 0.0

    def open(self) -> str:
        """Starts the streams; says in one line what was opened. Raises CameraError, and is closed then."""
        rs = library()
        device = self._find(self.settings.serial)
        try:
            return self._open(rs, device)
        except RuntimeError as error:  # librealsense raises nothing else, CameraError is one
            self.close()
            if isinstance(error, CameraError):
                raise
            raise CameraError(f"RealSense camera {_name(rs, device)}: {error}") from None

    def _open(self, rs: Any, device: Any) -> str:
        wanted = self._profiles(rs, device)
        color = next(profile for _, profiles in wanted for profile in profiles if _is(profile, rs.stream.color))
        i = color.get_intrinsics()
        self.intrinsics = ros_intrinsics(i.width, i.height, (i.fx, i.fy), (i.ppx, i.ppy), i.model.name, i.coeffs)
        self._syncer = rs.syncer(1)
        self._align = rs.align(rs.stream.color) if self.settings.depth else None
        for sensor, profiles in wanted:
            with suppress(RuntimeError):  # without it the stamps are from receipt
                if sensor.supports(rs.option.global_time_enabled):
                    sensor.set_option(rs.option.global_time_enabled, 1.0)
            sensor.open(profiles)
            self._sensors.append(sensor)
            sensor.start(self._syncer)
        self._last = time.monotonic()
        settings = self.settings
        depth = "depth aligned to colour" if settings.depth else "no depth"
        return f"{_name(rs, device)}: {settings.width}x{settings.height} at {settings.rate} Hz, {depth}"

    def _profiles(self, rs: Any, device: Any) -> list[tuple[Any, list[Any]]]:
        """The profiles to open, by sensor: one sensor may have both. Raises CameraError naming a stream not there."""
        missing = {rs.stream.color: rs.format.rgb8}
        if self.settings.depth:
            missing[rs.stream.depth] = rs.format.z16
        found: list[tuple[Any, list[Any]]] = []
        for sensor in device.query_sensors():
            profiles = []
            for profile in sensor.get_stream_profiles():
                kind = profile.stream_type()
                if kind in missing and profile.format() == missing[kind] and self._fits(profile):
                    profiles.append(profile.as_video_stream_profile())
                    del missing[kind]
            if profiles:
                found.append((sensor, profiles))
        if missing:
            names = " and ".join(kind.name for kind in missing)
            settings = self.settings
            wanted = f"{settings.width}x{settings.height} at {settings.rate} Hz"
            raise CameraError(f"RealSense camera {_name(rs, device)} has no {names} stream of {wanted}")
        return found

    def _fits(self, profile: Any) -> bool:
        video = profile.as_video_stream_profile()
        settings = self.settings
        return (video.width(), video.height(), video.fps()) == (settings.width, settings.height, settings.rate)

    def read(self, seconds: float) -> CameraFrame | None:
        """The next whole frame; None where none came within ``seconds``. Raises CameraError when the camera is lost:
        it fails, or has sent nothing for the settings' timeout."""
        if self._syncer is None:
            raise CameraError("the RealSense camera is not open")
        try:
            came, frames = self._syncer.try_wait_for_frames(round(seconds * 1000.0))
            received = time.monotonic()
            frame = self._frame(frames, received) if came else None
        except RuntimeError as error:
            raise CameraError(f"the RealSense camera is lost: {error}") from None
        if frame is not None:
            self._last = received
        elif received - self._last > self.settings.timeout:
            raise CameraError(f"the RealSense camera is lost: no frame for {self.settings.timeout:g} s")
        return frame

    def _frame(self, frames: Any, received: float) -> CameraFrame | None:
        if self._align is not None:
            if not frames.get_color_frame() or not frames.get_depth_frame():
                return None  # the first set of a stream may be half
            frames = self._align.process(frames)
        color = frames.get_color_frame()
        if not color:
            return None
        depth = None
        if self._align is not None:
            raw = frames.get_depth_frame()
            depth = millimetres(np.asanyarray(raw.get_data()), raw.get_units())
        # a copy: librealsense has few buffers, and takes them back
        pixels = np.array(np.asanyarray(color.get_data()))
        return CameraFrame(color.get_timestamp(), color.get_frame_timestamp_domain().name, received, pixels, depth)

    def close(self) -> None:
        """Stops what is open; a device that is gone is let go of."""
        for sensor in self._sensors:
            with suppress(RuntimeError):
                sensor.stop()
            with suppress(RuntimeError):
                sensor.close()
        self._sensors = []
        self._syncer = self._align = None


def _is(profile: Any, kind: Any) -> bool:
    return bool(profile.stream_type() == kind)


def _name(rs: Any, device: Any) -> str:
    told = [device.get_info(key) for key in (rs.camera_info.name, rs.camera_info.serial_number) if device.supports(key)]
    return " ".join(told) or "(without a name)"


class NewestFrame:
    """Between the camera's thread and the node's: room for one frame, the newest wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: CameraFrame | None = None

    def put(self, frame: CameraFrame) -> None:
        with self._lock:
            self._frame = frame

    def take(self) -> CameraFrame | None:
        """The frame, once; None where there is none."""
        with self._lock:
            frame, self._frame = self._frame, None
        return frame
