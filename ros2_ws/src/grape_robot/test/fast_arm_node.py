"""An arm's broadcaster at its real rate, for tests: the measured TCP at 1 kHz, best effort, depth 1, stamped with this
machine's clock."""

from __future__ import annotations

import sys
import time

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException

from grape_episode import topics
from grape_episode.ros import robot_state, set_stamp

PERIOD = 0.001


def main() -> int:
    rclpy.init()
    node = rclpy.create_node("franka_robot_state_broadcaster")
    publisher = node.create_publisher(PoseStamped, topics.CURRENT_POSE, robot_state(lock_step=False))
    message = PoseStamped()
    message.header.frame_id = topics.BASE_FRAME
    message.pose.position.x, message.pose.position.z = 0.45, 0.25
    message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
    due = time.monotonic()
    try:
        while rclpy.ok():
            set_stamp(message.header.stamp, time.time_ns())
            publisher.publish(message)
            due = max(due + PERIOD, time.monotonic() - 10 * PERIOD)
            time.sleep(max(0.0, due - time.monotonic()))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
