"""The flow of a step, without ROS: queue, gripper, operators, and what the drive sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace as Of
from typing import Any

import numpy as np

from grape_episode.geometry import Pose
from grape_robot.drive import Drive
from grape_robot.gate import GateState, Mode, Senses, load_profile
from grape_robot.keeper import HAND_BACK, Keeper, Said

PROFILE = load_profile(Path(__file__).parents[4] / "launch" / "params" / "gate_sim.yaml")
HOME = Pose(np.array([0.45, 0.0, 0.25]), np.array([1.0, 0.0, 0.0, 0.0]))
STILL = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@dataclass
class World:
    """Ports and gripper of one keeper, at a time of its own."""

    lock_step: bool = False
    dry_run: bool = False
    now: float = 100.0
    ready: bool = True
    stranger: str = ""
    measured: Pose = HOME
    told: list[tuple[GateState, Said | None]] = field(default_factory=list)
    commits: list[tuple[int, bool]] = field(default_factory=list)
    sent: list[tuple[Pose, int]] = field(default_factory=list)
    goals: list[float] = field(default_factory=list)
    answer: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        send = None if self.dry_run else lambda pose, stamp: self.sent.append((pose, stamp))
        self.drive = Drive(PROFILE, send, self.lock_step)
        self.keeper = Keeper(PROFILE, None, self.drive, self, self, self.lock_step, 1e9, self.dry_run)
        self.keeper.announce("e", 0.2, self.lock_step)
        self.keeper.heartbeat("e", self.now)

    # --- gripper ---

    @property
    def busy(self) -> bool:
        return self.answer is not None

    def send(self, goal: float, done: Callable[[str], None]) -> None:
        self.goals.append(goal)
        self.answer = done

    def poll(self) -> None:
        pass

    def give_up(self, reason: str) -> None:
        self.grasp(reason)

    def grasp(self, reason: str = "") -> None:
        done, self.answer = self.answer, None
        assert done is not None
        done(reason)

    # --- ports ---

    def senses(self) -> Senses:
        stamp = round(self.now * 1e9)
        return Senses(self.now, stamp, self.measured, stamp, "fr3_link0")

    def observed(self, stamp: int) -> bool:
        return self.ready

    def strangers(self) -> str:
        return self.stranger

    def tell(self, state: GateState, said: Said | None) -> None:
        self.told.append((state, said))

    def commit(self, message: Any, accepted: bool) -> None:
        self.commits.append((message.step, accepted))

    def log(self, level: str, text: str) -> None:
        pass

    # --- messages ---

    def _header(self) -> Of:
        stamp = round(self.now * 1e9)
        return Of(stamp=Of(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="fr3_link0")

    def step(self, index: int, action=STILL) -> None:
        self.keeper.heartbeat("e", self.now)
        self.keeper.step(Of(header=self._header(), episode_id="e", step=index, action=action, rotation="euler_xyz"))

    def operate(self, sequence: int, action=STILL, kind: int = 0, source: str = "teleop") -> None:
        message = Of(header=self._header(), episode_id="", sequence=sequence, action=action, rotation="euler_xyz")
        self.keeper.operate(Of(**vars(message), kind=kind, source=source))

    def flow(self, seconds: float) -> list[Pose]:
        """What is streamed meanwhile."""
        self.sent.clear()
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.keeper.heartbeat("e", self.now)
            self.keeper.tick()
            self.keeper.stream(self.now, round(self.now * 1e9))
        return [pose for pose, _ in self.sent]


def x(pose: Pose) -> float:
    return float(pose.position[0])


def test_nothing_goes_out_before_the_first_accepted_step_nor_after_the_end() -> None:
    world = World()
    assert not world.flow(0.1)
    world.step(0, [9.0, *STILL[1:]])
    assert not world.flow(0.1) and world.commits == [(0, False)]
    world.step(1, [0.04, *STILL[1:]])
    world.grasp()
    way = world.flow(0.22)
    assert len(way) == 11 and np.isclose(x(way[-1]), 0.49) and x(way[0]) < 0.46
    world.keeper.end("e")
    assert not world.flow(0.1)


def test_lock_step_sends_the_target_at_once_with_the_steps_stamp_and_waits_for_its_observation() -> None:
    world = World(lock_step=True, ready=False)
    world.step(0, [0.04, *STILL[1:]])
    world.keeper.tick()
    assert not world.sent and not world.commits
    world.ready = True
    world.keeper.tick()
    ((pose, stamp),) = world.sent
    assert np.isclose(x(pose), 0.49) and stamp == 100_000_000_000
    world.grasp()
    assert world.commits == [(0, True)] and not world.flow(0.1)


def test_a_step_is_committed_once_the_gripper_has_taken_its_goal_and_the_next_waits() -> None:
    world = World()
    world.step(0)
    world.step(1, [*STILL[:6], 0.0])
    assert not world.commits and world.goals == [1.0]
    world.grasp()
    assert world.commits == [(0, True)] and world.goals == [1.0, 0.0]
    world.grasp("refused the goal")
    assert world.commits == [(0, True), (1, False)]
    assert (world.keeper.state.mode, world.keeper.state.check) == (Mode.STOPPED, "gripper")


def test_a_gripper_that_says_nothing_is_named_by_the_stop_that_its_wait_brings() -> None:
    world = World()
    world.step(0, [0.04, *STILL[1:]])
    world.flow(0.5)
    state = world.keeper.state
    assert (state.mode, state.check) == (Mode.STOPPED, "gripper") and "no goal" in state.reason
    world.grasp("late")
    assert world.commits == [(0, False)]


def test_a_person_does_not_wait_for_the_policys_gripper() -> None:
    world = World()
    world.step(0, [0.06, *STILL[1:]])
    assert world.busy
    world.operate(1, [0.0, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0])
    said = world.told[-1][1]
    assert said == Said("", "teleop step 1 accepted") and world.goals == [1.0]
    world.grasp()
    # the goal that could not go out then goes out with the next step
    world.operate(2, [*STILL[:6], 0.0])
    assert world.goals == [1.0, 0.0]
    world.grasp("lost")
    assert world.keeper.state.check == "gripper"


def test_a_new_driver_that_may_not_move_freezes_the_way_of_the_one_before() -> None:
    takes = ("homing", "teleop")
    world = World()
    world.step(0, [0.06, *STILL[1:]])
    world.grasp()
    for number, source in enumerate(takes):
        world.flow(0.06)
        world.operate(number, [9.0, *STILL[1:]], source=source)
        assert world.told[-1][1].check == "speed"
        way = world.flow(0.1)
        assert len({x(pose) for pose in way}) == 1 and x(way[-1]) < 0.51
        world.operate(10 + number, [0.03, *STILL[1:]], source=source)
    world.flow(0.04)
    world.operate(99, kind=HAND_BACK)
    assert world.told[-1][1] == Said("", "teleop step 99 handed back")
    assert len({x(pose) for pose in world.flow(0.1)}) == 1


def test_a_hold_freezes_and_a_stop_goes_to_where_the_arm_is() -> None:
    world = World()
    world.step(0, [0.06, *STILL[1:]])
    world.grasp()
    way = world.flow(0.3)
    world.measured = Pose(np.add(HOME.position, (0.055, 0.0, 0.0)), HOME.quaternion)
    assert world.keeper.state.mode is Mode.ACTIVE
    world.flow(0.04)
    assert world.keeper.state.mode is Mode.HOLD
    told = world.flow(0.2)
    assert world.keeper.state.mode is Mode.STOPPED
    assert np.array_equal(told[-1].position, world.measured.position)
    assert all(np.array_equal(pose.position, way[-1].position) for pose in told[:-1])
    assert not world.flow(0.1)


def test_a_stop_with_an_old_measured_pose_stays_where_it_is() -> None:
    world = World()
    world.step(0, [0.06, *STILL[1:]])
    world.grasp()
    way = world.flow(0.1)
    old = world.senses()
    world.sent.clear()
    world.senses = lambda: replace(old, now=world.now, now_stamp=old.now_stamp + 400_000_000)  # type: ignore[method-assign]
    world.keeper.stop("foreign", "somebody")
    assert not world.sent
    assert world.drive.setpoint is not None and x(world.drive.setpoint) == x(way[-1])


def test_a_stop_before_anything_moved_sends_nothing() -> None:
    world = World()
    world.keeper.stop("foreign", "somebody")
    assert not world.sent


def test_strangers_stop_before_a_step_is_judged() -> None:
    world = World(stranger="somebody else")
    world.step(0, [0.04, *STILL[1:]])
    assert (world.keeper.state.check, world.commits) == ("foreign", [(0, False)])
    assert not world.flow(0.1)


def test_a_dry_run_judges_and_shows_and_sends_nothing() -> None:
    world = World(dry_run=True)
    world.step(0, [0.04, *STILL[1:]])
    assert world.commits == [(0, True)] and not world.goals
    assert not world.flow(0.22)
    assert world.drive.setpoint is not None and np.isclose(x(world.drive.setpoint), 0.49)


def test_an_episode_that_the_gate_cannot_judge_is_declined() -> None:
    world = World()
    world.keeper.announce("f", 0.1, False)
    assert (world.keeper.state.mode, world.keeper.state.check) == (Mode.IDLE, "episode")
    world.keeper.announce("f", 0.2, True)
    assert "lock_step True" in world.keeper.state.reason


def test_a_reset_says_what_was() -> None:
    world = World()
    assert world.keeper.reset() == (True, "the gate was not stopped")
    world.keeper.stop("gripper", "no answer")
    assert world.keeper.reset() == (True, "was stopped: no answer")
    assert world.keeper.state.mode is Mode.IDLE
