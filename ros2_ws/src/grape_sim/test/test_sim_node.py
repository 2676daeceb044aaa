"""The simulated lab as processes: one in lock-step, one in real time. The test plays the gate."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from control_msgs.action import GripperCommand, ParallelGripperCommand
from controller_manager_msgs.srv import ListControllers, SetHardwareComponentState, SwitchController
from franka_msgs.action import ErrorRecovery
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import PoseStamped, WrenchStamped
from grape_interfaces.msg import GateStatus, KeepOutBoxes, Keypoints, StepCommit, WorldStatus
from grape_interfaces.srv import ResetWorld
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool

from grape_episode import topics
from grape_episode.ros import COMMAND, EVENT, ask, image_from_msg, robot_state, set_stamp, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_sim.franka import CONTROLLER, HARDWARE, ON_ARM
from grape_sim.franka_node import REFLEX, USER_STOP
from grape_sim.tasks import SIM_TASKS, VARIANTS

pytestmark = pytest.mark.ros

MODULE = "grape_sim.sim_node"
PERIOD = 200_000_000
OUTPUTS = {
    "/clock": Clock,
    topics.COLOR: Image,
    topics.CAMERA_INFO: CameraInfo,
    topics.DEPTH: Image,
    topics.JOINT_STATES: JointState,
    topics.CURRENT_POSE: PoseStamped,
    topics.WRENCH: WrenchStamped,
    topics.ROBOT_STATE: FrankaRobotState,
    topics.KEYPOINTS: Keypoints,
    topics.WORLD_STATUS: WorldStatus,
    topics.KEEP_OUT: KeepOutBoxes,
}
GRIPPERS = {True: GripperCommand, False: ParallelGripperCommand}


def stamp_of(message: object) -> int:
    return stamp_ns(message.clock if isinstance(message, Clock) else message.header.stamp)  # type: ignore[attr-defined]


@dataclass
class Lab:
    """One simulator, and a node that hears and commands it."""

    node: Node
    lock_step: bool
    domain: int
    process: NodeProcess
    heard: dict[str, list] = field(default_factory=lambda: {topic: [] for topic in OUTPUTS})
    steps: int = 0

    def __post_init__(self) -> None:
        for topic, kind in OUTPUTS.items():
            qos = EVENT
            if topic in (topics.CURRENT_POSE, topics.WRENCH):
                qos = robot_state(self.lock_step)
            self.node.create_subscription(kind, topic, self.heard[topic].append, qos)
        self._target = self.node.create_publisher(PoseStamped, topics.TARGET_POSE, COMMAND)
        self._commit = self.node.create_publisher(StepCommit, topics.STEP_COMMIT, EVENT)
        self._reset = self.node.create_client(ResetWorld, topics.RESET_WORLD)
        self.gripper = ActionClient(self.node, GRIPPERS[self.lock_step], topics.GRIPPER_ACTION)

    def connect(self) -> None:
        """Waits until everything this node says is heard."""
        for publisher in (self._target, self._commit):
            wait_for(publisher.get_subscription_count, f"the simulator to hear {publisher.topic}")
        wait_for(self._reset.service_is_ready, topics.RESET_WORLD)
        wait_for(self.gripper.server_is_ready, topics.GRIPPER_ACTION)
        wait_for(lambda: "grape_sim" in self.node.get_node_names(), "the simulator's name")

    def reset(self, task: str = "carrot_on_plate", variant: str = "clean", state: int = 0) -> ResetWorld.Response:
        request = ResetWorld.Request(episode_id="e", task=task, variant=variant, initial_state=state)
        future = self._reset.call_async(request)
        wait_for(future.done, "the reset")
        self.steps = 0
        return future.result()

    def at(self, topic: str, stamp: int):
        """The message of a topic with a stamp, once it is there. In real time the first that is not older: poses are
        best effort there, and on a busy machine the very one may be lost."""
        fits = (lambda m: stamp_of(m) == stamp) if self.lock_step else (lambda m: stamp_of(m) >= stamp)
        return wait_for(lambda: next(filter(fits, list(self.heard[topic])), None), f"{topic} at {stamp}")

    def aim(self, stamp: int, position: tuple[float, float, float]) -> None:
        message = PoseStamped()
        message.header.frame_id = topics.BASE_FRAME
        set_stamp(message.header.stamp, stamp)
        p = message.pose.position
        p.x, p.y, p.z = position
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        self._target.publish(message)

    def commit(self, stamp: int, verdict: int = GateStatus.ACCEPTED, episode: str = "e") -> None:
        message = StepCommit(episode_id=episode, step=self.steps, verdict=verdict)
        set_stamp(message.header.stamp, stamp)
        self._commit.publish(message)

    def step(self, stamp: int, position: tuple[float, float, float]) -> int:
        """One accepted step; the stamp of the next observation."""
        self.commit(stamp)
        self.aim(stamp, position)
        self.steps += 1
        self.at(topics.COLOR, stamp + PERIOD)
        return stamp + PERIOD

    def call(self, kind: type, name: str, request: Any) -> Any:
        """A service's answer."""
        client = self.node.create_client(kind, name)
        wait_for(client.service_is_ready, name)
        asked: list = []

        def answered() -> bool:
            # a request that is sent before the server has discovered its client is lost
            if not asked or (len(asked) < 4 and time.monotonic() > begin + 2.0 * len(asked)):
                asked.append(client.call_async(request))
            return any(future.done() for future in asked)

        begin = time.monotonic()
        wait_for(answered, f"an answer of {name}")
        result = next(future.result() for future in asked if future.done())
        self.node.destroy_client(client)
        return result

    def press(self, name: str, pressed: bool) -> SetBool.Response:
        return self.call(SetBool, name, SetBool.Request(data=pressed))

    def controllers(self) -> dict[str, str]:
        name = f"{topics.CONTROLLER_MANAGER}/list_controllers"
        answer = self.call(ListControllers, name, ListControllers.Request())
        return {controller.name: controller.state for controller in answer.controller}

    def switch(self, activate: Iterable[str] = (), deactivate: Iterable[str] = ()) -> SwitchController.Response:
        request = SwitchController.Request(strictness=SwitchController.Request.STRICT)
        request.activate_controllers, request.deactivate_controllers = list(activate), list(deactivate)
        return self.call(SwitchController, f"{topics.CONTROLLER_MANAGER}/switch_controller", request)

    def activate_hardware(self) -> SetHardwareComponentState.Response:
        request = SetHardwareComponentState.Request(name=HARDWARE)
        request.target_state.label = "active"
        name = f"{topics.CONTROLLER_MANAGER}/set_hardware_component_state"
        return self.call(SetHardwareComponentState, name, request)

    def clear(self) -> int:
        """The status of an error recovery."""
        client = ActionClient(self.node, ErrorRecovery, topics.ERROR_RECOVERY)
        wait_for(client.server_is_ready, topics.ERROR_RECOVERY)
        handle = ask(self.node.executor, lambda: client.send_goal_async(ErrorRecovery.Goal())).result(30.0)
        assert handle.accepted
        return int(ask(self.node.executor, handle.get_result_async).result(30.0).status)

    def recover(self) -> None:
        assert self.clear() == GoalStatus.STATUS_SUCCEEDED
        assert self.activate_hardware().ok and self.switch(ON_ARM).ok

    def mode(self) -> int:
        return int(self.heard[topics.ROBOT_STATE][-1].robot_mode)

    def position(self) -> np.ndarray:
        p = self.heard[topics.CURRENT_POSE][-1].pose.position
        return np.array([p.x, p.y, p.z])

    def grip(self, knuckle: float, joint: str = topics.KNUCKLE_JOINT):
        """The goal's handle."""
        goal = GRIPPERS[self.lock_step].Goal()
        if self.lock_step:
            goal.command.position = knuckle
        else:
            goal.command.name, goal.command.position = [joint], [knuckle]
        return ask(self.node.executor, lambda: self.gripper.send_goal_async(goal)).result(30.0)


def start(lock_step: bool, log: Path) -> tuple[Lab, SingleThreadedExecutor, threading.Thread]:
    domain = free_domain()
    context = rclpy.Context()
    context.init(domain_id=domain)
    params = {"lock_step": lock_step, "depth": True, "image_size": 64, "gripper_type": GRIPPERS[lock_step].__name__}
    process = NodeProcess(MODULE, domain, log, params)
    lab = Lab(rclpy.create_node(f"bench_{domain}", context=context), lock_step, domain, process)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(lab.node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    return lab, executor, thread


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Lab]]:
    folder = tmp_path_factory.mktemp("sim")
    started = [start(lock_step, folder / f"lock_step_{lock_step}.log") for lock_step in (True, False)]
    for lab, _, _ in started:
        lab.connect()
    yield {lab.lock_step: lab for lab, _, _ in started}
    for lab, executor, thread in started:
        lab.process.stop()
        executor.shutdown()
        lab.node.context.try_shutdown()
        thread.join(5.0)
        assert lab.process.process.returncode == 0, lab.process.output


@pytest.fixture
def lock(labs: dict[bool, Lab]) -> Lab:
    return labs[True]


@pytest.fixture
def real(labs: dict[bool, Lab]) -> Lab:
    return labs[False]


@pytest.mark.parametrize("lock_step", [True, False])
def test_names_types_and_qualities_are_the_labs(labs: dict[bool, Lab], lock_step: bool) -> None:
    lab = labs[lock_step]
    for topic, kind in OUTPUTS.items():
        (info,) = wait_for(lambda t=topic: lab.node.get_publishers_info_by_topic(t), topic)  # type: ignore[misc]
        module = kind.__module__.split(".")[0]
        assert info.topic_type == f"{module}/msg/{kind.__name__}" and info.node_name == "grape_sim"
        state = topic in (topics.CURRENT_POSE, topics.WRENCH)
        best_effort = state and not lock_step
        expected = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        assert info.qos_profile.reliability is expected, topic
        assert info.qos_profile.durability is DurabilityPolicy.VOLATILE, topic
    (info,) = lab.node.get_subscriptions_info_by_topic(topics.TARGET_POSE)
    assert info.topic_type == "geometry_msgs/msg/PoseStamped"
    assert info.qos_profile.reliability is ReliabilityPolicy.RELIABLE
    assert lab.gripper.server_is_ready()  # never with the wrong type


def test_an_observation_is_one_instant(lock: Lab) -> None:
    answer = lock.reset("carrot_on_plate", "obstacle", 3)
    assert answer.accepted, answer.reason
    stamp = stamp_ns(answer.first_observation)
    seen = {topic: lock.at(topic, stamp) for topic in OUTPUTS}
    for topic, frame in (
        (topics.COLOR, topics.CAMERA_FRAME),
        (topics.DEPTH, topics.CAMERA_FRAME),
        (topics.CAMERA_INFO, topics.CAMERA_FRAME),
        (topics.CURRENT_POSE, topics.BASE_FRAME),
        (topics.WRENCH, topics.BASE_FRAME),
        (topics.ROBOT_STATE, topics.BASE_FRAME),
        (topics.KEYPOINTS, topics.BASE_FRAME),
        (topics.KEEP_OUT, topics.BASE_FRAME),
    ):
        assert seen[topic].header.frame_id == frame
    assert (seen[topics.COLOR].encoding, seen[topics.DEPTH].encoding) == ("rgb8", "16UC1")
    assert image_from_msg(seen[topics.COLOR]).std() > 10
    millimetres = image_from_msg(seen[topics.DEPTH])
    assert 300 < np.median(millimetres[millimetres > 0]) < 3000
    joints = seen[topics.JOINT_STATES]
    assert list(joints.name) == [*topics.ARM_JOINTS, topics.KNUCKLE_JOINT]
    assert len(joints.position) == len(joints.velocity) == 8 and abs(joints.position[7]) < 0.05
    keypoints = seen[topics.KEYPOINTS]
    assert len(keypoints.names) == len(keypoints.points) == len(keypoints.confidence) >= 3
    assert seen[topics.WORLD_STATUS].episode_id == "e" and not seen[topics.WORLD_STATUS].success
    info = seen[topics.CAMERA_INFO]
    assert (info.width, info.height, info.k[2]) == (64, 64, 31.5) and info.k[0] == info.k[4] == info.p[0]


def test_lock_step_waits_for_commit_and_target_of_its_own_stamp(lock: Lab) -> None:
    stamp = stamp_ns(lock.reset().first_observation)
    home = lock.at(topics.CURRENT_POSE, stamp).pose.position
    goal = (home.x + 0.03, home.y, home.z - 0.02)
    frames = len(lock.heard[topics.COLOR])
    lock.commit(stamp, episode="another")
    lock.commit(stamp + 1)
    lock.aim(stamp + 1, goal)
    lock.commit(stamp)
    # the world has had all of these before this answer, and none may move it
    assert not lock.reset("no_such_task").accepted
    assert len(lock.heard[topics.COLOR]) == frames
    lock.aim(stamp, goal)
    lock.at(topics.COLOR, stamp + PERIOD)
    # positions follow within the period, up to the servo's lag
    near = lock.at(topics.CURRENT_POSE, stamp + PERIOD).pose.position
    assert abs(near.x - goal[0]) < 0.015 and abs(near.z - goal[2]) < 0.015

    lock.commit(stamp + PERIOD, GateStatus.VETOED)
    lock.at(topics.COLOR, stamp + 2 * PERIOD)
    held = lock.at(topics.CURRENT_POSE, stamp + 2 * PERIOD).pose.position
    assert abs(held.x - goal[0]) < 0.003 and abs(held.z - goal[2]) < 0.003


def test_the_same_state_and_commands_are_the_same_episode(lock: Lab) -> None:
    runs = []
    for _ in range(2):
        stamp = stamp_ns(lock.reset("spoon_on_towel", "distractors", 7).first_observation)
        home = lock.at(topics.CURRENT_POSE, stamp).pose.position
        lock.grip(topics.KNUCKLE_CLOSED)
        for index in range(1, 4):
            stamp = lock.step(stamp, (home.x, home.y + 0.03 * index, home.z - 0.04 * index))
        image = lock.at(topics.COLOR, stamp).data.tobytes()
        pose, joints = lock.at(topics.CURRENT_POSE, stamp).pose, lock.at(topics.JOINT_STATES, stamp).position
        runs.append((image, pose, list(joints)))
    assert runs[0] == runs[1]


def test_the_gripper_follows_its_action_in_lock_step(lock: Lab) -> None:
    stamp = stamp_ns(lock.reset().first_observation)
    home = lock.at(topics.CURRENT_POSE, stamp).pose.position
    handle = lock.grip(0.5)
    assert handle.accepted and not lock.grip(2.0).accepted
    result = ask(lock.node.executor, handle.get_result_async)
    for _ in range(4):
        stamp = lock.step(stamp, (home.x, home.y, home.z))
    wait_for(result.done, "the gripper's result")
    assert result.result().result.reached_goal and not result.result().result.stalled
    assert abs(lock.at(topics.JOINT_STATES, stamp).position[7] - 0.5) < 0.02


def test_unknown_tasks_and_variants_are_refused_with_the_known_ones(lock: Lab) -> None:
    answer = lock.reset("cube_on_moon")
    assert not answer.accepted and "cube_on_moon" in answer.reason
    assert all(name in answer.reason for name in SIM_TASKS)
    answer = lock.reset(variant="fog")
    assert not answer.accepted and "fog" in answer.reason and all(name in answer.reason for name in VARIANTS)


def test_real_time_follows_the_wall_and_its_commands(real: Lab) -> None:
    began = time.monotonic()
    answer = real.reset("green_cube_on_yellow_cube", "clean", 1)
    first = stamp_ns(answer.first_observation)
    home = real.at(topics.CURRENT_POSE, first).pose.position
    real.aim(first, (home.x + 0.04, home.y + 0.02, home.z))

    def arrived() -> bool:
        p = real.heard[topics.CURRENT_POSE][-1].pose.position
        return abs(p.x - home.x - 0.04) < 0.004 and abs(p.y - home.y - 0.02) < 0.004

    wait_for(arrived, "the arm at its target")
    wait_for(lambda: stamp_of(real.heard[topics.COLOR][-1]) > first + 600_000_000, "more frames")
    elapsed = time.monotonic() - began
    clock = [stamp_of(m) for m in list(real.heard["/clock"]) if stamp_of(m) >= first]
    assert (clock[-1] - first) * 1e-9 < elapsed + 0.2
    # every tick of the world, and on its grid, however busy the machine
    assert np.diff(clock).max() < 13_000_000
    frames = [stamp_of(m) for m in list(real.heard[topics.COLOR]) if stamp_of(m) >= first]
    assert np.diff(frames).min() > 85_000_000 and np.diff(frames).max() < 115_000_000
    joints = [stamp_of(m) for m in list(real.heard[topics.JOINT_STATES]) if stamp_of(m) >= first]
    assert 25.0 < (len(joints) - 1) / ((joints[-1] - joints[0]) * 1e-9) < 42.0


def test_the_parallel_gripper_reaches_stops_and_refuses(real: Lab) -> None:
    real.reset()
    assert not real.grip(0.3, joint="finger_joint").accepted
    first = real.grip(topics.KNUCKLE_CLOSED)
    second = real.grip(0.2)
    assert first.accepted and second.accepted
    result = ask(real.node.executor, second.get_result_async)
    wait_for(result.done, "the gripper's result")
    assert result.result().result.reached_goal
    assert list(result.result().result.state.name) == [topics.KNUCKLE_JOINT]
    # the result may overtake the joint state of its moment
    wait_for(lambda: abs(real.heard[topics.JOINT_STATES][-1].position[7] - 0.2) < 0.03, "the knuckle at its goal")


def test_a_target_that_is_no_pose_is_ignored(real: Lab) -> None:
    stamp = stamp_ns(real.reset().first_observation)
    before = real.at(topics.CURRENT_POSE, stamp).pose.position
    real.aim(stamp, (float("nan"), 0.0, 0.3))
    wait_for(lambda: "ignored" in real.process.output, "the warning")
    after = real.heard[topics.CURRENT_POSE][-1].pose.position
    assert abs(after.x - before.x) < 0.003 and real.process.running()


def test_a_stream_of_targets_is_followed_without_falling_behind(real: Lab) -> None:
    """50 Hz, 0.1 m/s: with a whole control period for every target the arm would be 20 mm behind, without end."""
    first = stamp_ns(real.reset().first_observation)
    p = real.at(topics.CURRENT_POSE, first).pose.position
    speed, began, wall = 0.1, stamp_of(real.heard["/clock"][-1]), time.monotonic()
    sent: list[tuple[int, float]] = []
    while (along := speed * (time.monotonic() - wall)) < 0.15:
        now = stamp_of(real.heard["/clock"][-1])
        sent.append((now, along))
        real.aim(now, (p.x, p.y + along, p.z))
        time.sleep(0.02)  # the pace of the stream is what is tested
    poses = [
        (stamp_of(m), m.pose.position.y - p.y) for m in list(real.heard[topics.CURRENT_POSE]) if stamp_of(m) > began
    ]
    times, places = np.array(sent, dtype=float).T
    behind = [np.interp(stamp, times, places) - y for stamp, y in poses if times[10] < stamp < times[-1]]
    assert len(behind) > 50 and np.percentile(behind, 90) < 0.012 and np.median(behind) < 0.009
    halves = np.array_split(np.array(behind), 2)
    assert np.median(halves[1]) < np.median(halves[0]) + 0.003, "it falls behind"
    wait_for(lambda: abs(real.position()[1] - p.y - places[-1]) < 0.004, "the arm at the stream's end")


@pytest.mark.parametrize(("name", "mode"), [(USER_STOP, 5), (REFLEX, 4)])
def test_a_stopped_arm_says_so_ignores_targets_and_is_recovered_in_order(real: Lab, name: str, mode: int) -> None:
    first = stamp_ns(real.reset().first_observation)
    wait_for(lambda: real.mode() == 2, "an arm that moves")
    home = real.position()
    assert real.press(name, True).success
    wait_for(lambda: real.mode() == mode, "the mode")
    states = real.controllers()
    assert {states[controller] for controller in ON_ARM} == {"inactive"} and states[
        "robotiq_gripper_controller"
    ] == "active"
    errors = real.heard[topics.ROBOT_STATE][-1].current_errors
    assert errors.cartesian_reflex == (mode == 4)

    def silent() -> bool:
        count = len(real.heard[topics.CURRENT_POSE])
        clock = len(real.heard["/clock"])
        wait_for(lambda: len(real.heard["/clock"]) > clock + 20, "the world's clock")
        return len(real.heard[topics.CURRENT_POSE]) == count

    wait_for(silent, "the broadcaster's silence")
    answer = real.reset()
    assert not answer.accepted and "recover it first" in answer.reason
    real.aim(first, (home[0] + 0.1, home[1], home[2]))
    assert not real.activate_hardware().ok and not real.switch(ON_ARM).ok
    if name == USER_STOP:
        assert real.clear() == GoalStatus.STATUS_ABORTED
        assert real.press(name, False).success
    else:
        assert not real.press(name, False).success, "only a recovery ends a reflex"
    real.recover()
    wait_for(lambda: real.mode() == 2, "the arm's return")
    # the target from before must not move it
    clock = len(real.heard["/clock"])
    wait_for(lambda: len(real.heard["/clock"]) > clock + 30, "a third of a second")
    assert np.abs(real.position() - home).max() < 0.003
    real.aim(first, (home[0] + 0.03, home[1], home[2]))
    wait_for(lambda: abs(real.position()[0] - home[0] - 0.03) < 0.004, "the arm at its target")


def test_a_deactivated_controller_ignores_targets_and_the_rest_goes_on(real: Lab) -> None:
    stamp = stamp_ns(real.reset().first_observation)
    home = real.position()
    assert real.switch(deactivate=[CONTROLLER]).ok and real.controllers()[CONTROLLER] == "inactive"
    wait_for(lambda: real.mode() == 1, "an idle arm")
    real.aim(stamp, (home[0] + 0.1, home[1], home[2]))
    clock = len(real.heard["/clock"])
    wait_for(lambda: len(real.heard["/clock"]) > clock + 30, "a third of a second")
    assert np.abs(real.position() - home).max() < 0.003
    assert real.switch([CONTROLLER]).ok
    wait_for(lambda: real.mode() == 2, "the arm's return")


def test_in_lock_step_a_stopped_arm_holds_and_every_observation_comes(lock: Lab) -> None:
    stamp = stamp_ns(lock.reset().first_observation)
    assert lock.at(topics.ROBOT_STATE, stamp).robot_mode == 2
    home = lock.at(topics.CURRENT_POSE, stamp).pose.position
    lock.press(USER_STOP, True)
    stamp = lock.step(stamp, (home.x + 0.05, home.y, home.z))
    assert lock.at(topics.ROBOT_STATE, stamp).robot_mode == 5
    assert abs(lock.at(topics.CURRENT_POSE, stamp).pose.position.x - home.x) < 0.003
    lock.press(USER_STOP, False)
    lock.recover()
    wait_for(lambda: lock.mode() == 2, "the arm's return, between two steps")
    stamp = lock.step(stamp, (home.x + 0.05, home.y, home.z))
    assert lock.at(topics.CURRENT_POSE, stamp).pose.position.x - home.x > 0.03


def test_a_second_simulator_and_wrong_parameters_are_refused(lock: Lab, tmp_path: Path) -> None:
    wrong = {
        "/grape_sim": {},
        "gripper_type: 'Suction'": {"gripper_type": "Suction"},
        "no whole number of physics steps": {"control_period": 0.2011},
    }
    second, hand, period = (
        NodeProcess(MODULE, lock.domain, tmp_path / f"{i}.log", params) for i, params in enumerate(wrong.values())
    )
    for text, process in zip(wrong, (second, hand, period), strict=True):
        with process:
            assert process.wait(30.0) == 1
        line = process.output.splitlines()[-1]
        assert line.startswith("grape_sim: ") and text in line, process.output
    assert lock.reset().accepted


def test_keep_outs_come_with_every_observation_and_follow_the_hand(lock: Lab) -> None:
    stamp = stamp_ns(lock.reset("carrot_on_plate", "clean", 0).first_observation)
    assert lock.at(topics.KEEP_OUT, stamp).names == [], "nothing is there, and that is said"
    stamp = stamp_ns(lock.reset("carrot_on_plate", "moving_hand", 0).first_observation)
    seen = [lock.at(topics.KEEP_OUT, stamp)]
    for _ in range(20):
        stamp = lock.step(stamp, (0.42, 0.0, 0.3))
        seen.append(lock.at(topics.KEEP_OUT, stamp))
    for message in seen:
        assert message.names == ["palm", "forearm"] and len(message.low) == len(message.high) == 2
        assert all(low.y < high.y for low, high in zip(message.low, message.high, strict=True))
    assert max(message.low[0].y for message in seen) - min(message.low[0].y for message in seen) > 0.3


def test_in_real_time_keep_outs_come_20_times_a_second_of_the_world(real: Lab) -> None:
    start = stamp_ns(real.reset("carrot_on_plate", "moving_hand", 0).first_observation)

    def later() -> list[int]:
        return [stamp for stamp in map(stamp_of, list(real.heard[topics.KEEP_OUT])) if stamp > start]

    stamps = wait_for(lambda: later() if len(later()) > 20 else None, "21 keep-outs")
    gaps = np.diff(stamps) * 1e-9
    assert np.median(gaps) == pytest.approx(0.05, abs=0.011) and gaps.max() < 0.08
