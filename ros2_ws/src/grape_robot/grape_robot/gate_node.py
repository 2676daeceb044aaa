"""The gate's node: judges every PolicyStep and is the only one that speaks to the arm's controllers.

A process of its own. Per step: verdict, target pose, acceptance of the gripper's goal, GateStatus, StepCommit.
A topic is no safety function: the arm's own limits and its emergency stop stay in force.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, GateStatus, Heartbeat, PolicyStep, StepCommit
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import (
    EVENT,
    LATCHED,
    UNNAMED,
    ForeignNodeError,
    declare,
    other_publishers,
    pose_from_msg,
    pose_to_msg,
    refuse_foreign,
    robot_state,
    set_stamp,
    spin,
    stamp_ns,
)
from grape_robot import gate
from grape_robot.gate import ArmModel, GateProfile, GateState, Mode, Senses, StepRequest, Verdict
from grape_robot.profile import ProfileError, load_profile
from grape_robot.ros import CrispTargetPose, GripperBridge

TICK = 0.02
STATUS_PERIOD = 0.1
GRAPH_PERIOD = 0.5
STARTING = 3.0
"""Seconds after the start in which a foreign publisher still ends the gate; later it is a fault. On a busy machine
discovery outlasts the wait at the start, and of two gates the newcomer must go."""


class GateStartError(RuntimeError):
    """The gate may not run like this; the text says why."""


class GateNode(Node):
    """See the module. Raises ProfileError, GateStartError or ForeignNodeError when it may not start."""

    def __init__(self) -> None:
        super().__init__("grape_gate")
        path = declare(self, "profile", "", "Path of the YAML file with the gate's limits.")
        self._lock_step = declare(self, "lock_step", False, "The world waits for StepCommit; its poses are reliable.")
        self._deadline = declare(
            self, "deadline", 30.0, "In lock-step: seconds to wait for the pose of a step's own stamp.", (0.1, 600.0)
        )
        discovery = declare(self, "discovery_seconds", 1.0, "Time to find foreign publishers at start.", (0.0, 30.0))
        if not path:
            raise GateStartError("parameter profile: give the path of a gate profile, e.g. launch/params/gate_sim.yaml")
        self.profile: GateProfile = load_profile(Path(path))
        self._arm = ArmModel.of(self.profile, path)
        self._check_clock()
        refuse_foreign(lambda: self._foreign(own=0), discovery)

        self._started = time.monotonic()
        self._state = GateState(lock_step=self._lock_step)
        self._shown: tuple = ()
        self._measured: PoseStamped | None = None
        self._queue: deque[tuple[PolicyStep, float]] = deque()
        self._waiting: tuple[PolicyStep, Verdict, float] | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)

        self._target = CrispTargetPose(self, self.profile.frame)
        self._gripper = GripperBridge(self, self.profile.gripper_effort)
        self._status = self.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
        self._commit = self.create_publisher(StepCommit, topics.STEP_COMMIT, EVENT)
        poses = robot_state(self._lock_step)
        self.create_subscription(PoseStamped, topics.CURRENT_POSE, self._on_pose, poses)
        self.create_subscription(EpisodeIdentity, topics.EPISODE, self._on_episode, LATCHED)
        self.create_subscription(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        self.create_subscription(Heartbeat, topics.HEARTBEAT, self._on_heartbeat, EVENT)
        self.create_subscription(PolicyStep, topics.POLICY_STEP, self._on_step, EVENT)
        self.create_service(Trigger, topics.RESET_GATE, self._on_reset)
        self.create_timer(TICK, self._on_tick, clock=self._steady)
        self.create_timer(STATUS_PERIOD, self._publish_status, clock=self._steady)
        self.create_timer(GRAPH_PERIOD, self._on_graph, clock=self._steady)
        self.get_logger().info(f"profile {self.profile.name} ({path}), lock_step {self._lock_step}")

    def _check_clock(self) -> None:
        sim_time = self.get_parameter("use_sim_time").value
        if self.profile.clock == "ros" and not sim_time:
            raise GateStartError(f"profile {self.profile.name} follows the world's clock: set use_sim_time:=true")
        if self.profile.clock == "steady" and sim_time:
            raise GateStartError(f"profile {self.profile.name} is for an arm: use_sim_time must be false")

    def _foreign(self, own: int) -> str:
        """Who publishes what must be ours alone, or a clock where there may be none; "" if nobody."""
        reasons = []
        names = other_publishers(self, topics.TARGET_POSE, own)
        if names:
            reasons.append(
                f"{topics.TARGET_POSE} is also published by {', '.join(names)}: the gate must be the only one"
            )
        names = other_publishers(self, "/clock", 0) if self.profile.clock == "steady" else []
        if names:
            reasons.append(f"/clock is published by {', '.join(names)}: profile {self.profile.name} is for an arm")
        return "; ".join(reasons)

    def _now_stamp(self) -> int:
        return self.get_clock().now().nanoseconds

    def _now(self) -> float:
        """Seconds on the watchdogs' clock."""
        clock = self.get_clock() if self.profile.clock == "ros" else self._steady
        return clock.now().nanoseconds * 1e-9

    # --- what comes in ---

    def _on_pose(self, message: PoseStamped) -> None:
        self._measured = message
        self._drain()

    def _on_episode(self, message: EpisodeIdentity) -> None:
        wrong = ""
        if abs(message.control_period - self.profile.control_period) > 1e-6:
            wrong = f"control_period {message.control_period} s, the profile has {self.profile.control_period} s"
        elif message.lock_step != self._lock_step:
            wrong = f"lock_step {message.lock_step}, the gate has {self._lock_step}"
        if wrong:
            reason = f"{topics.EPISODE}: episode {message.episode_id} has {wrong}"
            self.get_logger().error(reason)
            self._state = gate.decline(self._state, reason)
        else:
            self._state = gate.arm(self._state, message.episode_id, self._lock_step)
        self._publish_status()

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        self._state = gate.disarm(self._state, message.episode_id)
        self._publish_status()

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._state = gate.heartbeat(self._state, message.episode_id, self._now())

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._foreign(own=1)
        if reason:
            response.success, response.message = False, reason
            return response
        response.success = True
        was = self._state
        response.message = f"was stopped: {was.reason}" if was.mode is Mode.STOPPED else "the gate was not stopped"
        reason = gate.reset_refusal(self.profile, was, self._senses())
        if reason:
            response.success, response.message = False, reason
            return response
        self._state = gate.reset(was)
        self._publish_status()
        return response

    def _on_step(self, message: PolicyStep) -> None:
        self._queue.append((message, time.monotonic() + self._deadline))
        self._drain()

    def _on_tick(self) -> None:
        before = self._state
        self._state = gate.tick(self.profile, self._arm, before, self._senses())
        if self._state.mode is not before.mode:
            if self._state.mode is Mode.STOPPED:
                self._stay()
            self._announce()
        self._gripper.poll()
        if self._waiting is not None and time.monotonic() > self._waiting[2]:
            limit = self.profile.gripper_deadline
            self._gripper.give_up(f"{topics.GRIPPER_ACTION} accepted no goal within {limit:g} s")
        self._drain()

    def _on_graph(self) -> None:
        reason = self._foreign(own=1)
        if reason and time.monotonic() < self._started + STARTING:
            raise ForeignNodeError(reason)
        if reason:
            self._fail("foreign", reason)
            if UNNAMED in self._state.reason:
                self._state = replace(self._state, reason=reason)

    # --- a step, from its arrival to its commit ---

    def _drain(self) -> None:
        while self._queue and self._waiting is None:
            message, deadline = self._queue[0]
            if self._lock_step and not self._observed(stamp_ns(message.header.stamp)) and time.monotonic() < deadline:
                return
            self._queue.popleft()
            self._judge(message)

    def _observed(self, stamp: int) -> bool:
        """Whether pose and clock have reached a step's stamp: in lock-step the reference must not depend on luck."""
        pose = self._measured
        return pose is not None and stamp_ns(pose.header.stamp) >= stamp and self._now_stamp() >= stamp

    def _senses(self) -> Senses:
        pose = self._measured
        return Senses(
            now=self._now(),
            now_stamp=self._now_stamp(),
            measured=None if pose is None else pose_from_msg(pose.pose),
            measured_stamp=0 if pose is None else stamp_ns(pose.header.stamp),
            measured_frame="" if pose is None else pose.header.frame_id,
        )

    def _judge(self, message: PolicyStep) -> None:
        request = StepRequest(
            episode_id=message.episode_id,
            step=message.step,
            stamp=stamp_ns(message.header.stamp),
            frame=message.header.frame_id,
            action=tuple(message.action),
            rotation=message.rotation,
        )
        senses = self._senses()
        before = self._state
        # a silence that ended within a tick must not pass for none
        checked = gate.tick(self.profile, self._arm, before, senses)
        if checked.mode is Mode.STOPPED and before.mode is not Mode.STOPPED:
            self._stay()
        verdict, self._state = gate.judge(self.profile, self._arm, checked, request, senses)
        if not verdict.accepted or verdict.target is None or verdict.gripper is None:
            self._conclude(message, verdict)
            return
        self._target.send(verdict.target, request.stamp)
        if verdict.gripper == before.gripper:
            self._conclude(message, verdict)
            return
        self._waiting = (message, verdict, time.monotonic() + self.profile.gripper_deadline)
        self._gripper.send(verdict.gripper, self._gripper_answered)

    def _gripper_answered(self, reason: str) -> None:
        if self._waiting is None:
            return
        message, verdict, _ = self._waiting
        self._waiting = None
        if reason:
            self._fail("gripper", reason)
            verdict = Verdict(False, "gripper", reason)
        self._conclude(message, verdict)
        self._drain()

    def _conclude(self, message: PolicyStep, verdict: Verdict) -> None:
        number = GateStatus.ACCEPTED if verdict.accepted else GateStatus.VETOED
        if not verdict.accepted:
            text = f"step {message.step} of {message.episode_id} refused: {verdict.check}: {verdict.reason}"
            self.get_logger().warning(text)
        status = self._status_message()
        status.episode_id, status.step, status.verdict = message.episode_id, message.step, number
        status.check, status.reason = verdict.check, verdict.reason
        self._status.publish(status)
        commit = StepCommit(episode_id=message.episode_id, step=message.step, verdict=number)
        commit.header.stamp, commit.header.frame_id = message.header.stamp, self.profile.frame
        self._commit.publish(commit)

    # --- what goes out ---

    def _stay(self) -> None:
        """On a stop the target becomes where the arm is: it must not travel on to the last one."""
        pose = self._measured
        if pose is None or pose.header.frame_id != self.profile.frame:
            return
        measured = pose_from_msg(pose.pose)
        if gate.is_pose(measured):
            self._target.send(measured, self._now_stamp())

    def _fail(self, check: str, reason: str) -> None:
        before = self._state
        self._state = gate.stop(before, check, reason, self._now())
        if self._state.mode is not before.mode:
            self._stay()
            self._announce()

    def _announce(self) -> None:
        self.get_logger().error(f"{self._state.mode.name}: {self._state.check}: {self._state.reason}")
        self._publish_status()

    def _status_message(self) -> GateStatus:
        state = self._state
        status = GateStatus(state=int(state.mode), episode_id=state.episode_id, verdict=GateStatus.NONE)
        set_stamp(status.header.stamp, self._now_stamp())
        status.header.frame_id = self.profile.frame
        status.check, status.reason = state.check, state.reason
        if state.reference is not None:
            status.target = pose_to_msg(state.reference)
        status.gripper = float("nan") if state.gripper is None else state.gripper
        return status

    def _publish_status(self) -> None:
        self._status.publish(self._status_message())


def main() -> int:
    """Runs the node; 0 when told to end, 1 with one line on stderr when it may not start."""
    rclpy.init()
    node = None
    try:
        node = GateNode()
        spin(node)
    except (ProfileError, GateStartError, ForeignNodeError, ParameterException) as error:
        print(f"grape_gate: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
