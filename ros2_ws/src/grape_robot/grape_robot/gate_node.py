"""The gate's node: judges every step and is the only one that speaks to the arm's controllers.

A process of its own. Per step of the policy: verdict, target, acceptance of the gripper's goal, GateStatus, StepCommit.
In real time the set point goes to the target in small steps, at the profile's ``slew_rate``; in lock-step the target is
sent at once. A topic is no safety function: the arm's own limits and its emergency stop stay in force.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped, WrenchStamped
from grape_interfaces.msg import (
    ArmStatus,
    EpisodeIdentity,
    EpisodeOutcome,
    GateStatus,
    Heartbeat,
    KeepOutBoxes,
    OperatorStep,
    PolicyStep,
    StepCommit,
)
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.ros import (
    EVENT,
    JOINTS,
    JOY,
    LATCHED,
    ForeignNodeError,
    declare,
    refuse_foreign,
    robot_state,
    spin,
)
from grape_robot.drive import Drive
from grape_robot.gate import ArmModel, GateState, Mode, Senses
from grape_robot.keeper import Keeper, Said
from grape_robot.profile import ProfileError, load_profile
from grape_robot.ros import ControllerBridge, CrispTargetPose, GripperBridge, Newest, RobotModeBridge
from grape_robot.sensing import Arm, KeepOutError, Sensing
from grape_robot.status import fill_arm_status, fill_gate_status, held
from grape_robot.strangers import Strangers

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
        deadline = declare(
            self,
            "deadline",
            30.0,
            "In lock-step: seconds to wait for the observation of a step's own stamp.",
            (0.1, 600.0),
        )
        discovery = declare(self, "discovery_seconds", 1.0, "Time to find foreign publishers at start.", (0.0, 30.0))
        self._dry_run = declare(self, "dry_run", False, "Judge and show everything, send nothing to arm or gripper.")
        if not path:
            raise GateStartError("parameter profile: give the path of a gate profile, e.g. launch/params/gate_sim.yaml")
        self.profile = load_profile(Path(path))
        self._arm = ArmModel.of(self.profile, path)
        self._check_clock()
        refuse_foreign(Strangers(self, self.profile, own=0).names, discovery)

        self._started = time.monotonic()
        self._strangers = Strangers(self, self.profile, own=0 if self._dry_run else 1)
        self._named = True
        self._shown: tuple = ()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._speak()
        self._keeper = Keeper(
            self.profile,
            self._arm,
            self._drive,
            self._gripper,
            self,
            lock_step=self._lock_step,
            deadline=deadline,
            dry_run=self._dry_run,
        )
        self._listen()
        self.create_timer(TICK, self._on_tick, clock=self._steady)
        self.create_timer(STATUS_PERIOD, self._publish_status, clock=self._steady)
        self.create_timer(GRAPH_PERIOD, self._on_graph, clock=self._steady)
        if not self._lock_step:
            self.create_timer(1.0 / self.profile.slew_rate, self._on_stream, clock=self._steady)
        self.get_logger().info(
            f"profile {self.profile.name} ({path}), lock_step {self._lock_step}, dry_run {self._dry_run}"
        )

    def _speak(self) -> None:
        # crisp's controller ignores everything while it sees two publishers: in a dry run there is none
        target = None if self._dry_run else CrispTargetPose(self, self.profile.frame)
        self._drive = Drive(self.profile, None if target is None else target.send, self._lock_step)
        self._gripper = GripperBridge(self, self.profile.gripper_effort)
        self._status = self.create_publisher(GateStatus, topics.GATE_STATUS, EVENT)
        self._arm_status = self.create_publisher(ArmStatus, topics.ARM_STATUS, EVENT)
        self._commit = self.create_publisher(StepCommit, topics.STEP_COMMIT, EVENT)

    def _listen(self) -> None:
        profile, listen = self.profile, self.create_subscription
        pose = self._newest(PoseStamped, topics.CURRENT_POSE)
        wrench = self._newest(WrenchStamped, topics.WRENCH)
        self._sensing = Sensing(profile, pose, wrench)
        self._mode = RobotModeBridge(self) if profile.watch_robot_mode else None
        self._controller = ControllerBridge(self, profile.controller) if profile.controller else None
        listen(JointState, topics.JOINT_STATES, self._on_joints, JOINTS)
        listen(Joy, topics.JOY, self._on_joy, JOY)
        listen(KeepOutBoxes, topics.KEEP_OUT, self._on_keep_out, EVENT if self._lock_step else JOY)
        listen(EpisodeIdentity, topics.EPISODE, self._on_episode, LATCHED)
        listen(EpisodeOutcome, topics.OUTCOME, self._on_outcome, EVENT)
        listen(Heartbeat, topics.HEARTBEAT, self._on_heartbeat, EVENT)
        listen(PolicyStep, topics.POLICY_STEP, self._keeper.step, EVENT)
        listen(OperatorStep, topics.OPERATOR_STEP, self._keeper.operate, EVENT)
        self.create_service(Trigger, topics.RESET_GATE, self._on_reset)

    def _newest(self, kind: type, topic: str) -> Callable[[], Any]:
        """What gives the newest message of a topic that may come at 1 kHz; in lock-step each one may be waited for."""
        if not self._lock_step:
            newest: Newest[Any] = Newest(self, kind, topic, robot_state(False))
            return lambda: (newest.read() or (None,))[0]
        heard: list[Any] = [None]

        def hear(message: Any) -> None:
            heard[0] = message
            self._keeper.drain()

        self.create_subscription(kind, topic, hear, robot_state(True))
        return lambda: heard[0]

    def _check_clock(self) -> None:
        sim_time = self.get_parameter("use_sim_time").value
        if self.profile.clock == "ros" and not sim_time:
            raise GateStartError(f"profile {self.profile.name} follows the world's clock: set use_sim_time:=true")
        if self.profile.clock == "steady" and sim_time:
            raise GateStartError(f"profile {self.profile.name} is for an arm: use_sim_time must be false")

    def _now_stamp(self) -> int:
        return self.get_clock().now().nanoseconds

    def _now(self) -> float:
        """Seconds on the watchdogs' clock."""
        clock = self.get_clock() if self.profile.clock == "ros" else self._steady
        return clock.now().nanoseconds * 1e-9

    # --- what the keeper asks for ---

    def senses(self) -> Senses:
        arm, controller = Arm(), self._controller
        if self._mode is not None or controller is not None:
            arm = Arm(
                self._mode.last if self._mode is not None else None,
                controller.active if controller is not None else None,
                controller.heard if controller is not None else None,
            )
        return self._sensing.senses(self._now(), self._now_stamp(), time.monotonic(), arm)

    def observed(self, stamp: int) -> bool:
        return self._now_stamp() >= stamp and self._sensing.observed(stamp)

    def strangers(self) -> str:
        reason = self._strangers.count()
        self._named = self._named and not reason
        return reason

    def tell(self, state: GateState, said: Said | None) -> None:
        status = fill_gate_status(GateStatus(verdict=GateStatus.NONE), self.profile, state, self._now_stamp())
        if said is not None:
            status.check, status.reason = said.check, said.reason
        if said is not None and said.accepted is not None:
            status.episode_id, status.step = said.episode_id, said.step
            status.verdict = GateStatus.ACCEPTED if said.accepted else GateStatus.VETOED
        self._status.publish(status)
        if said is None:
            self._publish_arm_status(self.senses())

    def commit(self, message: PolicyStep, accepted: bool) -> None:
        verdict = GateStatus.ACCEPTED if accepted else GateStatus.VETOED
        commit = StepCommit(episode_id=message.episode_id, step=message.step, verdict=verdict)
        commit.header.stamp, commit.header.frame_id = message.header.stamp, self.profile.frame
        self._commit.publish(commit)

    def log(self, level: str, text: str) -> None:
        # two calls: rclpy remembers the level of each place it is called from
        if level == "error":
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    # --- what comes in ---

    def _on_joints(self, message: JointState) -> None:
        self._sensing.hear_joints(message)
        if self._lock_step:
            self._keeper.drain()

    def _on_joy(self, message: Joy) -> None:
        self._sensing.hear_joy(message.buttons, self._now())
        self._keeper.watch(self.senses())

    def _on_keep_out(self, message: KeepOutBoxes) -> None:
        try:
            self._sensing.hear_keep_out(message)
        except KeepOutError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        if self._lock_step:
            self._keeper.drain()

    def _on_episode(self, message: EpisodeIdentity) -> None:
        self._keeper.announce(message.episode_id, message.control_period, message.lock_step)

    def _on_outcome(self, message: EpisodeOutcome) -> None:
        self._keeper.end(message.episode_id)

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._keeper.heartbeat(message.episode_id, self._now())

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._strangers.names()
        response.success, response.message = (False, reason) if reason else self._keeper.reset()
        return response

    def _on_tick(self) -> None:
        if self._controller is not None:
            self._controller.poll()
        self._keeper.tick()
        senses, state = self.senses(), self._keeper.state
        shown = (state.authority, state.episode_id, held(self.profile, senses), senses.robot_mode)
        if (*shown, senses.controller_active) != self._shown:
            self._shown = (*shown, senses.controller_active)
            self._publish_arm_status(senses)

    def _on_stream(self) -> None:
        self._keeper.stream(self._now(), self._now_stamp())

    def _on_graph(self) -> None:
        if time.monotonic() < self._started + STARTING:
            reason = self._strangers.names()
            if reason:
                raise ForeignNodeError(reason)
        elif self._keeper.state.mode is not Mode.STOPPED:
            reason = self.strangers()
            if reason:
                self._keeper.stop("foreign", reason)
        # to name a stranger can take a second: the gate has stopped before
        if not self._named and self._keeper.state.check == "foreign":
            reason = self._strangers.names()
            self._named = bool(reason) and self._strangers.named(reason)
            if reason:
                self._keeper.explain(reason)

    def _publish_status(self) -> None:
        self.tell(self._keeper.state, None)

    def _publish_arm_status(self, senses: Senses) -> None:
        state, setpoint = self._keeper.state, self._drive.setpoint
        self._arm_status.publish(
            fill_arm_status(ArmStatus(), self.profile, self._arm, state, senses, setpoint, self._dry_run)
        )


def main() -> int:
    """Runs the node; 0 when told to end, 1 with one line on stderr when it may not start."""
    rclpy.init()
    node = None
    try:
        node = GateNode()
        # a full collection that looks through all that is loaded would keep a step waiting for tens of milliseconds
        gc.collect()
        gc.freeze()
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
