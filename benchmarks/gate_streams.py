"""Streams of events for the gate: an ordinary control loop in which everything goes wrong, now and then, at random.

An event is a dictionary that JSON holds (not-a-number included), so that a failing stream can be cut down, printed
and played again. The arm of a stream follows what the gate tells it, so that the gate's own way is what is tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from arm_geometry import Array, frames_of, jacobian_of, pose_of, vector_between
from gate_rules import Ask
from scipy.spatial.transform import Rotation

Event = dict[str, Any]
REST = np.array([0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4])
NAN, INF = math.nan, math.inf
ODD = (NAN, INF, -INF, 1e300, -1e300, 5e-324, -0.0, 1e-310, 1e16, 0.0)
STAMPS = (0, -1, 1, 2**63 - 1, -(2**62))
FAULTS = ("pose_jump", "pose_nan", "pose_frame", "pose_stale", "pose_none", "pose_ahead", "bad_quaternion")
FAULTS += ("joints_limit", "joints_nan", "joints_stale", "joints_none", "joints_short")
FAULTS += ("force", "torque", "wrench_nan", "wrench_stale", "wrench_none")
FAULTS += ("reflex", "user_stop", "mode_odd", "mode_silent", "mode_none")
FAULTS += ("controller_off", "controller_silent", "controller_none")
FAULTS += ("released", "flicker", "joy_lost", "joy_never", "boxes_near", "boxes_silent", "boxes_odd", "no_beat")
TURNS = 60
"""Control periods of one stream."""


class Stream:
    """One stream. ``events`` yields; ``follow`` tells it what the gate said, so that the arm moves."""

    def __init__(self, limits: dict[str, Any], seed: int, number: int) -> None:
        self.limits = limits
        self.random = np.random.default_rng([seed, number])
        self.now = float(self.random.uniform(10.0, 1e5))
        self.stamp = int(self.random.integers(10**9, 2 * 10**18))
        self._stand(REST + self.random.normal(0.0, 0.08, 7))
        self.faults: dict[str, int] = {}
        self.calm = self.random.random() < 0.5
        self.episode, self.index, self.sequence = "", 0, 0
        self.stopped = False
        self.operator = 0
        self.reach: Array | None = None

    def follow(self, setpoint: Array | None, stopped: bool) -> None:
        """What the gate told the arm last, and whether it has stopped."""
        self.stopped, self.reach = stopped, setpoint

    def events(self) -> Iterator[Event]:
        chance = self.random.random
        yield self._announce()
        for _ in range(TURNS):
            self._upset()
            if self.stopped:
                yield from self._recover()
            if chance() < 0.01:
                yield {"do": "end", "episode": self._pick(self.episode, "another", "")}
            if chance() < 0.02 or not self.episode:
                yield self._announce()
            yield from self._wait()
            if "no_beat" not in self.faults:
                yield {"do": "beat", "episode": self._rarely(self.episode, "another", ""), "now": self.now}
            for _ in range(self._copies()):
                yield from self._act()

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _announce(self) -> Event:
        self.episode, self.index = f"e{int(self.random.integers(10**6))}", 0
        return {"do": "announce", "episode": self.episode}

    def _recover(self) -> Iterator[Event]:
        if self.random.random() < 0.5:
            self.faults.clear()
            self._pass(float(self.random.choice([0.0, 0.5, 1.5, 4.0])))
        yield {"do": "reset", "facts": self._facts()}
        if self.random.random() < 0.8:
            yield self._announce()

    def _wait(self) -> Iterator[Event]:
        """Time passes until the next step, and the gate's timer sees some of it."""
        period = self.limits["operator_period" if self.operator else "control_period"]
        kind = self.random.random()
        if kind < 0.92:
            length = period * float(self.random.uniform(0.7, 1.05))
        elif kind < 0.96:
            length = float(self.random.choice([0.0, 1e-9, period + 0.1, period + 0.1001, period + 0.2, 1.0]))
        elif kind < 0.98:
            length = float(self.random.exponential(0.5))
        else:
            length = 0.0
            self.stamp -= int(self.random.integers(0, 10**10))
        ticks = int(self.random.choice([1, 2, 3, 6]))
        for _ in range(ticks):
            self._pass(length / ticks)
            yield {"do": "tick", "facts": self._facts()}
        self._move()

    def _act(self) -> Iterator[Event]:
        if self.operator:
            self.operator -= 1
            if self.operator == 0 and self.random.random() < 0.8:
                yield {"do": "hand_back", "source": "teleop", "facts": self._facts()}
                return
        elif self.random.random() < 0.02:
            self.operator = int(self.random.integers(1, 12))
        yield {"do": "step", "ask": dict(vars(self._ask())), "facts": self._facts()}

    def _copies(self) -> int:
        return 1 if self.random.random() < 0.97 else int(self.random.integers(0, 6))

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.stamp += round(seconds * 1e9)

    def _move(self) -> None:
        """The arm goes most of the way to what it was told: one step of resolved motion."""
        if self.reach is None or not np.isfinite(self.reach).all():
            return
        frames = self.frames
        wanted = Rotation.from_quat(self.reach[3:]).as_matrix()
        error = np.concatenate([self.reach[:3] - frames[-1][:3, 3], vector_between(frames[-1][:3, :3], wanted)])
        if float(np.abs(error).max()) > 0.3:
            return
        matrix = jacobian_of(frames)
        step = matrix.T @ np.linalg.solve(matrix @ matrix.T + 1e-4 * np.eye(6), 0.8 * error)
        self._stand(self.joints + np.clip(step, -0.2, 0.2))

    def _stand(self, joints: Array) -> None:
        self.joints, self.frames = joints, frames_of(joints)
        self.pose = pose_of(self.frames)

    def _upset(self) -> None:
        """Faults come and go."""
        self.faults = {name: left - 1 for name, left in self.faults.items() if left > 1}
        if self.random.random() < (0.03 if self.calm else 0.12):
            self.faults[str(self.random.choice(FAULTS))] = int(self.random.integers(1, 5))
        if self.random.random() < 0.01:
            self._stand(self._anywhere())

    def _anywhere(self) -> Array:
        """Joints all over their range, or near one end of one of them."""
        low, high = (np.array(self.limits["joint_limits"][end]) for end in ("low", "high"))
        if self.random.random() < 0.3:
            return np.asarray(self.random.uniform(low, high))
        joints = REST + self.random.normal(0.0, 0.15, 7)
        joint, end = int(self.random.integers(7)), self.random.random() < 0.5
        margin = self.limits["joint_limit_margin"] * float(self.random.uniform(-0.5, 2.0))
        joints[joint] = high[joint] - margin if end else low[joint] + margin
        return joints

    # -- what is asked and what is true -----------------------------------------------------------------------------

    def _ask(self) -> Ask:
        operator = self.operator > 0
        source = self._rarely("teleop", "homing", "ghost") if operator else "policy"
        if operator:
            self.sequence += 1
        index = self.sequence if operator else self.index
        index = self._rarely(index, index, index - 1, index + 1, 0, 2**32 - 1, index + 7)
        if not operator and index == self.index:
            self.index += 1
        stamp = self.stamp - int(self.random.integers(0, 10**8))
        return Ask(
            source=source,
            episode=self._rarely("" if operator else self.episode, "another", "", self.episode),
            index=index,
            stamp=self._rarely(stamp, stamp - 10**9, stamp + 10**9, *STAMPS),
            frame=self._rarely(self.limits["frame"], "", "world", "camera_color_optical_frame"),
            action=self._action(operator),
            rotation=self._rarely(self._pick("euler_xyz", "axis_angle"), "quaternion", ""),
        )

    def _action(self, operator: bool) -> tuple[float, ...]:
        random, limits = self.random, self.limits
        period = limits["operator_period" if operator else "control_period"]
        most = np.array([limits["max_speed"], limits["max_rotation_speed"]]) * period
        kind = random.random()
        way, turn = (direction / np.linalg.norm(direction) for direction in random.normal(size=(2, 3)))
        size = random.uniform(0.0, 0.9, 2)
        if kind < 0.12:
            size = random.choice([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 1.0 + 1e-7, 1.001, 1.2, 5.0, 100.0], 2)
        elif kind < 0.5:
            way = self._aimed()
        values = np.concatenate([size[0] * most[0] * way, size[1] * most[1] * turn, [random.random()]])
        if 0.5 < kind < 0.56:
            values[int(random.integers(7))] = random.choice(ODD)
        elif 0.56 < kind < 0.58:
            values = random.choice(ODD, 7)
        elif 0.58 < kind < 0.59:
            values[3:6] = random.choice([math.pi, -math.pi, math.nextafter(math.pi, 4), 3.0, 6.2, 0.0], 3)
        elif 0.59 < kind < 0.60:
            values = np.resize(values, int(random.choice([0, 1, 6, 8, 70])))
        elif 0.60 < kind < 0.62:
            values = np.zeros(7)
        return tuple(values.tolist())

    def _aimed(self) -> Array:
        """A direction at what the arm must not touch: a face of the box, a keep-out, a joint's end."""
        kind, here = self.random.random(), self.pose[:3]
        boxes = [(np.array(b["low"]), np.array(b["high"])) for b in self.limits["keep_out"].values()]
        if kind < 0.4:
            axis, sign = int(self.random.integers(3)), self.random.choice([-1.0, 1.0])
            way = np.zeros(3)
            way[axis] = sign
        elif kind < 0.7 and boxes:
            low, high = boxes[int(self.random.integers(len(boxes)))]
            way = self.random.uniform(low, high) - here
        else:
            push = np.zeros(7)
            push[int(self.random.integers(7))] = self.random.choice([-1.0, 1.0])
            way = (jacobian_of(self.frames) @ push)[:3]
        length = float(np.linalg.norm(way))
        return way / length if length > 1e-9 else np.array([1.0, 0.0, 0.0])

    def _facts(self) -> dict[str, Any]:
        faults, random = self.faults, self.random
        now, stamp = self.now, self.stamp
        lag, late = int(random.integers(0, 2 * 10**7)), 10**9
        pose, frame, pose_stamp = self.pose.copy(), self.limits["frame"], stamp - lag
        joints, force = self.joints.copy(), random.normal(0.0, 1.5, 6) * np.array([1, 1, 1, 0.1, 0.1, 0.1])
        facts: dict[str, Any] = {"now": now, "stamp": stamp}
        if "pose_jump" in faults:
            pose[:3] += random.normal(0.0, 0.2, 3)
        if "pose_nan" in faults:
            pose[int(random.integers(7))] = random.choice(ODD)
        if "bad_quaternion" in faults:
            pose[3:] = random.choice([0.0, 1.0, 0.7, NAN, -1.0], 4)
        if "pose_frame" in faults:
            frame = self._pick("", "world", "fr3_link8")
        pose_stamp += late if "pose_ahead" in faults else -late if "pose_stale" in faults else 0
        if "pose_none" not in faults:
            facts |= {"pose": pose.tolist(), "pose_stamp": pose_stamp, "pose_frame": frame}
        if "joints_nan" in faults:
            joints[int(random.integers(7))] = random.choice(ODD)
        if "joints_limit" in faults:
            joints[int(random.integers(7))] += random.choice([-3.0, 3.0])
        if "joints_none" not in faults:
            told = joints.tolist()[: 5 if "joints_short" in faults else 7]
            facts |= {"joints": told, "joints_stamp": stamp - lag - (late if "joints_stale" in faults else 0)}
        if "force" in faults:
            force[:3] = random.normal(0.0, 1.0, 3) * random.choice([30.0, 300.0, 1e30])
        if "torque" in faults:
            force[3:] = random.normal(0.0, 1.0, 3) * random.choice([5.0, 50.0, 1e30])
        if "wrench_nan" in faults:
            force[int(random.integers(6))] = random.choice([NAN, INF, -INF])
        if "wrench_none" not in faults:
            facts |= {"wrench": force.tolist(), "wrench_stamp": stamp - lag - (late if "wrench_stale" in faults else 0)}
        mode = 4 if "reflex" in faults else 5 if "user_stop" in faults else 2
        if "mode_none" not in faults:
            mode = int(random.choice([0, 1, 3, 6, 7, 255])) if "mode_odd" in faults else mode
            facts |= {"mode": mode, "mode_at": now - (1.0 if "mode_silent" in faults else 0.01)}
        if "controller_none" not in faults:
            age = 10.0 if "controller_silent" in faults else 0.1
            facts |= {"controller": "controller_off" not in faults, "controller_at": now - age}
        held = not ("released" in faults or ("flicker" in faults and random.random() < 0.5))
        if "joy_never" not in faults:
            facts |= {"held": held, "joy_at": now - (1.0 if "joy_lost" in faults else 0.01)}
        facts |= self._boxes(stamp, late)
        return facts

    def _boxes(self, stamp: int, late: int) -> dict[str, Any]:
        random = self.random
        if not self.limits["moving_keep_out"]:
            return {}
        centre = self.pose[:3] + random.normal(0.0, 0.02 if "boxes_near" in self.faults else 0.5, 3)
        low, high = (centre - 0.05).tolist(), (centre + 0.05).tolist()
        if "boxes_odd" in self.faults:
            low[int(random.integers(3))] = float(random.choice(ODD))
        stamp -= late if "boxes_silent" in self.faults else 0
        return {"boxes": [["hand", low, high]], "boxes_stamp": stamp}

    def _pick(self, *values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def _rarely(self, usual: Any, *others: Any) -> Any:
        return usual if self.random.random() > 0.012 else self._pick(*others)
