"""Teleoperation: a gamepad's or SpaceMouse's sticks become steps that the gate judges, its buttons what they are for.

Any stick movement takes over, the hand-back button gives back; who drives is the gate's to say (ArmStatus). The node
moves nothing itself.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from grape_interfaces.action import Evaluate
from grape_interfaces.msg import ArmStatus, GateStatus, OperatorStep
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Joy as JoyMessage
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import EVENT, JOY, declare, run_node
from grape_robot import teleop
from grape_robot.joy_mapping import MappingError, load_mapping
from grape_robot.teleop import Joy, TeleopState

SOURCE = "teleop"
THROTTLE = 5.0
UNHEARD = 1.0
"""Seconds in which the gate must have seen what this node sees."""


class TeleopNode(Node):
    """See the module. Raises MappingError."""

    def __init__(self) -> None:
        super().__init__("grape_teleop")
        path = declare(self, "mapping", "", "Path of the YAML file that says what sticks and buttons mean.")
        self._period = declare(
            self, "operator_period", 0.1, "Seconds of one motion; the gate profile's operator_period.", (0.01, 1.0)
        )
        self._frame = declare(self, "base_frame", topics.BASE_FRAME, "Frame of the motions: the robot's base.")
        self._suite = declare(self, "suite", "safety", "What the evaluate button runs: a suite's name or file.")
        adapters = declare(self, "adapters", "", "Adapter folders to evaluate, comma separated; empty: what serves.")
        if not path:
            raise MappingError("parameter mapping: give a file, e.g. launch/params/teleop_gamepad.yaml")
        self._mapping = load_mapping(Path(path).expanduser())
        self._adapters = [name.strip() for name in adapters.split(",") if name.strip()]
        self._state = TeleopState()
        # a gate that remembers the last number must hear higher ones from a node that was started again
        self._sequence = time.time_ns() // 1_000_000
        self._arm: ArmStatus | None = None
        self._arm_heard = 0.0
        self._opening: float | None = None
        self._unheard = 0.0
        self._evaluation, self._evaluating = 0, False
        self._steps = self.create_publisher(OperatorStep, topics.OPERATOR_STEP, EVENT)
        self._evaluate = ActionClient(self, Evaluate, topics.EVALUATE)
        self._end = self.create_client(Trigger, topics.END_EPISODE)
        self.create_subscription(JoyMessage, topics.JOY, self._on_joy, JOY)
        self.create_subscription(ArmStatus, topics.ARM_STATUS, self._on_arm, EVENT)
        self.create_subscription(GateStatus, topics.GATE_STATUS, self._on_gate, EVENT)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(self._period, self._advance, clock=steady)
        self.get_logger().info(f"mapping {self._mapping.name} ({path}), a motion every {self._period:g} s")

    # --- what comes in ---

    def _on_joy(self, message: JoyMessage) -> None:
        before = self._state.problem
        joy = Joy(tuple(message.axes), tuple(message.buttons))
        self._state = teleop.hear(self._mapping, self._state, joy, time.monotonic())
        if self._state.problem and self._state.problem != before:
            self.get_logger().error(f"{topics.JOY}: {self._state.problem}: ignored")
        self._advance()

    def _on_arm(self, message: ArmStatus) -> None:
        before, self._arm, self._arm_heard = self._arm, message, time.monotonic()
        if before is None or (before.authority, before.episode_id) == (message.authority, message.episode_id):
            return
        if before.authority != message.authority:
            drives = message.authority == ArmStatus.OPERATOR
            self.get_logger().info("a person drives" if drives else "the policy may drive")
        if message.authority != ArmStatus.OPERATOR or before.episode_id != message.episode_id:
            self._state = replace(self._state, gripper=None)  # it was chosen for what is over

    def _on_gate(self, message: GateStatus) -> None:
        self._opening = message.gripper if math.isfinite(message.gripper) else None

    # --- what goes out ---

    def _advance(self) -> None:
        now = time.monotonic()
        self._state, said = teleop.advance(self._mapping, self._state, now, self._period, self._opening)
        if said.motion is not None:
            self._timer.reset()  # the next one is due a whole period after this one
            self._say(OperatorStep.MOVE, said.motion)
        if said.hand_back:
            self._say(OperatorStep.HAND_BACK, (0.0,) * 6 + (teleop.AS_IT_IS,))
        if said.evaluate:
            self._on_evaluate()
        if said.end_episode:
            self._on_end()
        self._watch_dead_man(now)
        self._watch_evaluation()

    def _say(self, kind: int, action: tuple[float, ...]) -> None:
        self._sequence += 1
        message = OperatorStep(source=SOURCE, kind=kind, sequence=self._sequence, rotation=teleop.ROTATION)
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), self._frame
        message.episode_id = self._arm.episode_id if self._arm is not None else ""
        message.action = list(action)
        self._steps.publish(message)

    def _watch_dead_man(self, now: float) -> None:
        """The gate reads the button by its own profile: another number there would never let anybody drive."""
        joy, arm, number = self._state.joy, self._arm, self._mapping.dead_man
        held = joy is not None and bool(joy.buttons[number])
        if not held or arm is None or not arm.dead_man_required or arm.dead_man:
            self._unheard = now
        elif now - self._unheard > UNHEARD:
            self.get_logger().error(
                f"the gate does not see button {number} held: dead_man.button of its profile is another",
                throttle_duration_sec=THROTTLE,
            )

    # --- the buttons ---

    def _on_end(self) -> None:
        if not self._end.service_is_ready():
            self.get_logger().error(f"end of the episode: nobody serves {topics.END_EPISODE}")
            return
        self._end.call_async(Trigger.Request()).add_done_callback(self._ended)

    def _ended(self, future: Future) -> None:
        answer: Any = future.result()
        self.get_logger().info(f"end of the episode: {answer.message}")

    def _on_evaluate(self) -> None:
        arm = self._arm
        silent = None if arm is None else time.monotonic() - self._arm_heard
        drives = arm is not None and arm.authority == ArmStatus.OPERATOR
        joy = self._state.joy
        moving = joy is not None and bool(self._mapping.velocity(joy.axes).any())
        why = teleop.may_evaluate(drives, arm.episode_id if arm else "", silent, self._evaluating, moving)
        if not why and not self._evaluate.server_is_ready():
            why = f"nobody serves {topics.EVALUATE}"
        if why:
            self.get_logger().error(f"no evaluation: {why}")
            return
        self._evaluation += 1
        self._evaluating = True
        number = self._evaluation
        goal = Evaluate.Goal(suite=self._suite, adapters=self._adapters, record=True)
        self.get_logger().info(f"evaluation of suite {self._suite} asked for")
        self._evaluate.send_goal_async(goal).add_done_callback(lambda future: self._accepted(number, future))

    def _accepted(self, number: int, future: Future) -> None:
        handle: Any = future.result()
        if handle.accepted:
            handle.get_result_async().add_done_callback(lambda done: self._evaluated(number, done))
        else:
            self._over(number, f"no evaluation: {topics.EVALUATE} refuses")

    def _evaluated(self, number: int, future: Future) -> None:
        answer: Any = future.result()
        self._over(number, f"the evaluation has ended: {answer.result.report or 'no report'}")

    def _watch_evaluation(self) -> None:
        if self._evaluating and not self._evaluate.server_is_ready():
            self._over(self._evaluation, f"the evaluation is lost: {topics.EVALUATE} is gone")

    def _over(self, number: int, said: str) -> None:
        if number == self._evaluation and self._evaluating:
            self._evaluating = False
            self.get_logger().warning(said)


def main() -> None:
    """Entry point of the console script; exit status 0 unless the node cannot start."""
    sys.exit(run_node(TeleopNode))


if __name__ == "__main__":
    main()
