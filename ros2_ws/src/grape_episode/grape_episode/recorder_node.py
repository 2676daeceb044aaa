"""The recorder: one bag per episode, opened by the service PrepareRecording, closed after the outcome."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from grape_interfaces.msg import EpisodeRecord
from grape_interfaces.srv import PrepareRecording
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.serialization import serialize_message

from grape_episode import topics
from grape_episode.bag import COMPRESSIONS
from grape_episode.messages import fill_header
from grape_episode.recording import Recording, RecordingError, RecordingSettings
from grape_episode.ros import EVENT, declare, message_class, recorder_qos, run_node
from grape_episode.writer import MEGABYTE, DiskFullError, check_disk

_TICK = 0.05
_PUBLISHER_WAIT = 1.0


class RecorderNode(Node):
    """Subscribes every data topic for its whole life and writes what arrives while a bag is open."""

    def __init__(self) -> None:
        super().__init__("grape_recorder")
        root = declare(self, "root", "runs/episodes", "folder of the bags; one folder per episode is made in it")
        floor = declare(self, "disk_floor_mb", 1000, "no recording begins with fewer MB free", (0, 10**9))
        camera = declare(self, "camera", False, "record raw colour and depth, too (640x480 at 30 Hz: 46 MB/s)")
        flush = declare(self, "flush_seconds", 1.0, "at most so many seconds are lost in a crash", (0.05, 10.0))
        drain = declare(self, "drain_seconds", 2.0, "wait for late steps and images after the outcome, s", (0.0, 30.0))
        queue = declare(self, "queue_mb", 256, "MB that may wait for the disk before messages are dropped", (1, 10**6))
        compression = declare(self, "compression", "zstd", f"of the chunks of a bag: {', '.join(COMPRESSIONS)}")
        lock_step = declare(self, "lock_step", False, "pose and wrench are published reliably, as in lock-step")
        self._settings = RecordingSettings(
            Path(root).expanduser().absolute(), floor * MEGABYTE, flush, drain, queue * MEGABYTE, compression
        )
        check_disk(self._settings.root, self._settings.disk_floor)
        self._settings.root.mkdir(parents=True, exist_ok=True)
        self._recording: Recording | None = None
        self._previous = ""
        self._record = self.create_publisher(EpisodeRecord, topics.RECORD, EVENT)
        for topic, type_name in topics.DATA_TYPES.items():
            if camera or topic not in topics.RAW_CAMERA:
                callback: Callable[[bytes], None] = partial(self._take, topic)
                kind = message_class(type_name)
                self.create_subscription(kind, topic, callback, recorder_qos(topic, lock_step), raw=True)
        self.create_service(PrepareRecording, topics.PREPARE_RECORDING, self._prepare)
        # simulated time stands still after an episode in lock-step; the deadline for late messages must not
        self.create_timer(_TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _prepare(
        self, request: PrepareRecording.Request, response: PrepareRecording.Response
    ) -> PrepareRecording.Response:
        if self._recording is not None:
            self._finish("cut short: the next episode began before its outcome came")
        try:
            identity = serialize_message(request.identity)
            self._recording = Recording(self._settings, identity, time.time_ns(), previous=self._previous)
        except (RecordingError, DiskFullError) as error:
            self.get_logger().error(f"not recording: {error}")
            response.accepted, response.reason = False, str(error)
            return response
        self._await_publisher(topics.POLICY_STEP)
        response.accepted, response.path = True, str(self._recording.folder)
        self.get_logger().info(f"recording {self._recording.folder}")
        return response

    def _await_publisher(self, topic: str) -> None:
        # a publisher that discovery has not shown yet would lose its first messages on us
        deadline = time.monotonic() + _PUBLISHER_WAIT
        while not self.count_publishers(topic):
            if time.monotonic() > deadline:
                self.get_logger().warning(f"nobody publishes {topic} yet")
                return
            time.sleep(0.01)

    def _take(self, topic: str, data: bytes) -> None:
        if self._recording is None:
            return
        self._recording.take(topic, data, time.time_ns())
        if self._recording.done():
            self._finish()

    def _tick(self) -> None:
        if self._recording is not None and self._recording.done():
            self._finish()

    def _finish(self, note: str = "") -> None:
        assert self._recording is not None
        summary = self._recording.finish(time.time_ns(), note)
        self._recording, self._previous = None, summary.episode_id
        message = EpisodeRecord()
        fill_header(message, self.get_clock().now().nanoseconds)
        message.episode_id, message.path = summary.episode_id, str(summary.path)
        message.complete, message.problems = summary.complete, list(summary.problems)
        message.messages, message.bytes = summary.messages, summary.size
        if self.context.ok():
            self._record.publish(message)
        for problem in summary.problems:
            self.get_logger().warning(f"{summary.path}: {problem}")

    def close(self) -> None:
        """Ends an open bag in order when the node is stopped."""
        if self._recording is not None:
            self._finish("cut short: the recorder was stopped")


def main() -> None:
    """Entry point of the console script; exit status 0 unless the node cannot start."""
    sys.exit(run_node(RecorderNode))


if __name__ == "__main__":
    main()
