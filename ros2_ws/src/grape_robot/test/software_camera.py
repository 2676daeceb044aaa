"""A RealSense without hardware: librealsense's own software device, fed with frames of known content.

As a program it is the camera node over such a device, with a service that unplugs it and plugs it in again."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
import pyrealsense2 as rs

from grape_robot.realsense import CameraError, CameraSettings, RealSense

SERIAL = "software_1"
COLOR_FOCAL, DEPTH_FOCAL = 300.0, 240.0
BASELINE = 0.05
"""Metres from the depth camera to the colour camera along x: a point seen by both lies so much further right in depth's
frame than in colour's."""
NEAR, FAR = 800, 2000
"""Millimetres of the patch and of the wall behind it."""


def patch(width: int, height: int) -> tuple[slice, slice]:
    """Where the near patch is in the depth image: rows, columns."""
    return slice(height // 4, height // 2), slice(width // 2, width * 3 // 4)


def color_image(number: int, width: int, height: int) -> np.ndarray:
    """(H, W, 3): the frame's number in red, the column in green, the row in blue (modulo 256)."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = number % 256
    image[..., 1] = np.arange(width)[None, :] % 256
    image[..., 2] = np.arange(height)[:, None] % 256
    return image


def depth_image(width: int, height: int) -> np.ndarray:
    """(H, W) millimetres as the depth camera sees the patch before the wall."""
    image = np.full((height, width), FAR, np.uint16)
    image[patch(width, height)] = NEAR
    return image


class SoftwareCamera:
    """``find`` stands for the search for cameras; while ``plugged`` is false there is none and nothing is sent."""

    def __init__(self, width: int = 160, height: int = 120, rate: int = 30, depth: bool = True) -> None:
        self.size, self.rate, self.depth = (width, height), rate, depth
        self.domain = rs.timestamp_domain.global_time
        self.unit = 0.001
        self.plugged = True
        self.number = 0
        self._changing = threading.Lock()  # a frame pushed while its device is replaced crashes librealsense
        self._build()

    def _build(self) -> None:
        self.device = rs.software_device()
        self.device.register_info(rs.camera_info.name, "Software camera")
        self.device.register_info(rs.camera_info.serial_number, SERIAL)
        self._color_sensor = self.device.add_sensor("RGB Camera")
        self._color = self._color_sensor.add_video_stream(
            self._stream(rs.stream.color, rs.format.rgb8, 0, 3, COLOR_FOCAL)
        )
        if self.depth:
            self._depth_sensor = self.device.add_sensor("Stereo Module")
            self._depth = self._depth_sensor.add_video_stream(
                self._stream(rs.stream.depth, rs.format.z16, 1, 2, DEPTH_FOCAL)
            )
            self._depth_sensor.add_read_only_option(rs.option.depth_units, self.unit)
            between = rs.extrinsics()
            between.rotation = [1, 0, 0, 0, 1, 0, 0, 0, 1]
            between.translation = [-BASELINE, 0, 0]
            self._depth.register_extrinsics_to(self._color, between)

    def _stream(self, kind: Any, layout: Any, uid: int, size: int, focal: float) -> Any:
        stream = rs.video_stream()
        stream.type, stream.fmt, stream.uid, stream.index, stream.bpp = kind, layout, uid, 0, size
        stream.width, stream.height, stream.fps = *self.size, self.rate
        pinhole = rs.intrinsics()
        pinhole.width, pinhole.height = self.size
        pinhole.fx = pinhole.fy = focal
        pinhole.ppx, pinhole.ppy = self.size[0] / 2, self.size[1] / 2
        pinhole.model, pinhole.coeffs = rs.distortion.inverse_brown_conrady, [0.0] * 5
        stream.intrinsics = pinhole
        return stream

    def find(self, serial: str) -> Any:
        if not self.plugged:
            raise CameraError("no RealSense camera is connected")
        with self._changing:
            self._build()  # what is plugged in again is a new device
            return self.device

    def send(self, timestamp: float | None = None) -> int:
        """One frame of each stream at ``timestamp`` (ms, default now); its number."""
        self.number += 1
        told = time.time() * 1e3 if timestamp is None else timestamp
        width, height = self.size
        with self._changing:
            if self.depth:
                self._push(self._depth_sensor, self._depth, depth_image(width, height), told, 2)
            self._push(self._color_sensor, self._color, color_image(self.number, width, height), told, 3)
        return self.number

    def _push(self, sensor: Any, profile: Any, pixels: np.ndarray, timestamp: float, size: int) -> None:
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = pixels, self.size[0] * size, size
        frame.timestamp, frame.domain, frame.frame_number = timestamp, self.domain, self.number
        frame.profile = profile.as_video_stream_profile()
        if size == 2:
            frame.depth_units = self.unit
        sensor.on_video_frame(frame)

    def run(self, ending: threading.Event) -> None:
        """Sends at the rate while it is plugged, until ``ending`` is set."""
        due = time.monotonic()
        while not ending.is_set():
            if self.plugged:
                self.send()
            due = max(due + 1.0 / self.rate, time.monotonic())
            ending.wait(due - time.monotonic())


def main() -> int:
    from std_srvs.srv import SetBool

    import grape_robot.realsense_node as module

    given = dict(word.split("=") for word in sys.argv[1:] if word.count("=") == 1 and ":" not in word)
    software = SoftwareCamera(*(int(given.get(name, default)) for name, default in (("width", 640), ("height", 480))))
    software.plugged = given.get("plugged", "yes") == "yes"

    class Bench(module.RealsenseNode):
        def __init__(self, camera: RealSense) -> None:
            super().__init__(camera)
            self.create_service(SetBool, "/test/plug", self._plug)

        def _plug(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
            software.plugged = request.data
            response.success = True
            return response

    module.RealsenseNode = Bench  # type: ignore[misc]
    ending = threading.Event()
    sender = threading.Thread(target=software.run, args=(ending,), daemon=True)
    sender.start()
    status = module.main(RealSense(CameraSettings(), software.find))
    ending.set()
    sender.join(2.0)
    return status


if __name__ == "__main__":
    sys.exit(main())
