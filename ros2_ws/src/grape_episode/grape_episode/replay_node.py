"""Plays a bag onto its topics where `ros2 bag play` is absent, in a ROS domain of its own.

``python -m grape_episode.replay_node BAG [--domain N] --ros-args -p rate:=1.0``"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock as ClockMsg

from grape_episode import topics
from grape_episode.episode import EpisodeError
from grape_episode.replay import REMAP, Item, Pace, ReplaySettings, items
from grape_episode.ros import (
    CLOCK,
    EVENT,
    LATCHED,
    ForeignNodeError,
    declare,
    foreign_publishers,
    foreign_subscribers,
    message_class,
    run_node,
    set_stamp,
)

REPLAY_DOMAIN = 86
"""The domain where neither --domain nor ROS_DOMAIN_ID says another; 0 is a robot's."""
_LISTENERS = ("/grape_recorder",)
_CONTROLLERS = frozenset({"grape_gate", "grape_sim", "grape_policy", "controller_manager"})
_RECHECK = 1.0
_SUBSCRIBER_WAIT = 30.0


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


class ReplayNode(Node):
    """Plays one bag and exits. Never publishes PolicyStep or a command onto its own topic."""

    def __init__(self, bag: str = "") -> None:
        super().__init__("grape_replay")
        bag = declare(self, "bag", bag, "folder of the bag, or its .mcap file")
        rate = declare(self, "rate", 1.0, "1: the recorded pace; 0: as fast as it goes", (0.0, 1000.0))
        clock_hz = declare(self, "clock_hz", 100.0, "messages a second on /clock", (1.0, 1000.0))
        commands = declare(self, "commands", REMAP, "steps and commands: remap (under /grape/replay) or skip")
        skip = declare(self, "skip", "", "further topics to leave out, separated by commas")
        discovery = declare(self, "discovery_seconds", 3.0, "look so long for others, s, before playing", (0.1, 30.0))
        awaited = declare(self, "wait_for", "", "topics, separated by commas, that need a subscriber before playing")
        names = frozenset(_split(skip))
        self._settings = ReplaySettings(rate, commands, names)
        self._items: Iterator[Item] = items(Path(bag).expanduser(), self._settings)
        self._next: Item | None = next(self._items, None)
        self._watched = [topic for topic in topics.DATA_TYPES if topic not in names or topic in topics.COMMANDS]
        self._time = self.create_publisher(ClockMsg, topics.CLOCK, CLOCK)
        self._outputs: dict[str, Publisher] = {}
        for topic, type_name in topics.DATA_TYPES.items():
            if name := self._settings.destination(topic):
                qos = LATCHED if topic == topics.EPISODE else EVENT
                self._outputs[name] = self.create_publisher(message_class(type_name), name, qos)
        self._await_discovery(discovery)
        self._await_subscribers(_split(awaited))
        self._pace = Pace(self._next.at if self._next else 0, time.monotonic(), rate)
        self._checked = time.monotonic()
        # the timer must not run on the clock that this node itself publishes
        self.create_timer(1.0 / clock_hz, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _await_discovery(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_alone()
            time.sleep(0.05)

    def _await_subscribers(self, awaited: list[str]) -> None:
        if unknown := [topic for topic in awaited if topic not in self._outputs]:
            raise ValueError(f"wait_for: {', '.join(unknown)}: not played")
        end = time.monotonic() + _SUBSCRIBER_WAIT
        while missing := [topic for topic in awaited if not self._outputs[topic].get_subscription_count()]:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody has subscribed {', '.join(missing)} for {_SUBSCRIBER_WAIT:g} s")
            time.sleep(0.02)

    def _check_alone(self) -> None:
        why = "replay needs a domain without robot, gate or simulator (--domain)"
        for name, namespace in self.get_node_names_and_namespaces():
            if name in _CONTROLLERS:
                raise ForeignNodeError(f"{namespace.rstrip('/')}/{name} is running: {why}")
        for topic in (topics.CLOCK, *self._watched):
            if others := foreign_publishers(self, topic):
                raise ForeignNodeError(f"{topic} is published by {', '.join(others)}: {why}")
        if others := foreign_subscribers(self, topics.TARGET_POSE, _LISTENERS):
            raise ForeignNodeError(f"{topics.TARGET_POSE} is obeyed by {', '.join(others)}: {why}")

    def _tick(self) -> None:
        try:
            now = time.monotonic()
            if now - self._checked > _RECHECK:
                self._check_alone()
                self._checked = now
            self._play(now)
        except (ForeignNodeError, EpisodeError) as error:
            print(f"replay stopped: {error}", file=sys.stderr)
            raise SystemExit(1) from error

    def _play(self, now: float) -> None:
        """Everything due; at rate 0 that is all of the next stamp."""
        if self._next is None:
            for publisher in self._outputs.values():
                publisher.wait_for_all_acked(Duration(seconds=2))
            raise SystemExit(0)
        due = self._pace.at(now) if self._settings.rate else self._next.at
        shown = -1
        while self._next is not None and self._next.at <= due:
            if self._next.at != shown:
                shown = self._next.at
                self._publish_clock(shown)
            self._outputs[self._next.topic].publish(self._next.data)
            self._next = next(self._items, None)
        if due > shown:
            self._publish_clock(due)

    def _publish_clock(self, stamp: int) -> None:
        message = ClockMsg()
        set_stamp(message.clock, stamp)
        self._time.publish(message)


def main() -> None:
    """Entry point of the console script: status 0 after the last message, 1 where it cannot play."""
    parser = argparse.ArgumentParser(prog="replay_node", description="Play a bag onto its topics.")
    parser.add_argument("bag", nargs="?", default="")
    parser.add_argument(
        "--domain", type=int, default=None, help=f"ROS domain (else ROS_DOMAIN_ID, else {REPLAY_DOMAIN})"
    )
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    domain = given.domain
    if domain is None:
        domain = int(os.environ.get("ROS_DOMAIN_ID") or REPLAY_DOMAIN)
    sys.exit(run_node(lambda: ReplayNode(given.bag), domain_id=domain))


if __name__ == "__main__":
    main()
