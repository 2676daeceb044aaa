"""What the gate's checker holds against one moment and one motion: the limits of a profile, judged by its own means."""

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


class Rules:
    """Judges by ``limits`` (see ``limits_of``); what it returns is wrong, one line each."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.limits = limits
        self.fixed = [(name, np.array(b["low"]), np.array(b["high"])) for name, b in limits["keep_out"].items()]
        self.spheres = [(s["link"], np.array(s["centre"]), float(s["radius"])) for s in limits["link_spheres"]]

    def unsafe(self, facts: Facts) -> list[str]:
        """Why nothing may move at this moment."""
        limits, wrong = self.limits, []
        patience = limits["state_timeout"] + ROUNDING
        if facts.pose is None or (facts.stamp - facts.pose_stamp) * 1e-9 > patience:
            wrong.append("the measured TCP is unknown")
        if (limits["watch_joints"] or limits["keep_out_links"]) and (
            facts.joints is None or (facts.stamp - facts.joints_stamp) * 1e-9 > patience
        ):
            wrong.append("the joints are unknown")
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

    def motion(self, ask: Ask, facts: Facts, start: Array, target: Array, period: float) -> list[str]:
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
        if self.limits["shorten_steps"]:
            whole = turned(ask.action, ask.rotation, 1.0).magnitude()
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

    def apart(self, one: Array, other: Array) -> bool:
        gap = float(np.linalg.norm(one[:3] - other[:3]))
        return gap > self.limits["anchor_gap"] or angle_between(one[3:], other[3:]) > self.limits["anchor_gap_rotation"]


def gap(one: Array, other: Array) -> float:
    return max(float(np.linalg.norm(one[:3] - other[:3])), angle_between(one[3:], other[3:]))


def _way(start: Array, end: Array) -> Array:
    """(6,): metres, and the rotation vector in the base frame, that lead from one pose to the other."""
    turn = Rotation.from_quat(end[3:]) * Rotation.from_quat(start[3:]).inv()
    return np.concatenate([end[:3] - start[:3], turn.as_rotvec()])
