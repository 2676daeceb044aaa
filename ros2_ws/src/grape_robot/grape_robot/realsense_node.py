"""The camera of a lab without realsense2_camera: a RealSense on that driver's topics, with its qualities of service.

librealsense lives in a thread of its own; the executor gets the newest frame. The node outlives its camera: one that is
unplugged is tried again until it is back.
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from grape_episode import topics
from grape_episode.ros import (
    CAMERA,
    ForeignNodeError,
    declare,
    image_to_msg,
    other_publishers,
    refuse_foreign,
    set_stamp,
    spin,
)
from grape_robot.frame_stamps import frame_stamp
from grape_robot.realsense import CameraError, CameraSettings, Intrinsics, NewestFrame, RealSense, library
from grape_robot.reconnect import Backoff, Link, delivered, failed

POLL = 0.1
STARTING = 3.0
"""Seconds after the start in which a second camera on the topic ends this node at once; later it ends it only if it
stays as long: on a busy machine discovery outlasts the wait at the start, and the newcomer must go."""


class RealsenseNode(Node):
    """See the module. Raises CameraError or ForeignNodeError when it may not start; a camera that is not there is
    waited for."""

    def __init__(self, camera: RealSense | None = None) -> None:
        super().__init__("grape_camera")
        settings = CameraSettings(
            serial=declare(self, "serial_number", "", "Serial number of the camera; empty: the only one."),
            width=declare(self, "width", 640, "Pixels.", (64, 4096)),
            height=declare(self, "height", 480, "Pixels.", (64, 4096)),
            rate=declare(self, "rate", 30, "Frames a second.", (1, 300)),
            depth=declare(self, "depth", True, "Also depth, aligned to the colour image."),
            timeout=declare(self, "frame_timeout", 1.0, "Seconds without a frame: the camera is lost.", (0.1, 60.0)),
        )
        self._frame_id = declare(self, "frame_id", topics.CAMERA_FRAME, "Frame of all images: the colour's optical.")
        discovery = declare(self, "discovery_seconds", 1.0, "Time to find a second camera.", (0.0, 30.0))
        if self.get_parameter("use_sim_time").value:
            raise CameraError("use_sim_time must be false: a camera's frames are stamped by this machine's clock")
        library()
        refuse_foreign(lambda: self._foreign(own=0), discovery)
        self._started = self._alone = time.monotonic()
        self._camera = camera or RealSense(settings)
        self._camera.settings = settings
        self._backoff, self._link = Backoff(), Link()
        self._newest = NewestFrame()
        self._stamp, self._source = 0, ""
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._depth = self.create_publisher(Image, topics.DEPTH, CAMERA) if settings.depth else None
        self._info = self.create_publisher(CameraInfo, topics.CAMERA_INFO, CAMERA)
        self._color = self.create_publisher(Image, topics.COLOR, CAMERA)
        self._arrived = self.create_guard_condition(self._on_frame)
        self.create_timer(0.5, self._on_watch, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._thread = threading.Thread(target=self._own_camera, name="camera", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the camera's thread and closes the camera."""
        self._ending.set()
        self._thread.join(10.0)

    def _foreign(self, own: int) -> str:
        names = other_publishers(self, topics.COLOR, own)
        return f"{topics.COLOR} is also published by {', '.join(names)}: one camera at a time" if names else ""

    def _on_watch(self) -> None:
        if self._failure is not None:
            raise self._failure
        reason, now = self._foreign(own=1), time.monotonic()
        if not reason:
            self._alone = now
        elif now < self._started + STARTING or now > self._alone + 2.0 * STARTING:
            raise ForeignNodeError(reason)

    # --- the camera's thread ---

    def _own_camera(self) -> None:
        while not self._ending.is_set():
            if not self._link.ready(time.monotonic()):
                self._ending.wait(POLL)
                continue
            try:
                self._stream(self._camera.open())
            except CameraError as error:
                self._link, line = failed(self._link, self._backoff, time.monotonic(), str(error))
                if line:
                    self.get_logger().warning(f"{line}: trying again until there is one")
            except Exception as error:  # no camera's doing: the node must not live on without its thread
                self._failure = error
                return
            finally:
                self._camera.close()

    def _stream(self, opened: str) -> None:
        """Until the camera is lost, which raises CameraError, or the node ends."""
        told = False
        while not self._ending.is_set():
            frame = self._camera.read(POLL)
            if frame is None:
                continue
            self._link, line = delivered(self._link, time.monotonic())
            if not told:
                told = True
                self.get_logger().info(f"{opened}{f': {line}' if line else ''}")
                self._warn_of(self._camera.intrinsics)
            self._newest.put(frame)
            self._arrived.trigger()

    def _warn_of(self, intrinsics: Intrinsics | None) -> None:
        if intrinsics is not None and not intrinsics.exact:
            self.get_logger().warning(f"{topics.CAMERA_INFO}: the camera's distortion model has no counterpart in ROS")

    # --- executor ---

    def _on_frame(self) -> None:
        frame, intrinsics = self._newest.take(), self._camera.intrinsics
        if frame is None or intrinsics is None:
            return
        age = time.monotonic() - frame.received
        received = self.get_clock().now().nanoseconds - round(age * 1e9)
        found = frame_stamp(frame.domain, frame.timestamp, received, self._stamp)
        if found is None:
            self.get_logger().warning("a frame is not later than the last: dropped", throttle_duration_sec=5.0)
            return
        if found.source != self._source:
            self._source = found.source
            self.get_logger().info(f"stamps are from {found.source} ({frame.domain})")
        self._stamp = found.stamp
        # colour last: who has it finds the others of its stamp on their way
        if self._depth is not None and frame.depth is not None:
            self._depth.publish(image_to_msg(frame.depth, found.stamp, self._frame_id))
        self._info.publish(self._info_message(intrinsics, found.stamp))
        self._color.publish(image_to_msg(frame.color, found.stamp, self._frame_id))

    def _info_message(self, intrinsics: Intrinsics, stamp: int) -> CameraInfo:
        message = CameraInfo(height=intrinsics.height, width=intrinsics.width)
        set_stamp(message.header.stamp, stamp)
        message.header.frame_id = self._frame_id
        message.distortion_model, message.d = intrinsics.distortion, list(intrinsics.coefficients)
        message.k = [float(value) for value in intrinsics.matrix.reshape(9)]
        message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        message.p = [float(value) for value in np.hstack([intrinsics.matrix, np.zeros((3, 1))]).reshape(12)]
        return message


def main(camera: RealSense | None = None) -> int:
    """Runs the node; 0 when told to end, 1 with one line on stderr when it may not go on."""
    rclpy.init()
    node = None
    try:
        node = RealsenseNode(camera)
        spin(node)
    except (CameraError, ForeignNodeError, ParameterException) as error:
        print(f"grape_camera: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.end()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
