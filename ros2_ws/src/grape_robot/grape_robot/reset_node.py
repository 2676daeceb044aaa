"""Resets in the lab: serves ResetWorld where in simulation the simulator does.

The arm goes home through the gate, the stored first frame of the wanted state is shown over the live image, and the
policy gets its answer once a person has confirmed that the scene is laid out like that.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import ArmStatus, EpisodeOutcome, GateStatus, OperatorStep
from grape_interfaces.srv import ConfirmReset, ResetWorld
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import (
    CAMERA,
    EVENT,
    JOINTS,
    declare,
    image_from_msg,
    image_to_msg,
    pose_from_msg,
    robot_state,
    serve,
    set_stamp,
    until_signalled,
)
from grape_robot.homing import ROTATION, Homing, check_homing
from grape_robot.lab_reset import LabReset, ResetSettings, Wanted
from grape_robot.profile import GateProfile, load_profile
from grape_robot.reset_desk import ArmHeard, GateHeard, LiveFrame, ResetDesk, ResetFailed, TcpHeard, WidthHeard
from grape_robot.reset_overlay import blend, difference, labelled
from grape_robot.state import HOMING
from grape_robot.state_library import StateLibrary

EXECUTOR_THREADS = 6
GHOST_ARM = "grape_ghost_arm"
"""Name of ``grape_robot.ghost_arm_node``'s node."""
HOME = ([0.42, 0.0, 0.26], [1.0, 0.0, 0.0, 0.0])
"""Where the demonstrations behind the shipped model begin: position, quaternion."""


class ResetStartError(RuntimeError):
    """The node may not run like this; the text names the parameter."""


class ResetNode(Node):
    """See the module. Raises ResetStartError, ProfileError or HomingError when it may not start."""

    def __init__(self) -> None:
        super().__init__("grape_reset")
        states = declare(self, "states", "", "Folder of the initial states' first frames.")
        path = declare(self, "profile", "", "Path of the gate's profile: period and limits of the homing's steps.")
        if not states or not path:
            raise ResetStartError(f"parameter {'profile' if states else 'states'}: give a path")
        profile = load_profile(Path(path).expanduser())
        self._frame = profile.frame
        self._variant = declare(self, "variant", "clean", "Variant of the states where a request names none.")
        self._weight = declare(self, "overlay_weight", 0.5, "Share of the live image in the overlay.", (0.0, 1.0))
        rate = declare(self, "overlay_rate", 10.0, "Overlays a second.", (0.1, 60.0))
        self._homing = self._declared_homing(profile)
        check_homing(self._homing, profile)
        self._desk = ResetDesk()
        library = StateLibrary(Path(states).expanduser())
        self._reset = LabReset(self._desk, self, library, self._homing, self._declared_settings())
        self._one = threading.Lock()

        self._steps = self.create_publisher(OperatorStep, topics.OPERATOR_STEP, EVENT)
        self._overlay = self.create_publisher(Image, topics.RESET_OVERLAY, CAMERA)
        self._listen()
        asked, said, drawn = (
            ReentrantCallbackGroup(),
            MutuallyExclusiveCallbackGroup(),
            MutuallyExclusiveCallbackGroup(),
        )
        self.create_service(ResetWorld, topics.RESET_WORLD, self._on_reset, callback_group=asked)
        self.create_service(ConfirmReset, topics.CONFIRM_RESET, self._on_confirm, callback_group=said)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / rate, self._on_overlay, callback_group=drawn, clock=steady)
        self.get_logger().info(f"profile {profile.name}, states in {states}")

    def _declared_homing(self, profile: GateProfile) -> Homing:
        position = declare(self, "home_position", HOME[0], "Where episodes begin: TCP, metres, base frame.")
        quaternion = declare(self, "home_quaternion", HOME[1], "Its orientation: x, y, z, w.")
        for name, values, length in (("home_position", position, 3), ("home_quaternion", quaternion, 4)):
            if len(values) != length:
                raise ResetStartError(f"parameter {name}: {len(values)} numbers, expected {length}")
        return Homing(
            home=Pose(np.array(position), np.array(quaternion)),
            travel_height=declare(self, "travel_height", 0.3, "Height of the way home, above all objects.", (0.0, 2.0)),
            speed=declare(self, "speed", 0.1, "Of the homing, m/s; below the profile's.", (0.001, 1.0)),
            rotation_speed=declare(self, "rotation_speed", 0.3, "Of the homing, rad/s.", (0.001, 3.0)),
            period=profile.operator_period,
            tolerance=declare(self, "tolerance", 0.02, "Metres from home that count as home.", (0.001, 0.2)),
            rotation_tolerance=declare(self, "rotation_tolerance", 0.1, "The same, radians.", (0.001, 1.0)),
        )

    def _declared_settings(self) -> ResetSettings:
        seconds = {
            "arm_deadline": "gate, arm and camera",
            "hold_deadline": "a hold of the gate to pass",
            "gripper_deadline": "the gripper to open",
            "homing_deadline": "the whole way home",
            "confirm_deadline": "the operator",
        }
        values = {
            name: declare(self, name, getattr(ResetSettings, name), f"Seconds to wait for {what}.", (0.0, 7200.0))
            for name, what in seconds.items()
        }
        missing = declare(
            self, "capture_missing", True, "A state without a first frame is stored when it is confirmed."
        )
        return ResetSettings(**values, capture_missing=missing)

    def _listen(self) -> None:
        desk, groups = self._desk, [MutuallyExclusiveCallbackGroup() for _ in range(3)]
        for kind, topic, heard, qos, group in (
            (GateStatus, topics.GATE_STATUS, self._on_gate, EVENT, groups[0]),
            (ArmStatus, topics.ARM_STATUS, self._on_arm, EVENT, groups[0]),
            (EpisodeOutcome, topics.OUTCOME, lambda m: desk.ended(m.episode_id), EVENT, groups[0]),
            (PoseStamped, topics.CURRENT_POSE, self._on_pose, robot_state(False), groups[1]),
            (JointState, topics.JOINT_STATES, self._on_joints, JOINTS, groups[1]),
        ):
            self.create_subscription(kind, topic, heard, qos, callback_group=group)
        self.create_subscription(Image, topics.COLOR, self._on_image, CAMERA, callback_group=groups[2], raw=True)

    def leave(self) -> None:
        """Ends the reset that is under way: it answers, and hands back."""
        self._desk.close("the reset node ends")
        with self._one:
            pass

    # --- what comes in ---

    def _on_gate(self, message: GateStatus) -> None:
        target = pose_from_msg(message.target)
        self._desk.put(gate=GateHeard(message.state, message.check, message.reason, target))

    def _on_arm(self, message: ArmStatus) -> None:
        drives = message.authority == ArmStatus.OPERATOR
        switch = message.dead_man_required, message.dead_man
        self._desk.put(arm=ArmHeard(self._desk.steady(), message.episode_id, drives, *switch, dry_run=message.dry_run))

    def _on_pose(self, message: PoseStamped) -> None:
        if message.header.frame_id != self._frame:
            told = f"{topics.CURRENT_POSE}: frame {message.header.frame_id!r}, expected {self._frame!r}: ignored"
            self.get_logger().error(told, throttle_duration_sec=5.0)
            return
        self._desk.put(tcp=TcpHeard(self._desk.steady(), pose_from_msg(message.pose)))

    def _on_joints(self, message: JointState) -> None:
        knuckle = dict(zip(message.name, message.position, strict=False)).get(topics.KNUCKLE_JOINT)
        if knuckle is not None:
            self._desk.put(width=WidthHeard(self._desk.steady(), topics.gripper_width(knuckle)))

    def _on_image(self, data: Any) -> None:
        seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
        stamp = int(seconds) * 1_000_000_000 + int(nanoseconds)
        self._desk.put(frame=LiveFrame(stamp, self._desk.steady(), data))

    def _on_confirm(self, request: ConfirmReset.Request, response: ConfirmReset.Response) -> ConfirmReset.Response:
        response.reason = self._desk.confirm(request.task, request.initial_state, self.now())
        response.accepted = not response.reason
        if response.reason:
            self.get_logger().warning(f"{topics.CONFIRM_RESET}: {response.reason}")
        return response

    def _on_reset(self, request: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        variant = request.variant or self._variant
        wanted = Wanted(request.episode_id, request.task, variant, int(request.initial_state))
        ticket = self._desk.ask()
        with self._one:
            try:
                set_stamp(response.first_observation, self._reset.run(wanted, ticket))
                response.accepted = True
            except ResetFailed as failure:
                response.reason = str(failure)
                self.get_logger().error(f"{topics.RESET_WORLD}: {failure}")
        return response

    # --- what goes out: the reset's ports, and the overlay ---

    def now(self) -> int:
        """ROS time, ns."""
        return int(self.get_clock().now().nanoseconds)

    def ghost(self) -> bool:
        """Whether nobody but the ghost arm tells where the arm is."""
        infos = self.get_publishers_info_by_topic(topics.CURRENT_POSE)
        return bool(infos) and all(info.node_name == GHOST_ARM for info in infos)

    def move(self, sequence: int, action: Sequence[float]) -> None:
        self._publish(sequence, OperatorStep.MOVE, action)

    def hand_back(self, sequence: int) -> None:
        self._publish(sequence, OperatorStep.HAND_BACK, [0.0] * 7)

    def decode(self, frame: LiveFrame) -> NDArray:
        """(H, W, 3) uint8 RGB. Raises ValueError naming the topic."""
        message = deserialize_message(frame.data, Image)
        if message.encoding not in ("rgb8", "bgr8"):
            raise ValueError(f"{topics.COLOR}: image encoding {message.encoding!r}: expected rgb8 or bgr8")
        return image_from_msg(message)

    def say(self, line: str) -> None:
        self.get_logger().info(line)

    def _publish(self, sequence: int, kind: int, action: Sequence[float]) -> None:
        # outside of the episode: it begins with the observation after the reset
        message = OperatorStep(source=HOMING, sequence=sequence, kind=kind, rotation=ROTATION)
        message.action = [float(value) for value in action]
        message.header.frame_id = self._frame
        set_stamp(message.header.stamp, self.now())
        self._steps.publish(message)

    def _on_overlay(self) -> None:
        awaited, frame = self._desk.awaited, self._desk.frame
        if awaited is None or frame is None:
            return
        try:
            live = self.decode(frame)
            shown, lines = live, (awaited.name, "new state: stored as it is confirmed")
            if awaited.stored is not None:
                shown = blend(live, awaited.stored, self._weight)
                lines = (awaited.name, f"differs by {100.0 * difference(live, awaited.stored):.1f} %")
        except ValueError as error:
            self.get_logger().error(f"{topics.RESET_OVERLAY}: {error}", throttle_duration_sec=5.0)
            return
        self._overlay.publish(image_to_msg(labelled(shown, lines), frame.stamp, topics.CAMERA_FRAME))


def main(args: list[str] | None = None) -> int:
    """Runs the node; 0 when told to end, 1 with one line on stderr when it may not start."""
    ended = until_signalled()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = ResetNode()
    except Exception as problem:
        print(f"grape_reset: {problem}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    return serve(node, EXECUTOR_THREADS, ended, node.leave)


if __name__ == "__main__":
    sys.exit(main())
