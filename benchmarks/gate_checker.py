"""A second opinion on the gate: whether what it let pass is within the limits of a profile.

It shares no code with the gate: it reads the YAML itself, has its own arithmetic (``arm_geometry``), and keeps its own
account of who drives, what was accepted last and what the arm was told last. It never says that a step should have
passed: about a gate that refuses everything it finds nothing.

Poses are arrays (7,): position m, quaternion x, y, z, w; base frame. Times: ``now`` s on the watchdogs' clock,
stamps ns of ROS time.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from arm_geometry import Array, angle_between, box_distance, placed, reached, turned, way_touches
from scipy.spatial.transform import Rotation

Box = tuple[str, Array, Array]
"""Name, low and high corner (3,) metres."""
FOLLOWING = (1, 2)
"""Modes of the robot in which it follows a controller: idle and move."""
STOPS = (4, 5)
"""Reflex and user stop."""
PROPER = ("stopped", "episode", "order", "operator", "frame", "finite", "rotation", "age")
"""Checks that say that a step is none to look at."""
MOTION = ("speed", "box", "keep_out", "joints", "links", "dead_man")
LINEAR = 0.01
"""Metres and radians by which a prediction of the arm to first order may differ from one solved to the end."""
ROUNDING = 1e-6
"""Metres, radians, seconds: what two correct computations of the same number may differ by."""


@dataclass(frozen=True)
class Ask:
    """One step as it was sent. ``source``: policy, teleop or homing; ``index``: step or sequence number."""

    source: str
    episode: str
    index: int
    stamp: int
    frame: str
    action: tuple[float, ...]
    rotation: str


@dataclass(frozen=True)
class Facts:
    """What is true, or what the gate was told, at one moment. None: never heard."""

    now: float
    stamp: int
    pose: tuple[float, ...] | None = None
    pose_stamp: int = 0
    pose_frame: str = ""
    joints: tuple[float, ...] | None = None
    joints_stamp: int = 0
    wrench: tuple[float, ...] | None = None
    wrench_stamp: int = 0
    mode: int | None = None
    mode_at: float | None = None
    controller: bool | None = None
    controller_at: float | None = None
    held: bool = False
    joy_at: float | None = None
    boxes: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = ()
    boxes_stamp: int | None = None


@functools.cache
def limits_of(profile: Path) -> dict[str, Any]:
    """The profile's numbers, as they stand in its file."""
    return dict(yaml.safe_load(Path(profile).read_text(encoding="utf-8")))


class Checker:
    """Follows one stream of events; ``accepted`` and ``told`` return what is wrong, one line each.

    ``limits``: see ``limits_of``."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.limits = limits
        self.driver = "policy"
        self.episode, self.next = "", 0
        self.reference: Array | None = None
        self.target: Array | None = None
        self.setpoint: Array | None = None
        self.resting = True
        """Nothing has been told since an episode or a drive began."""
        self.begins: Array | None = None
        """The arm's place when a drive began, where the set point may go on from it."""
        self.told_at = -math.inf
        self.last_step = -math.inf
        self.beat = -math.inf
        self.stopped, self.stopped_at = False, -math.inf
        self.fixed = [(name, np.array(b["low"]), np.array(b["high"])) for name, b in limits["keep_out"].items()]
        self.spheres = [(s["link"], np.array(s["centre"]), float(s["radius"])) for s in limits["link_spheres"]]

    # -- what happened ---------------------------------------------------------------------------------------------

    def announced(self, episode: str) -> None:
        if not self.stopped:
            self.episode, self.next = episode, 0
            self._forget()

    def ended(self, episode: str) -> None:
        if not self.stopped and episode == self.episode:
            self.episode = ""
            self._forget()

    def _forget(self) -> None:
        """A policy's target is its episode's; an operator keeps driving."""
        if self.driver == "policy":
            self.reference = self.target = None
            self.resting = True

    def heartbeat(self, episode: str, now: float) -> None:
        if not (episode and self.episode and episode != self.episode):
            self.beat = now

    def halted(self, now: float) -> None:
        """The gate says that it has stopped."""
        if not self.stopped:
            self.stopped, self.stopped_at, self.target, self.resting = True, now, None, True

    def was_reset(self, facts: Facts) -> list[str]:
        """The gate says that it is reset."""
        wrong = [] if self.stopped else ["reset of a gate that had not stopped"]
        since = facts.now - self.stopped_at
        if since < self.limits["reset_cooldown"] - ROUNDING:
            wrong.append(f"reset {since:.3f} s after the stop, the cool-down is {self.limits['reset_cooldown']} s")
        limits, force = self.limits, facts.wrench or (0.0,) * 6
        if limits["watch_robot_mode"] and facts.mode in STOPS:
            wrong.append(f"reset in robot mode {facts.mode}")
        if limits["controller"] and facts.controller is False:
            wrong.append("reset with an inactive controller")
        if limits["watch_wrench"] and not math.hypot(*force[:3]) <= limits["max_force"] + ROUNDING:
            wrong.append(f"reset under {math.hypot(*force[:3])} N")
        self.stopped, self.episode, self.driver = False, "", "policy"
        self.reference = self.target = None
        return wrong

    # -- judgements of the gate --------------------------------------------------------------------------------------

    def accepted(self, ask: Ask, facts: Facts, target: Array) -> list[str]:
        """The gate accepted ``ask`` and means the arm to go to ``target`` (7,)."""
        operator = ask.source != "policy"
        wrong = [f"accepted while {reason}" for reason in self._unsafe(facts)]
        wrong += self._integrity(ask, facts, operator)
        if wrong:
            return wrong
        assert facts.pose is not None
        measured = np.array(facts.pose)
        period = self.limits["operator_period" if operator else "control_period"]
        if operator:
            self._taken(ask, facts)
        else:
            self.next, self.last_step = ask.index + 1, facts.now
        start = measured if self.reference is None or self._apart(self.reference, measured) else self.reference
        if self.resting:
            # a drive begins where the last one ended, or at the arm where that has been moved since
            if self.setpoint is None:
                self.setpoint = measured
            elif self._apart(self.setpoint, measured):
                self.begins = measured
            self.resting = False
        wrong = self._motion(ask, facts, start, target, period)
        self.reference = self.target = target
        return wrong

    def handed_back(self) -> None:
        """The gate says that the policy may drive again."""
        self.driver, self.reference, self.target, self.resting = "policy", None, None, True

    def refused(self, ask: Ask, facts: Facts, check: str) -> None:
        """A step that was refused although it was proper counts: an operator's takes over, and a policy's that was
        refused for its motion or for the dead-man's switch keeps the timer of steps quiet."""
        if ask.source == "policy":
            if check not in ("stopped", "episode", "order"):
                self.next = ask.index + 1
            if check in MOTION:
                self.last_step = facts.now
        elif check not in PROPER:
            self._taken(ask, facts)

    def _taken(self, ask: Ask, facts: Facts) -> None:
        if self.driver != ask.source:
            self.driver, self.reference, self.target = ask.source, None, None
        self.last_step = facts.now

    # -- what the arm is told --------------------------------------------------------------------------------------

    def told(self, setpoint: Array, facts: Facts) -> list[str]:
        """The set point (7,) that goes to the controller at ``facts.now``."""
        before, self.setpoint = self.setpoint, setpoint.copy()
        if self.begins is not None and not self.stopped:
            if before is not None and _gap(setpoint, self.begins) < _gap(setpoint, before):
                before = self.begins
            self.begins = None
        since, self.told_at = facts.now - self.told_at, facts.now
        wrong = []
        if not (np.isfinite(setpoint).all() and abs(np.linalg.norm(setpoint[3:]) - 1.0) < 1e-3):
            return [f"told {setpoint.tolist()}: no pose"]
        if before is None:
            return [f"told {setpoint[:3].tolist()} before any step was accepted"]
        measured = None if facts.pose is None else np.array(facts.pose)
        if self.stopped:
            stays = np.abs(setpoint - before).max() <= ROUNDING
            fresh = (
                -self.limits["ahead_margin"] <= (facts.stamp - facts.pose_stamp) * 1e-9 <= self.limits["state_timeout"]
            )
            at_arm = fresh and measured is not None and _gap(setpoint, measured) <= ROUNDING
            return wrong if stays or at_arm else [f"told {setpoint[:3].tolist()} when stopped"]
        moved, turned_by = float(np.linalg.norm(setpoint[:3] - before[:3])), angle_between(setpoint[3:], before[3:])
        if moved <= ROUNDING and turned_by <= ROUNDING:
            return wrong
        wrong += [f"moved by {moved:.4g} m while {reason}" for reason in self._unsafe(facts)]
        wrong += self._silent(facts, moved)
        room = max(since, 1.0 / self.limits["slew_rate"]) if since < math.inf else 1.0 / self.limits["slew_rate"]
        if moved > self.limits["slew_speed"] * room + ROUNDING:
            wrong.append(f"set point moved {moved:.5f} m in {room:.4f} s, slew_speed {self.limits['slew_speed']} m/s")
        if turned_by > self.limits["slew_rotation_speed"] * room + ROUNDING:
            wrong.append(f"set point turned {turned_by:.5f} rad in {room:.4f} s")
        if self.target is None:
            wrong.append(f"moved by {moved:.4g} m, and nobody's step is being followed")
        else:
            left, was = np.linalg.norm(setpoint[:3] - self.target[:3]), np.linalg.norm(before[:3] - self.target[:3])
            if left > was + ROUNDING:
                wrong.append(f"set point moved away from its target, from {was:.5f} to {left:.5f} m")
        return wrong

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _unsafe(self, facts: Facts) -> list[str]:
        """Why nothing may move at this moment."""
        limits, wrong = self.limits, []
        patience = limits["state_timeout"] + ROUNDING
        if self.stopped:
            wrong.append("stopped")
        if limits["dead_man"]["required"]:
            if not facts.held:
                wrong.append("the dead-man's switch is released")
            elif facts.joy_at is None or facts.now - facts.joy_at > limits["dead_man"]["timeout"] + ROUNDING:
                wrong.append("Joy is silent")
        if limits["watch_robot_mode"]:
            if facts.mode not in FOLLOWING:
                wrong.append(f"the robot is in mode {facts.mode}")
            if facts.mode is None or facts.mode_at is None or facts.now - facts.mode_at > patience:
                wrong.append("the robot's mode is unknown")
        if limits["watch_wrench"]:
            if facts.wrench is None or (facts.stamp - facts.wrench_stamp) * 1e-9 > patience:
                wrong.append("the wrench is unknown")
            elif not math.hypot(*facts.wrench[:3]) <= limits["max_force"] + ROUNDING:
                wrong.append(f"the force is {math.hypot(*facts.wrench[:3])} N")
            elif not math.hypot(*facts.wrench[3:]) <= limits["max_torque"] + ROUNDING:
                wrong.append(f"the torque is {math.hypot(*facts.wrench[3:])} Nm")
        if limits["controller"]:
            if facts.controller is not True:
                wrong.append("the controller is not active")
            elif (
                facts.controller_at is None or facts.now - facts.controller_at > limits["controller_timeout"] + ROUNDING
            ):
                wrong.append("the controller manager is silent")
        if limits["moving_keep_out"] and (
            facts.boxes_stamp is None
            or (facts.stamp - facts.boxes_stamp) * 1e-9 > limits["keep_out_timeout"] + ROUNDING
        ):
            wrong.append("the moving keep-outs are unknown")
        return wrong

    def _integrity(self, ask: Ask, facts: Facts, operator: bool) -> list[str]:
        limits, wrong = self.limits, []
        if operator:
            period = limits["operator_period"]
        else:
            period = limits["control_period"]
            if self.driver != "policy":
                wrong.append("a policy's step while the operator drives")
            if not self.episode or ask.episode != self.episode:
                wrong.append(f"episode {ask.episode!r}, armed for {self.episode!r}")
            if ask.index != self.next:
                wrong.append(f"step {ask.index}, expected {self.next}")
            if facts.now - self.beat > limits["heartbeat_timeout"] + ROUNDING:
                wrong.append(f"no heartbeat for {facts.now - self.beat:.3f} s")
        if ask.frame != limits["frame"]:
            wrong.append(f"frame {ask.frame!r}")
        if len(ask.action) != 7 or not np.isfinite(np.array(ask.action, dtype=float)).all():
            wrong.append(f"action {ask.action}")
        if ask.rotation not in ("euler_xyz", "axis_angle"):
            wrong.append(f"rotation {ask.rotation!r}")
        age = (facts.stamp - ask.stamp) * 1e-9
        if not -limits["ahead_margin"] - ROUNDING <= age <= period + limits["age_margin"] + ROUNDING:
            wrong.append(f"answers an observation {age:.3f} s old")
        if facts.pose is None or not np.isfinite(facts.pose).all():
            return [*wrong, f"measured TCP {facts.pose}"]
        if abs(math.hypot(*facts.pose[3:]) - 1.0) > 1.1e-3:
            wrong.append(f"measured quaternion {facts.pose[3:]}")
        if facts.pose_frame != limits["frame"]:
            wrong.append(f"measured TCP in frame {facts.pose_frame!r}")
        age = (facts.stamp - facts.pose_stamp) * 1e-9
        if not -limits["ahead_margin"] - ROUNDING <= age <= limits["state_timeout"] + ROUNDING:
            wrong.append(f"measured TCP is {age:.3f} s old")
        return wrong

    def _silent(self, facts: Facts, moved: float) -> list[str]:
        limits, wrong = self.limits, []
        silence = facts.now - self.last_step
        if self.driver == "policy":
            if silence > limits["control_period"] + limits["hold_margin"] + ROUNDING:
                wrong.append(f"moved by {moved:.4g} m, {silence:.3f} s after the policy's last step")
            if facts.now - self.beat > limits["heartbeat_timeout"] + ROUNDING:
                wrong.append(f"moved by {moved:.4g} m, {facts.now - self.beat:.3f} s after the last heartbeat")
        elif silence > limits["operator_timeout"] + ROUNDING:
            wrong.append(f"moved by {moved:.4g} m, {silence:.3f} s after the operator's last step")
        return wrong

    def _motion(self, ask: Ask, facts: Facts, start: Array, target: Array, period: float) -> list[str]:
        limits = self.limits
        if not (np.isfinite(target).all() and abs(np.linalg.norm(target[3:]) - 1.0) < 1e-3):
            return [f"target {target.tolist()}: no pose"]
        wrong = []
        way, turn = float(np.linalg.norm(target[:3] - start[:3])), angle_between(start[3:], target[3:])
        if way > limits["max_speed"] * period + ROUNDING:
            wrong.append(f"{way / period:.4f} m/s, max_speed {limits['max_speed']}")
        if turn > limits["max_rotation_speed"] * period + ROUNDING:
            wrong.append(f"{turn / period:.4f} rad/s, max_rotation_speed {limits['max_rotation_speed']}")
        wrong += self._direction(ask, start, target, way, turn)
        low, high = limits["box"]["low"], limits["box"]["high"]
        for axis, value, least, most in zip("xyz", target, low, high, strict=False):
            if not least - ROUNDING <= value <= most + ROUNDING:
                wrong.append(f"target {axis} = {value}, box {least} to {most}")
        boxes = list(self.fixed)
        if limits["moving_keep_out"]:
            boxes += [(name, np.array(lo), np.array(hi)) for name, lo, hi in facts.boxes]
        margin = limits["keep_out_margin"]
        for name, lo, hi in ((name, lo - margin, hi + margin) for name, lo, hi in boxes):
            inside = box_distance(start[:3], lo, hi) == 0.0
            if not inside and way_touches(start[:3], target[:3], lo + ROUNDING, hi - ROUNDING):
                wrong.append(f"the way of the TCP goes through {name}")
        if limits["watch_joints"] or limits["keep_out_links"]:
            wrong += self._arm(facts, _way(np.array(facts.pose), target), boxes)
        return wrong

    def _direction(self, ask: Ask, start: Array, target: Array, way: float, turn: float) -> list[str]:
        """The target is where the action leads, or short of it on the same way where the profile shortens."""
        asked = np.array(ask.action[:3])
        length = float(np.linalg.norm(asked))
        share = 1.0
        whole = turned(ask.action, ask.rotation, 1.0).magnitude()
        if self.limits["shorten_steps"]:
            share = min(1.0, way / length if length > ROUNDING else turn / whole if whole > ROUNDING else 1.0)
        expected = (turned(ask.action, ask.rotation, share) * Rotation.from_quat(start[3:])).as_quat()
        off, skew = float(np.linalg.norm(start[:3] + share * asked - target[:3])), angle_between(expected, target[3:])
        if off > 1e-5 or skew > 1e-4:
            return [f"target is {off:.6f} m and {skew:.6f} rad beside the way of the action (share {share:.4f})"]
        return []

    def _arm(self, facts: Facts, way: Array, boxes: list[Box]) -> list[str]:
        """The joints that the way (6,) from the measured TCP asks for, solved to the end, and what they bring where."""
        limits = self.limits
        if facts.joints is None or len(facts.joints) != 7 or not np.isfinite(facts.joints).all():
            return [f"measured joints {facts.joints}"]
        if not (facts.stamp - facts.joints_stamp) * 1e-9 <= limits["state_timeout"] + ROUNDING:
            return ["the joints are unknown"]
        now = np.array(facts.joints)
        there, exact = reached(now, way)
        if not exact:
            return []  # near a singularity: what the arm would do is anybody's guess, and no limit of the profile
        wrong = []
        if limits["watch_joints"]:
            wrong += self._ends(now, there)
        if limits["keep_out_links"]:
            wrong += self._links(now, there, boxes)
        return wrong

    def _ends(self, now: Array, there: Array) -> list[str]:
        limits, wrong = self.limits, []
        low, high = (np.array(limits["joint_limits"][end]) for end in ("low", "high"))
        margin = limits["joint_limit_margin"]
        for joint in range(7):
            over = max(low[joint] + margin - there[joint], there[joint] - high[joint] + margin)
            was = max(low[joint] + margin - now[joint], now[joint] - high[joint] + margin)
            if over > LINEAR and over > was + ROUNDING:
                wrong.append(
                    f"joint {joint + 1} goes to {there[joint]:.4f} rad, {over:.4f} into the margin of its limit"
                )
        step = float(np.abs(there - now).max())
        if step > limits["max_joint_step"] + 3.0 * LINEAR:
            wrong.append(f"a joint turns by {step:.4f} rad, max_joint_step {limits['max_joint_step']}")
        return wrong

    def _links(self, now: Array, there: Array, boxes: list[Box]) -> list[str]:
        wrong, margin, floor = [], self.limits["keep_out_margin"], self.limits["box"]["low"][2]
        before, after = placed(self.spheres, now), placed(self.spheres, there)
        for (link, _, radius), was, goes in zip(self.spheres, before, after, strict=True):
            if floor - (goes[2] - radius) > LINEAR and goes[2] < was[2]:
                wrong.append(f"a sphere of {link} goes {floor - goes[2] + radius:.4f} m below the floor")
            for name, low, high in boxes:
                room, had = (box_distance(c, low, high) - radius - margin for c in (goes, was))
                if room < -LINEAR and room < had:
                    wrong.append(f"a sphere of {link} goes {-room:.4f} m into {name}")
        return wrong

    def _apart(self, one: Array, other: Array) -> bool:
        gap = float(np.linalg.norm(one[:3] - other[:3]))
        return gap > self.limits["anchor_gap"] or angle_between(one[3:], other[3:]) > self.limits["anchor_gap_rotation"]


def _gap(one: Array, other: Array) -> float:
    return max(float(np.linalg.norm(one[:3] - other[:3])), angle_between(one[3:], other[3:]))


def _way(start: Array, end: Array) -> Array:
    """(6,): metres, and the rotation vector in the base frame, that lead from one pose to the other."""
    turn = Rotation.from_quat(end[3:]) * Rotation.from_quat(start[3:]).inv()
    return np.concatenate([end[:3] - start[:3], turn.as_rotvec()])
