"""The set point that the controller is told: on a straight way from where it was to the gate's target, in small steps.

A target jumps by up to a control period's motion. What is published moves there evenly over that period, never faster
than the profile's slew limits: if the gate dies, the arm goes on to the last small step and no further.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from grape_episode.geometry import Pose
from grape_robot import quaternions
from grape_robot.integrate import anchored, apart, placed
from grape_robot.profile import GateProfile


@dataclass(frozen=True)
class SetPoint:
    """``pose`` is published, ``target`` is where it goes until ``arrival``; ``moved`` is when it moved last.

    Base frame; seconds on the watchdogs' clock."""

    pose: Pose
    target: Pose
    arrival: float
    moved: float


def at(pose: Pose, now: float) -> SetPoint:
    """A set point that stands at ``pose``."""
    return SetPoint(pose, pose, now, now)


def begin(profile: GateProfile, last: SetPoint | None, measured: Pose, now: float) -> SetPoint:
    """Where a drive begins: where the last one ended, or at the measured TCP where the arm has been moved since."""
    if last is None:
        return at(measured, now)
    there = placed(measured)
    start = anchored(placed(last.pose), there, profile.anchor_gap, profile.anchor_gap_rotation)
    return at(measured if start is there else last.pose, now)


def aim(point: SetPoint, target: Pose, seconds: float, now: float) -> SetPoint:
    """Goes to ``target`` and arrives ``seconds`` after ``now``, or later where the slew limits ask for it."""
    # where the clock has gone back, time that has passed once does not count twice
    return SetPoint(point.pose, target, now + seconds, max(now, point.moved))


def freeze(point: SetPoint) -> SetPoint:
    """Stays where it is."""
    return replace(point, target=point.pose)


def advance(profile: GateProfile, point: SetPoint, now: float) -> SetPoint:
    """The set point at ``now``. It moves by at most the slew limits times the time since it moved last.

    Of that time no more than 1 / ``slew_rate`` counts: after a pause it does not jump."""
    seconds = min(max(now - point.moved, 0.0), 1.0 / profile.slew_rate)
    here, there = placed(point.pose), placed(point.target)
    distance, angle = apart(here, there)
    left = point.arrival - point.moved
    part = seconds / left if left > seconds else 1.0
    if distance * part > profile.slew_speed * seconds:
        part = profile.slew_speed * seconds / distance
    if angle * part > profile.slew_rotation_speed * seconds:
        part = profile.slew_rotation_speed * seconds / angle
    moved = max(now, point.moved)
    if part >= 1.0 or point.target is point.pose:
        return SetPoint(point.target, point.target, point.arrival, moved)
    place = point.pose.position + part * (point.target.position - point.pose.position)
    return SetPoint(
        Pose(place, np.array(quaternions.between(here[1], there[1], part))), point.target, point.arrival, moved
    )
