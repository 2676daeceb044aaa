"""Does the gate stop a policy that drives at the table, the joints' ends and the obstacle before it gets there?

    python benchmarks/stopped_before_contact.py

The simulated arm under profile `supervised`, with the gate's own flow (``grape_robot.keeper``) between a script and the
arm: 5 decisions a second, the set point at 50 Hz, physics at 250 Hz. The script goes straight at its goal as fast as
the profile allows, tilted or not, gripper open or closed, and where it is refused it tries ever shorter steps, so that
it comes as close as the gate lets it. Each run has a start and an aim of its own. The obstacle's place is known: it is
a keep-out of the profile. Contact is what the physics engine says: any point where the arm or its gripper touches table
or obstacle; a joint beyond its limit counts, too. What lies on the table to be handled may be touched.

Prints one JSON object, distances in millimetres; exits with 1 where a run came into contact or was never refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import _paths
import numpy as np
import pybullet as pb
from arm_geometry import frames_of, jacobian_of
from gate_player import Gripper, Surroundings, as_message
from gate_rules import Ask, Facts
from rich.console import Console
from rich.progress import track
from scipy.spatial.transform import Rotation

from grape_robot.arm_model import ArmModel
from grape_robot.drive import Drive
from grape_robot.gate import Box, GateProfile, load_profile
from grape_robot.keeper import Keeper
from grape_robot.profile import JointLimits
from grape_sim import kinematics
from grape_sim.objects import object_model
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import World, WorldConfig

GOALS = ("table", "joint", "obstacle")
PHYSICS = 250
SLEW_STEPS = 5
"""Physics steps between two set points."""
STEPS = 45
"""Decisions of one run: 9 s, enough to reach every goal at the profile's speed."""
REACH = 0.3
"""Metres beyond which a distance is not measured."""
SHARES = (0.98, 0.5, 0.25, 0.1, 0.03, 0.01)
"""Of the longest allowed step: what the script tries, one after the other, while it is refused."""


@dataclass(frozen=True)
class Run:
    """What happened. ``nearest``: least distance to what was driven at (metres; a joint's: radians), negative: within;
    ``contacts``: how many physics steps had one; ``refused``: by check."""

    goal: str
    number: int
    contacts: int
    nearest: float
    refused: dict[str, int]
    accepted: int
    stopped: str
    detail: str


class Course:
    """Gate and world of one run."""

    def __init__(self, world: World, profile: GateProfile, obstacle: Box | None) -> None:
        self.world, self.profile, self.obstacle = world, profile, obstacle
        self.surroundings = Surroundings()
        self.keeper = Keeper(
            profile,
            ArmModel.of(profile),
            Drive(profile, lambda pose, stamp: self._told.append(pose), lock_step=False),
            Gripper(),
            self.surroundings,
            lock_step=False,
            deadline=1.0,
            dry_run=False,
        )
        self._told: list[Any] = []
        self._now, self._index = 100.0, 0
        self.contacts: Counter[str] = Counter()
        self.detail = ""
        self._bodies = {"table": world.judge._cast.table}
        if obstacle is not None:
            self._bodies["obstacle"] = world.bodies[world.keypoint_names.index(obstacle.name)]
        self.nearest: defaultdict[str, float] = defaultdict(lambda: REACH)
        self.sense()
        self.keeper.announce("drive", profile.control_period, False)

    def sense(self) -> None:
        """The gate hears of the arm as it is."""
        observation = self.world.observe(color=False)
        now, stamp, tcp = self._now, round(self._now * 1e9), observation.tcp
        self.joints, self.tcp = observation.joints, tcp
        self.surroundings.facts = Facts(
            now,
            stamp,
            pose=(*tcp.position.tolist(), *tcp.quaternion.tolist()),
            pose_stamp=stamp,
            pose_frame=self.profile.frame,
            joints=tuple(observation.joints.tolist()),
            joints_stamp=stamp,
            wrench=tuple(observation.wrench.tolist()),
            wrench_stamp=stamp,
            mode=2,
            mode_at=now,
            controller=True,
            controller_at=now,
            held=True,
            joy_at=now,
        )

    def step(self, action: np.ndarray) -> str:
        """One decision of the script, and a control period of the world; the check that refused it, or ""."""
        self.sense()
        self.keeper.heartbeat("drive", self._now)
        ask = Ask(
            "policy", "drive", self._index, round(self._now * 1e9), self.profile.frame, tuple(action), "axis_angle"
        )
        self._index += 1
        self.surroundings.said = None
        self.keeper.step(as_message(ask))
        said = self.surroundings.said
        assert said is not None
        for _ in range(round(self.profile.control_period * PHYSICS / SLEW_STEPS)):
            self._now += SLEW_STEPS / PHYSICS
            self.sense()
            self.keeper.heartbeat("drive", self._now)
            self.keeper.tick()
            self.keeper.stream(self._now, round(self._now * 1e9))
            self._move()
        return "" if said.accepted else said.check

    def _move(self) -> None:
        robot, client = self.world.robot, self.world.client
        if self._told:
            robot.move(self._told[-1], SLEW_STEPS / PHYSICS)
            self._told.clear()
        gripper = self.keeper.state.gripper
        if gripper is not None:
            robot.grip(gripper)
        for _ in range(SLEW_STEPS):
            robot.apply()
            pb.stepSimulation(physicsClientId=client)
            self._look()

        for name, body in self._bodies.items():
            for point in pb.getClosestPoints(robot.body, body, REACH, physicsClientId=client):
                if point[3] >= 0:  # the base of the arm stands on the table
                    self.nearest[name] = min(self.nearest[name], point[8])

    def _look(self) -> None:
        """What the arm touches, by the physics engine, and its joints."""
        robot, client, limits = self.world.robot, self.world.client, self.profile.joint_limits
        for name, body in self._bodies.items():
            touching = [p for p in pb.getContactPoints(robot.body, body, physicsClientId=client) if p[3] >= 0]
            if any(point[9] > 0.0 or point[8] < 0.0 for point in touching):
                self.contacts[name] += 1
                self.detail = f"{name}: {_link(robot, touching[0][3])} at {np.round(touching[0][5], 3).tolist()}"
        joints = robot.arm_state()[0]
        room = float(np.minimum(joints - limits.low, limits.high - joints).min())
        self.nearest["joint"] = min(self.nearest["joint"], room)
        if room < 0.0:
            self.contacts["joint"] += 1
            self.detail = f"joints {np.round(joints, 3).tolist()}"


def _link(robot: Any, index: int) -> str:
    return next((name for name, number in robot.links.items() if number == index), str(index))


def scene_profile(world: World, path: Path) -> tuple[GateProfile, Box | None]:
    """The profile with the obstacle as a keep-out, and with the simulated arm's own joint limits where they are
    tighter; and the obstacle, None where the scene has none."""
    profile = load_profile(path)
    limits = JointLimits(
        tuple(np.maximum(profile.joint_limits.low, kinematics.JOINT_LOW).tolist()),
        tuple(np.minimum(profile.joint_limits.high, kinematics.JOINT_HIGH).tolist()),
    )
    profile = replace(profile, joint_limits=limits)
    if not world.scene.obstacles:
        return profile, None
    (placement,) = world.scene.obstacles
    points = object_model(placement.model).mesh.vertices + np.array([placement.x, placement.y, 0.0])
    low, high = (tuple(corner.tolist()) for corner in (points.min(axis=0), points.max(axis=0)))
    obstacle = Box(placement.model, low, high)
    return replace(profile, keep_out=(*profile.keep_out, obstacle)), obstacle


class Script:
    """What the policy does: see the module. ``random`` chooses the aim."""

    def __init__(self, goal: str, random: np.random.Generator, course: Course) -> None:
        self._goal, self._course = goal, course
        profile = course.profile
        self._most = np.array([profile.max_speed, profile.max_rotation_speed]) * profile.control_period
        self._share = 0
        self._gripper = float(random.random() < 0.5)
        low, high = np.array(profile.box.low), np.array(profile.box.high)
        self._aim = random.uniform(low, high)
        self._tilt = random.normal(size=3) * np.array([1.0, 1.0, 0.3]) * random.choice([0.0, 0.3, 0.7, 1.2])
        self._joint, self._sign = int(random.integers(7)), float(random.choice([-1.0, 1.0]))
        self._in_place = random.random() < 0.8
        self._lift = float(random.uniform(0.01, 0.14))
        self._upright = course.tcp.rotation

    def act(self, refused: str) -> np.ndarray:
        self._share = (self._share + 1) % len(SHARES) if refused else max(0, self._share - 1)
        way, turn = getattr(self, f"_at_{self._goal}")()
        most = SHARES[self._share] * self._most
        return np.concatenate([_cut(way, most[0]), _cut(turn, most[1]), [self._gripper]])

    def _at_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Down at a place on the table, the hand tilted more and more."""
        way = self._aim - self._course.tcp.position
        return np.array([0.5 * way[0], 0.5 * way[1], -1.0]), self._turn()

    def _at_joint(self) -> tuple[np.ndarray, np.ndarray]:
        """As one joint alone would move the hand; or, with the TCP kept in place, as it would turn it."""
        push = np.zeros(7)
        push[self._joint] = self._sign
        twist = jacobian_of(frames_of(self._course.joints)) @ push
        return (0.5 * (self._aim - self._course.tcp.position) if self._in_place else twist[:3]), twist[3:]

    def _at_obstacle(self) -> tuple[np.ndarray, np.ndarray]:
        box = self._course.obstacle
        assert box is not None  # the scene of this goal has one
        middle = (np.array(box.low) + np.array(box.high)) / 2.0
        middle[2] = self._lift
        return middle - self._course.tcp.position, self._turn()

    def _turn(self) -> np.ndarray:
        wanted = Rotation.from_rotvec(self._tilt) * self._upright
        return np.asarray((wanted * self._course.tcp.rotation.inv()).as_rotvec())


def _cut(vector: np.ndarray, most: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector if length <= most else vector * (most / length)


def drive(world: World, profile_path: Path, goal: str, number: int, seed: int, gated: bool = True) -> Run:
    """One run; ``gated`` False takes the limits away, to see that contact is noticed."""
    random = np.random.default_rng([seed, number])
    task = list(SIM_TASKS)[int(random.integers(len(SIM_TASKS)))]
    world.reset(task, "obstacle" if goal == "obstacle" else "clean", int(random.integers(100_000)))
    profile, obstacle = scene_profile(world, profile_path)
    if not gated:
        far = Box("box", (-9.0, -9.0, -9.0), (9.0, 9.0, 9.0))
        free = {"watch_joints": False, "watch_wrench": False, "keep_out_links": False, "keep_out": ()}
        profile = replace(profile, box=far, **free)
    course = Course(world, profile, obstacle)
    script = Script(goal, random, course)
    for _ in range(int(random.integers(0, 8))):  # a start of its own
        course.step(np.concatenate([random.uniform(-0.02, 0.02, 3), random.uniform(-0.05, 0.05, 3), [1.0]]))
    refused: Counter[str] = Counter()
    last, accepted = "", 0
    for _ in range(STEPS):
        last = course.step(script.act(last))
        refused[last] += bool(last)
        accepted += not last
    state = course.keeper.state
    return Run(
        goal,
        number,
        sum(course.contacts.values()),
        course.nearest[goal],
        dict(+refused),
        accepted,
        state.check if state.mode.name == "STOPPED" else "",
        course.detail,
    )


def report(runs: list[Run], seconds: float) -> dict[str, Any]:
    """The figures, by goal."""
    found: dict[str, Any] = {}
    for goal in GOALS:
        chosen = [run for run in runs if run.goal == goal]
        if not chosen:
            continue
        nearest = [1e3 * run.nearest for run in chosen]
        found[goal] = {
            "runs": len(chosen),
            "stopped_before_contact": sum(not run.contacts and bool(run.refused) for run in chosen),
            "nearest": {"min": round(min(nearest), 1), "median": round(float(np.median(nearest)), 1)},
            "unit": "mrad" if goal == "joint" else "mm",
            "refused": dict(sum((Counter(run.refused) for run in chosen), Counter())),
        }
    stopped = sum(not run.contacts and bool(run.refused) for run in runs)
    return {"runs": len(runs), "stopped_before_contact": stopped, "goals": found, "seconds": round(seconds, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="runs; the goals take turns")
    parser.add_argument("--goal", choices=GOALS, help="this goal only")
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=Path, default=_paths.ROOT / "launch/params/gate_supervised.yaml")
    parser.add_argument("--without-gate", action="store_true", help="without its limits: contact must be noticed")
    arguments = parser.parse_args()
    console, runs, began = Console(stderr=True), [], time.monotonic()
    with World(WorldConfig(image_size=16, physics_rate=PHYSICS)) as world:
        numbers = range(arguments.first, arguments.first + arguments.n)
        for number in track(numbers, "runs", console=console, disable=not console.is_terminal):
            goal = arguments.goal or GOALS[number % len(GOALS)]
            run = drive(world, arguments.profile, goal, number, arguments.seed, gated=not arguments.without_gate)
            runs.append(run)
            if run.contacts or not run.refused:
                console.print(json.dumps(asdict(run)), markup=False, highlight=False, soft_wrap=True)
    found = report(runs, time.monotonic() - began)
    found["met"] = found["stopped_before_contact"] == len(runs)
    print(json.dumps(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
