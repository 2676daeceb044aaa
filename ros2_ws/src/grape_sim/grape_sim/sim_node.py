"""The simulated lab: a PyBullet world behind the robot's own topics, in real time or in lock-step.

PyBullet is not thread safe: one thread makes and owns the world; the executor only leaves it jobs and targets.
"""

from __future__ import annotations

import queue
import sys
import threading
import time

import rclpy
from geometry_msgs.msg import PoseStamped
from grape_interfaces.msg import GateStatus, StepCommit
from grape_interfaces.srv import ResetWorld
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_episode.ros import (
    COMMAND,
    EVENT,
    ForeignNodeError,
    declare,
    other_publishers,
    refuse_foreign,
    set_stamp,
    spin,
    stamp_ns,
)
from grape_sim.errors import SimError
from grape_sim.franka_node import FrankaNode
from grape_sim.pace import LockStep, Rates, Reset, Step, Stream
from grape_sim.ros import CLOCK_TOPIC, GRIPPER_TYPES, GripperServer, RobotTopics, target_of
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import Observation, World, WorldConfig

FIRST_STAMP = 1_000_000_000
"""Stamp of the world's time 0, ns: a ROS time of zero means no time at all."""
TICK = 0.01
"""Seconds of the world between two poses in real time."""
LONGEST_LAG = 0.1
"""Seconds that the world may run behind the wall before it gives them up instead of catching up."""
DEADLINE = 30.0
STARTING = 3.0
"""Seconds after the start in which a second world ends this one at once; later it ends it only if it stays as long:
on a busy machine discovery outlasts the wait at the start, and of two worlds the newcomer must go."""


class SimNode(Node):
    """See the module. Raises ForeignNodeError or SimError when it may not or cannot start."""

    def __init__(self) -> None:
        super().__init__("grape_sim")
        self._lock_step = declare(self, "lock_step", False, "Advance one control period for each StepCommit.")
        self._depth = declare(self, "depth", False, "Publish depth images too.")
        self._variant = declare(self, "variant", "clean", "Variant of the world where a reset names none.")
        task = declare(self, "task", next(iter(SIM_TASKS)), "Task shown before the first reset.")
        gripper = declare(self, "gripper_type", "ParallelGripperCommand", f"One of {', '.join(GRIPPER_TYPES)}.")
        size = declare(self, "image_size", 112, "Side of the square camera images, pixels.", (16, 2048))
        camera_hz = declare(self, "camera_hz", 10.0, "Images a second in real time.", (0.1, 100.0))
        period = declare(self, "control_period", 0.2, "Seconds of one step in lock-step.", (0.01, 10.0))
        discovery = declare(self, "discovery_seconds", 1.0, "Time to find a second simulator.", (0.0, 30.0))
        if gripper not in GRIPPER_TYPES:
            raise SimError(f"parameter gripper_type: {gripper!r}, expected one of {', '.join(GRIPPER_TYPES)}")
        self._camera_period = 1.0 / camera_hz
        self._config = WorldConfig(image_size=size, control_period=period, depth=self._depth)
        self._jobs: queue.Queue[Reset | Step] = queue.Queue()
        self._ending = threading.Event()
        self._failure: Exception | None = None
        # shared by executor and world thread
        self._lock = threading.Lock()
        self._episode_id = ""
        self._gripper = 1.0
        self._target: Pose | None = None
        self._steps = LockStep(DEADLINE)
        self._followed = True
        """Whether the arm followed targets when it was last commanded."""
        self._mode = -1

        refuse_foreign(lambda: self._foreign(own=0), discovery)
        self._started = self._alone = time.monotonic()
        self._topics = RobotTopics(self, self._lock_step, self._depth)
        self._gripper_server = GripperServer(self, gripper, self._on_gripper)
        self._franka = FrankaNode()
        self.create_subscription(PoseStamped, topics.TARGET_POSE, self._on_target, COMMAND)
        self.create_subscription(StepCommit, topics.STEP_COMMIT, self._on_commit, EVENT)
        self.create_service(ResetWorld, topics.RESET_WORLD, self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.5, self._on_watch, clock=steady)
        first = Reset("", task, self._variant, 0)
        self._thread = threading.Thread(target=self._own_world, args=(first,), name="world", daemon=True)
        self._thread.start()
        first.done.wait()
        if first.reason:
            raise SimError(first.reason)
        self.get_logger().info(f"{task}, {size} px, {'lock-step' if self._lock_step else 'real time'}")

    def end(self) -> None:
        """Ends the world's thread and closes the world."""
        self._ending.set()
        self._thread.join(10.0)
        self._franka.end()

    def _foreign(self, own: int) -> str:
        for topic in (CLOCK_TOPIC, topics.COLOR):
            names = other_publishers(self, topic, own)
            if names:
                return f"{topic} is also published by {', '.join(names)}: one world at a time"
        return ""

    # --- executor ---

    def _on_watch(self) -> None:
        if self._failure is not None:
            raise self._failure
        reason = self._foreign(own=1)
        now = time.monotonic()
        if not reason:
            self._alone = now
        elif now < self._started + STARTING or now > self._alone + 2.0 * STARTING:
            raise ForeignNodeError(reason)
        with self._lock:
            step = self._steps.overdue(now)
        if step is not None:
            self.get_logger().error(
                f"{topics.TARGET_POSE}: step {step} of {self._episode_id} was committed, "
                f"and its target has not come within {DEADLINE:g} s"
            )

    def _on_gripper(self, gripper: float) -> None:
        with self._lock:
            self._gripper = gripper

    def _on_target(self, message: PoseStamped) -> None:
        target = target_of(message)
        if target is None:
            self.get_logger().warning(f"{topics.TARGET_POSE}: ignored: {message.header.frame_id!r}, {message.pose}")
            return
        with self._lock:
            if self._lock_step:
                self._advance(self._steps.offer(stamp_ns(message.header.stamp), target))
            else:
                self._target = target

    def _on_commit(self, message: StepCommit) -> None:
        with self._lock:
            if self._lock_step and message.episode_id == self._episode_id:
                accepted = message.verdict == GateStatus.ACCEPTED
                stamp = stamp_ns(message.header.stamp)
                self._advance(self._steps.commit(stamp, message.step, accepted, time.monotonic()))

    def _advance(self, step: Step | None) -> None:
        if step is not None:
            self._jobs.put(step)

    def _on_reset(self, request: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        job = Reset(request.episode_id, request.task, request.variant or self._variant, request.initial_state)
        self._jobs.put(job)
        if not job.done.wait(DEADLINE):
            job.reason = f"the world was not reset within {DEADLINE:g} s"
        response.accepted, response.reason = not job.reason, job.reason
        set_stamp(response.first_observation, job.stamp)
        return response

    # --- the world's thread ---

    def _own_world(self, first: Reset) -> None:
        world = None
        try:
            world = World(self._config)
            self._reset(world, first)
            if self._lock_step:
                self._follow(world)
            else:
                self._pace(world)
        except Exception as error:
            self._failure = SimError(f"the world failed: {type(error).__name__}: {error}")
            first.reason = first.reason or str(self._failure)
        finally:
            if world is not None:
                world.close()
            first.done.set()

    def _follow(self, world: World) -> None:
        """Lock-step: one job after the other."""
        while not self._ending.is_set():
            try:
                job = self._jobs.get(timeout=0.1)
            except queue.Empty:
                if (arm := self._franka.arm).mode != self._mode:  # between two steps a recovery is seen, too
                    self._mode, seen = arm.mode, world.observe(color=False, depth=False)
                    self._topics.robot_state(seen, _stamp(seen), arm)
                continue
            if isinstance(job, Reset):
                self._reset(world, job)
                continue
            with self._lock:
                if self._franka.arm.follows:
                    self._target = job.target or self._target
                target, gripper = self._target, self._gripper
            assert target is not None  # every reset sets one
            self._show(world, world.step(target, gripper))

    def _pace(self, world: World) -> None:
        """Real time: the world follows the wall in ticks, and falls behind rather than jumping."""
        due, shown = time.monotonic(), world.time
        rates, stream = Rates(self._camera_period), Stream(TICK, self._config.control_period)
        rates.restart(shown)
        while not self._ending.is_set():
            try:
                job = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                job = None
            if isinstance(job, Reset):
                self._reset(world, job)
                due, shown = time.monotonic() + TICK, world.time
                rates.restart(shown)
                stream.restart()
                continue
            self._command(world, stream)
            # to a grid of ticks: a tick is no whole number of physics steps
            shown += TICK
            world.advance(shown - world.time)
            due = max(due + TICK, time.monotonic() - LONGEST_LAG)
            seen, felt, boxes = rates.due(world.time)
            self._publish(world, world.observe(color=seen, depth=seen and self._depth), felt, boxes, seen)

    def _command(self, world: World, stream: Stream) -> None:
        """Real time: hands the newest target and gripper's goal to the arm, or halts it when its controller ends."""
        follows = self._franka.arm.follows
        with self._lock:
            if follows is not self._followed:  # a target from before says nothing about now
                self._target = None
            target, gripper = self._target, self._gripper
        if follows is not self._followed:
            self._followed = follows
            stream.restart()
            world.robot.halt()
        seconds = stream.take(target, world.time) if follows else None
        if target is not None and seconds is not None:
            world.robot.move(target, seconds)
        world.robot.grip(gripper)

    def _reset(self, world: World, job: Reset) -> None:
        try:
            if hindrance := self._franka.arm.line:
                raise SimError(f"the arm does not move: {hindrance}: recover it first")
            observation = world.reset(job.task, job.variant, job.initial_state)
        except SimError as error:
            job.reason = str(error)
            job.done.set()
            return
        self._gripper_server.clear()
        with self._lock:
            self._episode_id = job.episode_id
            self._target, self._gripper = observation.tcp if self._lock_step else None, 1.0
            self._steps.reset()
        job.stamp = _stamp(observation)
        self._show(world, observation)
        job.done.set()

    def _show(self, world: World, observation: Observation) -> None:
        """Everything of one observation; in lock-step its commit is awaited from here on."""
        with self._lock:
            self._steps.awaits(_stamp(observation))
        self._publish(world, observation, joints=True, boxes=True, color=True)

    def _publish(self, world: World, observation: Observation, joints: bool, boxes: bool, color: bool) -> None:
        stamp, arm = _stamp(observation), self._franka.arm
        self._topics.clock(stamp)
        if joints:
            self._topics.joints(observation, stamp)
        news, self._mode = arm.mode != self._mode, arm.mode
        tells = self._lock_step or arm.tells(time.monotonic())  # a silence would stop a world that waits for answers
        if tells:
            self._topics.pose(observation, stamp)
        if (tells and (joints or news)) or (news and arm.stopping):
            self._topics.robot_state(observation, stamp, arm)
        if boxes:
            self._topics.keep_outs(observation, stamp)
        self._gripper_server.update(observation.knuckle, observation.time)
        if color and observation.color is not None:
            self._topics.judgement(observation, stamp, self._episode_id)
            height, width = observation.color.shape[:2]
            self._topics.camera(observation, stamp, world.camera.intrinsics(width, height))


def _stamp(observation: Observation) -> int:
    return FIRST_STAMP + round(observation.time * 1e9)


def main() -> int:
    """Runs the node; 0 when told to end, 1 with one line on stderr when it cannot go on."""
    rclpy.init()
    node = None
    try:
        node = SimNode()
        spin(node)
    except (SimError, ForeignNodeError, ParameterException) as error:
        print(f"grape_sim: {error}", file=sys.stderr)
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
